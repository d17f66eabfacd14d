"""Examples: regions found by pixel or image, and each bad line refused by number."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pipeline.config.section import ConfigError
from pipeline.curation.examples import (
    Example,
    add_examples,
    examples_path,
    read_examples,
    taught_classes,
)
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import IMAGES
from pipeline.io.tables import write_parquet

CROPS = pd.DataFrame(
    {
        "sample_id": ["a", "a", "b", "c"],
        "x0": [0, 20, 5, 0],
        "y0": [0, 0, 5, 0],
        "side": [30, 30, 10, 64],
        "area_px": [9, 9, 9, 0],
    }
)


@pytest.fixture
def paths(tmp_path: Path) -> ArtifactPaths:
    paths = ArtifactPaths(tmp_path)
    ids = ["a", "b", "c"]
    frame = pd.DataFrame({"sample_id": ids, "path": [f"t/{i}.png" for i in ids], "part": ids})
    frame = frame.assign(split="query", height=64, width=64, channels=3)
    write_parquet(paths.manifest("m") / "images.parquet", frame, IMAGES)
    return paths


def write(paths: ArtifactPaths, *lines: str) -> Path:
    path = examples_path(paths, "m")
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_pixel_is_of_the_nearest_square_and_says_more_than_the_image(
    paths: ArtifactPaths,
) -> None:
    write(paths, "path,class,x,y", "t/a.png,dent,,", "t\\a.png,scratch,29,10", "t/b.png,normal,,")
    taught = taught_classes(paths, "m", CROPS)
    assert taught.names == ("normal", "dent", "scratch")
    assert taught.classes.tolist() == [1, 2, 0, -1]
    write(paths, "path,class", "t/a.png,dent")
    assert taught_classes(paths, "m", CROPS).classes.tolist() == [1, 1, -1, -1]


def test_without_a_file_nothing_is_taught(paths: ArtifactPaths) -> None:
    assert not taught_classes(paths, "m", CROPS).known.any()


def test_an_example_without_a_region_is_named(
    paths: ArtifactPaths, caplog: pytest.LogCaptureFixture
) -> None:
    write(paths, "path,class,x,y", "t/a.png,dent,60,60", "t/c.png,dent,,")
    assert not taught_classes(paths, "m", CROPS).known.any()
    assert "2 examples have no region, as t/c.png" in caplog.text


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,label", "t/a.png,dent"], "the first line must be"),
        (["path,class,x,y", "t/a.png,dent,3,"], "line 2: x and y must be pixels"),
        (["path,class,x,y", "t/a.png,dent,-3,4"], "line 2: x and y must be pixels"),
        (["path,class", "t/a.png"], "line 2: give path, class, not"),
        (["path,class", "", "t/a.png,"], "line 3: '' is not a name"),
        (["path,class", "t/a.png,d", "t/a.png,e"], "line 3: 't/a.png' is there twice"),
        (["path,class", "t/z.png,dent"], "has no image 't/z.png'"),
        (["path,class,x,y", "t/b.png,d,6,6", "t/b.png,e,7,7"], "this region is 'd'"),
    ],
)
def test_a_line_that_does_not_fit_is_refused(
    paths: ArtifactPaths, lines: list[str], message: str
) -> None:
    path = write(paths, *lines)
    with pytest.raises(ConfigError, match=message) as error:
        taught_classes(paths, "m", CROPS)
    assert str(path) in str(error.value)


def test_examples_are_added_and_replaced(paths: ArtifactPaths) -> None:
    path = examples_path(paths, "m")
    assert add_examples(path, [Example("t/b, c.png", "dent"), Example("t/a.png", "x", (3, 4))]) == 2
    assert add_examples(path, [Example("t/b, c.png", "scratch")]) == 2
    assert read_examples(path) == [
        Example("t/a.png", "x", (3, 4)),
        Example("t/b, c.png", "scratch"),
    ]
