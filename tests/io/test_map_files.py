from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.io.map_files import MapFileError, find_maps, mask_to_map, read_map, resize_map


def _touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


QUERIES = ["test/hole/000.png", "test/good/000.png", "test/hole/001.png"]


def _names(found: list[Path], root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in found]


@pytest.mark.parametrize(
    "names",
    [
        ["bottle/test/hole/000.tiff", "bottle/test/good/000.npy", "bottle/test/hole/001.png"],
        ["bottle/hole/000.tiff", "bottle/good/000.npz", "bottle/hole/001.PNG"],
        ["test/hole/000_map.png", "good/000_mask.png", "001.bmp"],
    ],
)
def test_join_by_relative_name(tmp_path, names):
    _touch(tmp_path, *names, "bottle.txt", ".hidden/000.png")
    assert _names(find_maps(tmp_path, "bottle", QUERIES), tmp_path) == names


def test_order_is_that_of_the_queries(tmp_path):
    _touch(tmp_path, "a.png", "b.png", "c.png")
    found = find_maps(tmp_path, "x", ["c.jpg", "a.jpg", "b.jpg"])
    assert _names(found, tmp_path) == ["c.png", "a.png", "b.png"]


def test_a_whole_path_wins_over_an_ending_and_an_exact_name_over_a_tag(tmp_path):
    _touch(tmp_path, "0.png", "a/0.png", "1_mask.png", "1.png")
    found = find_maps(tmp_path, "x", ["0.jpg", "a/0.jpg", "1.jpg", "1_mask.jpg"])
    assert _names(found, tmp_path) == ["0.png", "a/0.png", "1.png", "1_mask.png"]


def test_maps_of_known_other_images_are_passed_over(tmp_path):
    _touch(tmp_path, "test/a/0.npy", "train/good/0.npy", "test/combined/5.npy")
    others = ["train/good/0.png", "test/combined/5.png"]
    found = find_maps(tmp_path, "x", ["test/a/0.png"], others)
    assert _names(found, tmp_path) == ["test/a/0.npy"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["hole/000.npy", "good/000.npy"], "1 images without a map: test/hole/001.png"),
        ([*QUERIES, "test/hole/002.png"], "1 maps of no image: test/hole/002.png"),
        ([*QUERIES, "other/hole/001.png"], "1 maps of no image: other/hole/001.png"),
        ([*QUERIES[1:], "000.png"], "1 maps that fit several images: 000.png"),
        ([*QUERIES, "test/good/000.npy"], "test/good/000.npy and test/good/000.png"),
    ],
)
def test_maps_that_do_not_fit(tmp_path, names, message):
    _touch(tmp_path, *names)
    with pytest.raises(MapFileError, match=message):
        find_maps(tmp_path, "bottle", QUERIES)


def test_only_the_first_few_are_listed(tmp_path):
    with pytest.raises(MapFileError, match=r"12 images without a map: 0.png, .*4.png and 7 more"):
        find_maps(tmp_path, "x", [f"{k}.png" for k in range(12)])


def test_queries_that_share_a_name_and_missing_folders(tmp_path):
    with pytest.raises(MapFileError, match="only in suffix"):
        find_maps(tmp_path, "x", ["a.png", "a.jpg"])
    with pytest.raises(MapFileError, match="precomputed_root"):
        find_maps(tmp_path / "none", "x", ["a.png"])


VALUES = np.array([[0, 1, 2], [3, 200, 255]], np.uint8)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("8.png", VALUES, VALUES / 255),
        ("16.png", VALUES.astype(np.uint16) * 257, VALUES / 255),
        ("16.tiff", VALUES.astype(np.uint16) * 257, VALUES / 255),
        ("float.tiff", VALUES.astype(np.float32) * 1.5 - 9, VALUES * 1.5 - 9),
        ("colour.png", np.repeat(VALUES[..., None], 3, 2), VALUES / 255),
    ],
)
def test_images(tmp_path, name, values, expected):
    assert cv2.imwrite(str(tmp_path / name), values)
    out = read_map(tmp_path / name)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, expected, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint8, np.bool_])
def test_arrays(tmp_path, dtype):
    values = VALUES.astype(dtype)
    np.save(tmp_path / "a.npy", values[None, ..., None])
    np.savez(tmp_path / "b.npz", anything=values)
    for name in ("a.npy", "b.npz"):
        np.testing.assert_array_equal(read_map(tmp_path / name), values.astype(np.float32))


def _bad(path: Path, kind: str) -> None:
    contents = {
        "nan.npy": np.array([[0, np.nan]]),
        "inf.npy": np.array([[0, np.inf]]),
        "huge.npy": np.array([[0, 1e300]]),
        "shape.npy": np.zeros((3, 2, 2)),
        "empty.npy": np.zeros((0, 2)),
        "text.npy": np.array([["a"]]),
        "object.npy": np.array([[None]], object),
    }
    if kind in contents:
        np.save(path, contents[kind], allow_pickle=True)
    elif kind == "nan.tiff":
        cv2.imwrite(str(path), np.array([[0, np.nan]], np.float32))
    elif kind == "two.npz":
        np.savez(path, a=np.zeros((2, 2)), b=np.zeros((2, 2)))
    elif kind == "colour.png":
        Image.new("RGB", (2, 2), (1, 2, 3)).save(path)
    else:
        path.write_bytes(b"" if kind == "zero.png" else b"not a map")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan.npy", "NaN or infinity"),
        ("nan.tiff", "NaN or infinity"),
        ("inf.npy", "NaN or infinity"),
        ("huge.npy", "NaN or infinity"),
        ("shape.npy", r"shape \(3, 2, 2\)"),
        ("empty.npy", "shape"),
        ("text.npy", "type"),
        ("object.npy", "not a readable map"),
        ("two.npz", "2 arrays"),
        ("colour.png", "colours"),
        ("zero.png", "not a readable map"),
        ("text.png", "not a readable map"),
        ("text.npz", "not a readable map"),
    ],
)
def test_broken_maps_are_named(tmp_path, kind, message):
    path = tmp_path / kind
    _bad(path, kind)
    with pytest.raises(MapFileError, match=message) as caught:
        read_map(path)
    assert str(path) in str(caught.value)


def test_resize_map():
    values = np.array([[0, 1], [0, 1]], np.float32)
    assert resize_map(values, 2) is values
    out = resize_map(values, 4)
    np.testing.assert_allclose(out, np.tile([0, 0.25, 0.75, 1], (4, 1)))


@settings(max_examples=60)
@given(h=st.integers(1, 40), w=st.integers(1, 40), size=st.integers(1, 20), seed=st.integers(0, 99))
def test_resize_mask_equals_the_rule(h, w, size, seed):
    mask = np.random.default_rng(seed).random((h, w)) < 0.1

    def sources(length: int, k: int) -> list[int]:
        if length >= size:
            return [i for i in range(length) if k * length // size <= i < (k + 1) * length // size]
        return [int((k + 0.5) * length / size)]

    out = mask_to_map(mask, size)
    assert out.dtype == np.float32
    for y in range(size):
        for x in range(size):
            assert out[y, x] == mask[np.ix_(sources(h, y), sources(w, x))].any()
    assert out.any() == mask.any()


def test_a_hairline_survives():
    mask = np.zeros((700, 300), bool)
    mask[351] = True
    assert mask_to_map(mask, 64)[32].all()
