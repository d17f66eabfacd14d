"""Dark, overexposed, blurred and repeated images are told, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.commands.image_health import MOST, sentences, unhealthy


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(12):
        pixels = np.full((300, 400, 3), 120.0) + rng.normal(scale=25, size=(300, 400, 1))
        cv2.rectangle(pixels, (20 * i, 15 * i), (20 * i + 80, 15 * i + 60), (250, 250, 250), -1)
        cv2.imwrite(str(tmp_path / f"{i:02d}.png"), pixels.clip(0, 255).astype(np.uint8))
    return tmp_path


def found(root: Path) -> dict[str, list[str]]:
    paths = [path.name for path in root.iterdir()]
    return {what: list(bad) for what, bad in unhealthy(root, paths, 16).items()}


def write(root: Path, name: str, pixels: np.ndarray) -> None:
    cv2.imwrite(str(root / name), pixels)


def test_a_healthy_set_is_not_complained_about(root: Path) -> None:
    assert found(root) == {}


def test_each_fault_is_told(root: Path) -> None:
    first, second = (cv2.imread(str(root / f"0{i}.png")) for i in (1, 2))
    write(root, "dark.png", first // 10)
    write(root, "light.png", 245 + second // 30)
    write(root, "soft.png", cv2.GaussianBlur(first[::-1].copy(), (0, 0), 8))
    write(root, "twice.png", np.clip(first.astype(int) + 1, 0, 255).astype(np.uint8))
    (root / "broken.png").write_bytes(b"no image")
    told = found(root)
    assert told["dark"] == ["dark.png"]
    assert told["overexposed"] == ["light.png"]
    assert "soft.png" in told["blurred"]
    assert set(told["blurred"]) <= {"soft.png", "dark.png", "light.png"}
    assert told["the same again"] == ["twice.png"]


def test_sentences_name_a_few() -> None:
    (line,) = sentences({"dark": ["a", "b", "c", "d"]}, MOST + 1)
    assert line == f"4 of {MOST} looked at look dark: a, b, c and 1 more"
