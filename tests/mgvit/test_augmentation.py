"""Views: against PIL, geometry shared by image and mask, one generator per view."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from pipeline.config.params import Views
from pipeline.io.networks import augmentations
from pipeline.mgvit.augmentation import (
    Augmentations,
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    adjust_sharpness,
    augmented_view,
    photometric,
    plain_view,
    resized_side,
    view_rng,
)

OFF = Augmentations(**{field.name: False for field in fields(Augmentations)})
EVERY = augmentations(Views())
GEOMETRIC = replace(OFF, crop=True, flip=True, rotate=True)


def picture(side: int = 256, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (adjust_brightness, ImageEnhance.Brightness),
        (adjust_contrast, ImageEnhance.Contrast),
        (adjust_saturation, ImageEnhance.Color),
        (adjust_sharpness, ImageEnhance.Sharpness),
    ],
)
@pytest.mark.parametrize("factor", [0.3, 1.0, 1.7])
def test_photometric_steps_are_pils(ours, theirs, factor: float) -> None:
    image = picture()
    expected = np.asarray(theirs(Image.fromarray(image)).enhance(factor)).astype(int)
    actual = ours(image, factor).astype(int)
    assert abs(actual - expected)[1:-1, 1:-1].max() <= 2


def test_posterize_keeps_the_high_bits() -> None:
    image = picture()
    seen = set()
    for seed in range(12):
        done = photometric(image, np.random.default_rng(seed), replace(OFF, posterize=True))
        matches = [
            bits
            for bits in (5, 6, 7, 8)
            if (done == np.asarray(ImageOps.posterize(Image.fromarray(image), bits))).all()
        ]
        assert matches
        seen.add(matches[0])
    assert len(seen) > 1


def test_image_and_mask_move_together() -> None:
    mask = np.zeros((256, 256), np.uint8)
    mask[60:120, 100:210] = 1
    image = np.repeat(mask[..., None] * 255, 3, 2).astype(np.uint8)
    moved = set()
    for view in range(30):
        rng = view_rng(0, 0, view)
        out, grey = augmented_view(image, mask, rng, size=224, augmentations=GEOMETRIC)
        assert out.shape == (224, 224, 3)
        np.testing.assert_array_equal(out[..., 0] / 255, grey)
        moved.add(tuple(np.argwhere(grey)[0]))
    assert len(moved) > 20


@pytest.mark.parametrize("name", [field.name for field in fields(Augmentations)])
def test_each_augmentation_does_something(name: str) -> None:
    image, mask = picture(), np.zeros((256, 256), np.uint8)
    plain, _ = plain_view(image, mask, size=224)
    alone = replace(OFF, **{name: True})
    views = [
        augmented_view(image, mask, view_rng(0, 0, v), size=224, augmentations=alone)[0]
        for v in range(6)
    ]
    assert any((view != plain).any() for view in views)


def test_with_everything_off_a_view_is_the_plain_one() -> None:
    image, mask = picture(300), (picture(300, seed=1)[..., 0] > 128).astype(np.uint8)
    plain, plain_mask = plain_view(image, mask, size=112)
    view, grey = augmented_view(image, mask, view_rng(0, 0, 0), size=112, augmentations=OFF)
    np.testing.assert_array_equal(view, plain)
    np.testing.assert_array_equal(grey, plain_mask)
    assert plain.shape == (112, 112, 3)
    assert grey.dtype == np.float32
    assert 0 <= grey.min() <= grey.max() <= 1


def test_switching_one_off_leaves_the_others() -> None:
    image, mask = picture(), np.zeros((256, 256), np.uint8)
    mask[10:40, 30:90] = 1
    everything = EVERY
    _, first = augmented_view(image, mask, view_rng(1, 2, 3), size=224, augmentations=everything)
    without = replace(everything, blur=False, colour=False)
    _, second = augmented_view(image, mask, view_rng(1, 2, 3), size=224, augmentations=without)
    np.testing.assert_array_equal(first, second)


def test_a_view_depends_on_its_own_numbers_alone() -> None:
    image, mask = picture(), np.zeros((256, 256), np.uint8)

    def draw(seed: int, sample: int, view: int) -> np.ndarray:
        rng = view_rng(seed, sample, view)
        return augmented_view(image, mask, rng, size=224, augmentations=EVERY)[0]

    np.testing.assert_array_equal(draw(0, 1, 2), draw(0, 1, 2))
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
        assert (draw(0, 1, 2) != draw(*other)).any()


def test_plain_view_is_the_centre() -> None:
    assert resized_side(224) == 256
    image = picture()
    view, _ = plain_view(image, np.zeros((256, 256), np.uint8), size=224)
    np.testing.assert_array_equal(view, image[16:240, 16:240])
