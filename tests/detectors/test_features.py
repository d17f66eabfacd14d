from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.detectors import features as f
from pipeline.detectors.grids import tile_spans, tiled_grid


def test_layer_norm_is_over_the_whole_map():
    tokens = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1
    out = f.normalise_layer(tokens).numpy()
    for image, expected in zip(out, tokens.numpy(), strict=True):
        values = expected.astype(np.float64)
        np.testing.assert_allclose(
            image, (values - values.mean()) / np.sqrt(values.var() + 1e-5), atol=1e-5
        )


def test_a_constant_layer_gives_zeros():
    assert not f.normalise_layer(torch.full((1, 4, 3), 7.0)).any()


@pytest.mark.parametrize("size", [1, 3, 5])
def test_neighbourhood_mean_pads_with_zeros_and_divides_by_all(size):
    rows, columns, depth = 3, 4, 2
    tokens = np.random.default_rng(1).standard_normal((2, rows * columns, depth))
    half = size // 2
    expected = np.zeros((2, rows, columns, depth))
    maps = tokens.reshape(2, rows, columns, depth)
    for y in range(rows):
        for x in range(columns):
            for v in range(max(0, y - half), min(rows, y + half + 1)):
                for u in range(max(0, x - half), min(columns, x + half + 1)):
                    expected[:, y, x] += maps[:, v, u] / size**2
    out = f.neighbourhood_mean(torch.from_numpy(tokens), (rows, columns), size)
    np.testing.assert_allclose(out.numpy(), expected.reshape(2, -1, depth), atol=1e-12)


def test_neighbourhood_mean_refuses_even_sizes_and_wrong_grids():
    with pytest.raises(ValueError, match="odd"):
        f.neighbourhood_mean(torch.zeros(1, 4, 1), (2, 2), 2)
    with pytest.raises(ValueError, match="grid"):
        f.neighbourhood_mean(torch.zeros(1, 4, 1), (3, 2), 3)


def _encode(pixels: Tensor) -> tuple[list[Tensor], Tensor]:
    """Tokens of 2 x 2 quadrants: the mean colour, and twice as much."""
    b = len(pixels)
    tokens = torch.nn.functional.avg_pool2d(pixels, (pixels.shape[-2] // 2, pixels.shape[-1] // 2))
    tokens = tokens.permute(0, 2, 3, 1).reshape(b, 4, 3)
    return [tokens, tokens * 2 + 1], tokens.mean(1)


def _images(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.parametrize("half", [False, True])
def test_extract_keeps_order_over_batches_and_normalises_colours(half):
    images, mean, std = _images(35), [0.4, 0.5, 0.6], [0.2, 0.3, 0.1]
    calls = []
    out = f.extract(
        _encode,
        iter(images),
        35,
        (2, 2),
        mean=mean,
        std=std,
        half=half,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(16, 35), (32, 35), (35, 35)]
    assert out.grid == (2, 2)
    assert [layer.dtype for layer in out.layers] == [np.float16 if half else np.float32] * 2
    pixels = (np.stack(images) / 255 - mean) / std  # (N, 8, 8, 3)
    quadrants = pixels.reshape(35, 2, 4, 2, 4, 3).mean(axis=(2, 4)).reshape(35, 4, 3)
    np.testing.assert_allclose(out.class_tokens, quadrants.mean(1), atol=1e-5)
    expected = f.normalise_layer(torch.from_numpy(quadrants)).numpy()
    np.testing.assert_allclose(out.layers[0], expected, atol=2e-3 if half else 1e-4)


def test_extract_uses_the_given_arrays():
    made = []

    def allocate(shape, dtype):
        made.append(np.empty(shape, dtype))
        return made[-1]

    out = f.extract(_encode, _images(3), 3, (2, 2), mean=[0] * 3, std=[1] * 3, allocate=allocate)
    assert [a is b for a, b in zip(made, out.layers, strict=True)] == [True, True]


@pytest.mark.parametrize("count", [0, 2, 4])
def test_extract_refuses_a_wrong_count(count):
    with pytest.raises(ValueError, match="images"):
        f.extract(_encode, _images(3), count, (2, 2), mean=[0] * 3, std=[1] * 3)


def test_extract_refuses_tokens_that_do_not_fill_the_grid():
    with pytest.raises(ValueError, match="grid of 2 x 3"):
        f.extract(_encode, _images(3), 3, (2, 3), mean=[0] * 3, std=[1] * 3)


def _mean_of_patches(pixels: Tensor) -> tuple[list[Tensor], Tensor]:
    """Tokens of patches of 2 x 2 pixels: their mean colour, and where they lie in what is seen."""
    colours = torch.nn.functional.avg_pool2d(pixels, 2).flatten(2).transpose(1, 2)
    p = torch.arange(colours.shape[1]).view(1, -1, 1).expand(len(pixels), -1, 1)
    return [colours, p.float()], colours.mean(1)


@pytest.mark.parametrize(("tile", "tiles"), [((6, 9), 2), ((5, 8), 3), ((6, 6), 1), ((1, 2), 2)])
def test_tiles_make_one_grid_without_seams(tile, tiles):
    """What a patch shows is at its place; tiles come from the middle out."""
    rows, columns = grid = tiled_grid(tile, tiles)
    pixels = torch.rand(3, 3, 2 * rows, 2 * columns, generator=torch.Generator().manual_seed(0))
    (colours, places), heads = f.tiled(_mean_of_patches, tile, tiles, 2)(pixels)
    (expected, _), mean = _mean_of_patches(pixels)
    torch.testing.assert_close(colours, expected)
    assert places.shape == (3, rows * columns, 1)
    seen = places[0].reshape(grid)
    cut = tile_spans(tile[1], tiles)[0][1].stop
    assert seen[0, :cut].tolist() == list(range(cut))
    if tiles == 1:
        torch.testing.assert_close(heads, mean)
    else:
        assert seen[0, cut] == cut - tile_spans(tile[1], tiles)[1][0]


def test_resize_averages_when_shrinking_and_keeps_the_right_size():
    image = np.zeros((8, 4, 3), np.uint8)
    image[:4] = 100
    image[0, 0] = 228  # one of the 2 x 1 pixels of the first output pixel
    small = f.resize(image, (4, 4))
    assert small.shape == (4, 4, 3)
    assert small[0, 0, 0] == 164
    assert small[1, 1, 0] == 100
    assert small[3, 3, 0] == 0
    assert f.resize(image, (12, 16)).shape == (12, 16, 3)
    assert f.resize(image, (8, 4)) is image


def test_upsample_keeps_patch_centres_in_place():
    scores = np.array([[0.0, 1.0, 2.0, 3.0]], np.float32)
    out = f.upsample(scores, (2, 2), 6)
    assert out.shape == (1, 6, 6)
    np.testing.assert_allclose(out[0, [1, 1, 4, 4], [1, 4, 1, 4]], [0, 1, 2, 3], atol=1e-6)
    assert out.min() == 0
    assert out.max() == 3


def test_upsample_of_a_wide_grid_is_relative_to_the_sides():
    scores = np.arange(12, dtype=np.float32)[None]
    out = f.upsample(scores, (2, 6), 12)  # patches of 6 x 2 map pixels
    assert out.shape == (1, 12, 12)
    np.testing.assert_allclose(out[0, :3, 4:6].mean(), 2, atol=1e-5)
    assert out[0, 0, 0] == pytest.approx(0)
    assert out[0, -1, -1] == pytest.approx(11)
