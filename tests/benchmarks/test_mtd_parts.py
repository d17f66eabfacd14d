"""Tiles of MTD by the numbers of their frames."""

from __future__ import annotations

from pathlib import Path

from benchmarks.mtd_parts import main, tiles
from pipeline.io.parts import parts_by_file


def name(exposure: int, frame: int) -> str:
    return f"MT_Free/Imgs/exp{exposure}_num_{frame}.jpg"


def test_neighbouring_frames_of_rising_exposure_are_a_tile() -> None:
    first = [name(1, 500), name(2, 530), name(4, 820)]
    again = [name(1, 840), name(2, 900)]  # the exposure starts anew
    later = [name(3, 1201)]  # 301 frames on
    found = tiles([*later, *again, *first, "MT_Free/Imgs/other.jpg"])
    assert found == {
        **dict.fromkeys(first, "500"),
        **dict.fromkeys(again, "840"),
        **dict.fromkeys(later, "1201"),
    }


def test_the_file_is_one_of_manifest_part(tmp_path: Path) -> None:
    paths = [name(1, 9), name(2, 30), name(1, 60)]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    main(tmp_path, tmp_path / "tiles.csv")
    found = parts_by_file(tmp_path / "tiles.csv", paths)
    assert found == {paths[0]: "9", paths[1]: "9", paths[2]: "60"}
