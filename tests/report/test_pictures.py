"""Pictures of the report: what is drawn, where, and at what size."""

from __future__ import annotations

import base64
import re

import cv2
import numpy as np
import pytest

from pipeline.palette import class_rgb
from pipeline.report.pictures import (
    attention_thumbnail,
    boxed,
    crop_thumbnail,
    heat_overlay,
    outline_path,
    outlined,
    panels,
    shrunk,
    shrunk_mask,
    tinted,
    webp_uri,
)

IMAGE = np.full((64, 96, 3), 120, np.uint8)


def decoded(uri: str) -> np.ndarray:
    content = base64.b64decode(uri.split(";base64,")[1])
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def box(shape: tuple[int, int] = (64, 96)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[20:30, 40:60] = 1
    return mask


def test_outline_is_drawn_around_the_mask_alone() -> None:
    drawn = outlined(IMAGE, box())
    changed = (drawn != IMAGE).any(-1)
    assert changed[20, 40:60].all()
    assert not changed[22:28, 42:58].any()
    assert not changed[:19].any()
    assert not (outlined(IMAGE, np.zeros((64, 96), np.uint8)) != IMAGE).any()


def test_a_tint_covers_the_mask_alone() -> None:
    changed = (tinted(IMAGE, box(), colour=(255, 0, 0)) != IMAGE).any(-1)
    np.testing.assert_array_equal(changed, box() != 0)
    inner = tinted(IMAGE, box(), colour=(255, 0, 0), opacity=0.5)[25, 50]
    assert inner.tolist() == [187, 60, 60]


def test_heat_is_hot_where_the_map_is() -> None:
    heat = np.zeros((8, 8), np.float32)
    heat[:, 4:] = 5.0  # clipped
    brightness = heat_overlay(IMAGE, heat).mean(-1)
    assert brightness[:, 80].min() > brightness[:, 10].max() + 50


def test_attention_is_shown_beside_the_view_scaled_to_its_largest_weight() -> None:
    image = np.full((224, 224, 3), 120, np.uint8)
    attention = np.zeros((14, 14), np.float16)
    attention[3, 10], attention[9, 2] = 0.01, 0.005
    picture = decoded(attention_thumbnail(image, np.zeros((224, 224), np.bool_), attention))
    assert picture.shape == (112, 224, 3)
    left, right = picture[:, :112].mean(-1), picture[:, 112:].mean(-1)
    assert np.abs(left - 120).max() < 10
    patches = right.reshape(14, 8, 14, 8)[:, 2:6, :, 2:6].mean((1, 3))
    assert patches.argmax() == 3 * 14 + 10
    assert patches[9, 2] > np.median(patches) + 20
    plain = np.zeros((14, 14), np.float32)
    plain[5, 5] = 0.5
    both = decoded(attention_thumbnail(image, np.zeros((224, 224), np.bool_), attention, plain))
    assert both.shape == (112, 336, 3)
    assert np.abs(both[:, :224].astype(int) - picture).max() < 40  # the same but for JPEG
    third = both[:, 224:].mean(-1)
    assert third[44, 44] > third[76, 20] + 50
    nothing = attention_thumbnail(image, np.zeros((224, 224), np.bool_), 0 * attention)
    assert decoded(nothing).shape == (112, 224, 3)


def test_squares_have_the_colour_of_their_class_and_are_cut_at_the_edge() -> None:
    image = np.full((130, 260, 3), 120, np.uint8)
    picture = decoded(boxed(image, [(-20, -20, 80), (150, 40, 60)], [1, 2])).astype(int)
    assert picture.shape == (130, 260, 3)
    np.testing.assert_allclose(picture[30, 58:60].mean(0), class_rgb(1), atol=45)
    np.testing.assert_allclose(picture[98:100, 190].mean(0), class_rgb(2), atol=45)
    assert np.abs(picture[70:90, 160:190] - 120).max() < 12  # inside a square
    assert np.abs(picture[110:, 80:] - 120).max() < 12


def test_squares_follow_a_change_of_size() -> None:
    picture = decoded(boxed(np.full((500, 1000, 3), 120, np.uint8), [(400, 100, 200)], [3]))
    assert picture.shape == (130, 260, 3)
    changed = np.argwhere(np.abs(picture.astype(int) - 120).max(-1) > 30)
    np.testing.assert_allclose(changed.min(0), (26, 104), atol=2)
    np.testing.assert_allclose(changed.max(0), (78, 156), atol=2)


@pytest.mark.parametrize("size", [(40, 40), (300, 200)])
def test_small_regions_survive_a_change_of_size(size: tuple[int, int]) -> None:
    mask = np.zeros((100, 100), np.bool_)
    mask[33, 51] = True
    small = shrunk_mask(mask, size)
    assert small.shape == size[::-1]
    rows, columns = np.nonzero(small)
    assert len(rows)
    assert abs(rows.mean() / size[1] - 0.335) < 0.02
    assert abs(columns.mean() / size[0] - 0.515) < 0.02


@pytest.mark.parametrize(
    ("shape", "expected"), [((64, 96), (133, 200)), ((300, 3), (200, 2)), ((9000, 3), (200, 1))]
)
def test_the_longer_side_decides(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    assert shrunk(np.zeros((*shape, 3), np.uint8), 200).shape[:2] == expected


def test_pictures_have_the_size_they_should() -> None:
    assert decoded(crop_thumbnail(IMAGE, np.zeros((64, 96), np.uint8))).shape == (112, 112, 3)
    wide = panels(IMAGE, np.zeros((32, 32), np.float32), [np.zeros((32, 32), np.bool_)] * 3)
    assert [decoded(uri).shape for uri in wide] == [(133, 200, 3)] * 5


def test_panels_show_each_mask_and_the_truth_on_the_image_alone() -> None:
    empty = np.zeros((64, 96), np.bool_)
    truth = np.zeros((128, 192), np.bool_)  # of another size than the map
    truth[40:60, 80:120] = True
    uris = panels(IMAGE, np.zeros((64, 96), np.float32), [box() != 0, empty], truth=truth)
    plain, _, first, second = (decoded(uri).astype(int) for uri in uris)
    y, x = 52, 104  # the middle of the box at 200 / 96
    assert first[y, x, 0] - first[y, x, 1] > 40
    assert np.abs(second - 120).max() < 10
    edge = plain[40:64, 82:128]
    assert (edge[..., 1] - edge[..., 0]).max() > 60  # green
    assert np.abs(plain[:30] - 120).max() < 10


def test_outline_path_is_in_pixels_of_the_picture_and_keeps_holes() -> None:
    mask = np.zeros((40, 80), np.bool_)
    assert outline_path(mask, (160, 120)) == ""
    mask[10:30, 20:60] = True
    mask[15:25, 30:50] = False
    found = outline_path(mask, (160, 120))
    assert found.count("M") == found.count("Z") == 2
    points = np.array(re.findall(r"(\d+) (\d+)", found), int)
    # outer pixel centres: columns 20.5 to 59.5, rows 10.5 to 29.5, times 2 and 3
    assert (points.min(0).tolist(), points.max(0).tolist()) == ([41, 32], [119, 88])


def test_webp_is_the_image_nearly() -> None:
    uri = webp_uri(IMAGE)
    assert uri.startswith("data:image/webp;base64,")
    assert np.abs(decoded(uri).astype(int) - IMAGE).max() < 10
