from __future__ import annotations

from itertools import pairwise

import pytest

from pipeline.detectors import grids


def test_the_aspect_of_a_set_is_that_of_most_of_its_images():
    assert grids.median_aspect([(64, 64)] * 3) == 1
    assert grids.median_aspect([(100, 300), (300, 100), (100, 200), (100, 200), (1, 9)]) == 0.5
    assert grids.median_aspect([(200, 300)]) == 0.667
    with pytest.raises(ValueError, match="no median"):
        grids.median_aspect([])


def test_the_side_of_a_set_is_that_of_squares_as_large():
    assert grids.median_side([(100, 400)]) == 200
    assert grids.median_side([(100, 400), (30, 30), (640, 640)]) == 200


@pytest.mark.parametrize(
    ("smallest", "image_side", "patches"),
    [
        (0.032, 640, 32),  # the default, whatever the images
        (0.032, 4000, 32),
        (0.5, 4000, 32),  # 448 px at least
        (0.02, 300, 32),  # and where there is nothing to see beyond
        (0.02, 4000, 50),  # one patch wide
        (0.01, 640, 45),  # no more pixels than there are
    ],
)
def test_the_smallest_defect_is_one_patch_wide(smallest: float, image_side: int, patches: int):
    assert grids.choose_side(smallest, image_side, 14) == patches


@pytest.mark.parametrize(("side", "tiles"), [(4, 1), (32, 1), (46, 1), (47, 2), (88, 2), (89, 3)])
def test_tiles_have_644_pixels_at_most(side: int, tiles: int):
    assert grids.choose_tiles(side, 14) == tiles
    assert grids.tile_side(side, tiles) * 14 <= 644
    tile = grids.tile_side(side, tiles)
    assert grids.tiled_grid((tile, tile), tiles)[0] >= side


@pytest.mark.parametrize("tile", [1, 2, 5, 8, 24])
@pytest.mark.parametrize("tiles", [1, 2, 3])
def test_tiles_are_cut_at_the_middle_of_what_tiles_share(tile: int, tiles: int):
    spans = grids.tile_spans(tile, tiles)
    size = grids.tiled_grid((tile, tile), tiles)[0]
    assert [i for _, span in spans for i in range(span.start, span.stop)] == list(range(size))
    for start, span in spans:
        assert start <= span.start < span.stop <= start + tile
    for (start, span), (after, _) in pairwise(spans):
        shared = start + tile - after
        assert shared == min(4, tile // 2)
        assert span.stop == after + shared // 2  # both tiles give half of what they share
