"""Parts that file names suggest."""

from __future__ import annotations

import re

import pytest

from pipeline.commands.part_hints import suggest_parts

VIEWS = [f"{i:04d}_{view}.png" for i in range(6) for view in ("top", "side", "back")]
COUNTED = [f"line/b{i}-{k}.jpg" for i in range(6) for k in range(1, 5)]
IN_FOLDERS = [f"part{i}/{k}.png" for i in range(12) for k in range(3)]
TWICE = [f"test/{label}/{i:03d}_{k}.png" for label in "ab" for i in range(5) for k in (1, 2)]


@pytest.mark.parametrize(
    ("paths", "n_parts", "same", "other"),
    [
        (VIEWS, 6, ("0001_top.png", "0001_back.png"), "0002_top.png"),
        (COUNTED, 6, ("line/b2-1.jpg", "line/b2-4.jpg"), "line/b3-1.jpg"),
        (IN_FOLDERS, 12, ("part1/0.png", "part1/2.png"), "part10/0.png"),
        (TWICE, 10, ("test/a/001_1.png", "test/a/001_2.png"), "test/b/001_1.png"),
    ],
    ids=["views", "counters", "folders", "stems of two folders"],
)
def test_names_that_group(
    paths: list[str], n_parts: int, same: tuple[str, str], other: str
) -> None:
    hint = suggest_parts(paths, label_folders=False)
    assert hint is not None
    assert (hint.n_parts, hint.n_images) == (n_parts, len(paths))
    pattern = re.compile(hint.expression)
    first, second, third = (pattern.search(path) for path in (*same, other))
    assert first is not None
    assert second is not None
    assert third is not None
    assert first[1] == second[1] != third[1]
    assert set(hint.examples) <= set(paths)
    assert hint.expression in hint.todo()


@pytest.mark.parametrize(
    "paths",
    [
        [f"test/{label}/{i:03d}.png" for label in ("good", "bent") for i in range(10)],
        [f"{label}_{i:02d}.png" for label in ("crack", "hole", "good") for i in range(10)],
        [f"exp{i % 6 + 1}_num_{1000 + 31 * i}.jpg" for i in range(60)],
        [f"IMG_{i}.png" for i in range(40)],
        [f"{label}{k}/{i}.png" for k, label in enumerate(("bent", "cut")) for i in range(5)],
        ["a_1.png"],
        [],
    ],
    ids=["mvtec", "labels", "mtd", "one series", "two folders", "one image", "none"],
)
def test_names_that_do_not(paths: list[str]) -> None:
    assert suggest_parts(paths, label_folders=False) is None


def test_folders_of_labels_are_no_parts() -> None:
    assert suggest_parts(IN_FOLDERS, label_folders=True) is None
