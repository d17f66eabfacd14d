"""Region merging against loops written from Eq. 6."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.params import Merge
from pipeline.regions.merging import (
    class_probabilities,
    defect_class_set,
    merge_regions,
    part_verdicts,
    region_class_set,
    region_weights,
)

OPTIONS = Merge()
RULE = {"rule": OPTIONS.weights, "temperature": OPTIONS.temperature}
INDEX = np.array([2, 0, 2, 1, 2, 0])
AREAS = np.array([400.0, 2500.0, 90_000.0, 0.0, 10_000.0, 2600.0])
SCORES = np.array([0.5, 0.0, 0.25, 0.9, 0.25, 0.0])


def probabilities(seed: int = 0, rows: int = 6) -> np.ndarray:
    p = np.random.default_rng(seed).random((rows, 4))
    return p / p.sum(1, keepdims=True)


def naive_weights(rule: str, temperature: float) -> list[float]:
    weights = []
    for k, image in enumerate(INDEX):
        mates = [m for m in range(len(INDEX)) if INDEX[m] == image]
        if rule == "area":
            part = {m: math.exp(math.sqrt(AREAS[m]) / temperature) for m in mates}
        elif rule == "score" and any(SCORES[m] for m in mates):
            part = {m: SCORES[m] for m in mates}
        else:
            part = dict.fromkeys(mates, 1.0)
        weights.append(part[k] / sum(part.values()))
    return weights


# Probabilities


@pytest.mark.parametrize("n_base", [0, 2])
def test_class_probabilities_are_renormalised_without_base_classes(n_base: int) -> None:
    logits = np.random.default_rng(0).uniform(-1, 1, (5, 6)).astype(np.float32)
    got = class_probabilities(logits, n_base, temperature=0.2)
    for row, p in zip(logits.tolist(), got, strict=True):
        e = [math.exp(v / 0.2) for v in row]
        every = [v / sum(e) for v in e][n_base:]
        assert p.tolist() == pytest.approx([v / sum(every) for v in every])


def test_class_probabilities_neither_overflow_nor_vanish() -> None:
    # A softmax over all classes first would leave 0 / 0 for the novel ones.
    got = class_probabilities([[1e4, -1e4, -1e4 + 0.1], [0.0, 1e4, -1e4]], 1, temperature=0.1)
    assert got[0].tolist() == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e)])
    assert got[1].tolist() == [1.0, 0.0]


def test_class_probabilities_of_temperature_and_empty_input() -> None:
    got = class_probabilities([[0.0, 0.1]], 0, temperature=0.1)
    assert got[0, 1] / got[0, 0] == pytest.approx(math.e)
    assert class_probabilities(np.zeros((0, 5)), 2, temperature=0.1).shape == (0, 3)


def test_class_probabilities_need_a_novel_class() -> None:
    with pytest.raises(ValueError, match="no novel class"):
        class_probabilities(np.zeros((2, 3)), 3, temperature=0.1)


# Weights and merging


@pytest.mark.parametrize("rule", ["area", "mean", "score"])
@pytest.mark.parametrize("temperature", [50.0, 100.0])
def test_merging_equals_the_loops(rule: str, temperature: float) -> None:
    options = {"rule": rule, "temperature": temperature, "n_images": 3}
    alpha = naive_weights(rule, temperature)
    weights = region_weights(INDEX, AREAS, SCORES, **options)
    assert weights.tolist() == pytest.approx(alpha)
    p = probabilities()
    expected = np.zeros((3, 4))
    for k, image in enumerate(INDEX):
        for c in range(4):
            expected[image, c] += alpha[k] * p[k, c]
    np.testing.assert_allclose(merge_regions(p, INDEX, AREAS, SCORES, **options), expected)


def test_rule_and_temperature_matter() -> None:
    def merged(rule: str, temperature: float = 100.0) -> np.ndarray:
        return merge_regions(
            probabilities(), INDEX, AREAS, SCORES, rule=rule, temperature=temperature, n_images=3
        )

    results = [merged("area"), merged("area", 50.0), merged("mean"), merged("score")]
    for i in range(4):
        for j in range(i):
            assert np.abs(results[i] - results[j]).max() > 1e-3


def test_area_weights_do_not_overflow() -> None:
    weights = region_weights([0, 0], [1e8, 0.0], [0, 0], rule="area", temperature=1.0, n_images=1)
    assert weights.tolist() == [1.0, 0.0]


def test_one_region_decides_alone() -> None:
    p = probabilities(1, 1)
    for rule in ("area", "mean", "score"):
        merged = merge_regions(
            p, [0], [0.0], [0.0], rule=rule, temperature=OPTIONS.temperature, n_images=1
        )
        np.testing.assert_allclose(merged, p)


@settings(max_examples=60)
@given(st.data())
def test_merged_rows_are_distributions_whatever_the_order(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 4))
    index = np.array([*range(n), *data.draw(st.lists(st.integers(0, n - 1), max_size=8))])
    m = len(index)
    numbers = st.floats(0, 1e7, allow_subnormal=True)
    areas = np.array(data.draw(st.lists(numbers, min_size=m, max_size=m)))
    scores = np.array(data.draw(st.lists(st.floats(0, 1), min_size=m, max_size=m)))
    rule = data.draw(st.sampled_from(["area", "mean", "score"]))
    p = probabilities(m, m)
    options = {"rule": rule, "temperature": data.draw(st.floats(1, 200)), "n_images": n}
    merged = merge_regions(p, index, areas, scores, **options)
    np.testing.assert_allclose(merged.sum(1), 1)
    for image in range(n):  # inside the hull of the image's own regions
        own = p[index == image]
        assert np.all(merged[image] <= own.max(0) + 1e-12)
        assert np.all(merged[image] >= own.min(0) - 1e-12)
    order = np.array(data.draw(st.permutations(range(m))))
    shuffled = merge_regions(p[order], index[order], areas[order], scores[order], **options)
    np.testing.assert_allclose(shuffled, merged)


def test_image_without_regions_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 of 4 images have no sub-image"):
        merge_regions(probabilities(), INDEX, AREAS, SCORES, **RULE, n_images=4)
    with pytest.raises(ValueError, match="have no sub-image"):
        region_class_set([0, 1], [0, 2], n_images=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "largest"}, "unknown rule"),
        ({"temperature": 0.0}, "temperature"),
        ({"areas": np.array([1.0, -1, 1, 1, 1, 1])}, "negative or not finite"),
        ({"areas": np.array([1.0, np.nan, 1, 1, 1, 1])}, "negative or not finite"),
        ({"areas": np.ones(5)}, "values for"),
        ({"image_index": INDEX + 1}, "must lie in"),
        ({"image_index": INDEX - 1}, "must lie in"),
        ({"image_index": INDEX.astype(float)}, "integers"),
        ({"probabilities": np.ones((5, 4))}, "probabilities are"),
    ],
)
def test_bad_regions_are_refused(change: dict[str, object], message: str) -> None:
    arguments = {
        "probabilities": probabilities(),
        "image_index": INDEX,
        "areas": AREAS,
        "scores": SCORES,
        "n_images": 3,
        **RULE,
    }
    with pytest.raises(ValueError, match=message):
        merge_regions(**{**arguments, **change})


def test_region_class_set_lists_each_class_once_in_order() -> None:
    got = region_class_set([3, 0, 1, 2, 3, 0], INDEX, n_images=3)
    assert got == [[0], [2], [1, 3]]


def test_defect_class_set_leaves_normal_out() -> None:
    assert defect_class_set([[0], [0, 2], [1, 3], []]) == [[], [2], [1, 3], []]


def test_a_part_is_normal_only_if_all_its_images_are() -> None:
    probabilities = [[0.9, 0.1, 0.0], [0.8, 0.05, 0.15], [0.1, 0.5, 0.4]]
    found = part_verdicts([0, 0, 0, 2, 1, 1], [0, 0, 1, 1, 2, 2], probabilities)
    assert found.tolist() == [0, 2, 1]
