"""Fit a classifier to a set of regions and classify them: what is known as normal stays so."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

from pipeline.clustering.taught import FREE
from pipeline.config.params import Predict
from pipeline.inference import region_classes
from pipeline.inference.region_classes import Seen, classify_regions, fit_regions
from pipeline.io.region_classifier import RegionModel
from pipeline.io.schemas import CROPS

OPTIONS = Predict(normal="regions", layers=[0], dimensions=[4], extra_components=[0])


def regions() -> tuple[Seen, pd.DataFrame, np.ndarray]:
    """Return 60 regions of three kinds; those of kind 0 have an empty mask."""
    rng = np.random.default_rng(0)
    kinds = np.repeat([0, 1, 2], 20)
    pooled = rng.normal(size=(3, 1, 12))[kinds] * 3 + rng.normal(size=(60, 1, 12)) * 0.2
    rows = [(f"{i}-0", str(i), 0, 0, 0, 8, 9 * (kind > 0), 0.5) for i, kind in enumerate(kinds)]
    return Seen(pooled=pooled.astype(np.float32)), pd.DataFrame(rows, columns=CROPS.names), kinds


def test_mixtures_tell_the_rest_apart_from_what_is_known_as_normal() -> None:
    seen, crops, kinds = regions()
    scores, none = np.full(60, 0.5), np.zeros(0)
    model = fit_regions(seen, crops, scores, none, 3, OPTIONS)
    found = classify_regions(seen, crops["area_px"], scores, model, OPTIONS)
    np.testing.assert_allclose(found.probabilities.sum(1), 1)
    assert (found.probabilities[kinds == 0, 0] == 1).all()
    assert adjusted_rand_score(kinds, found.probabilities.argmax(1)) == 1
    assert not found.unknown[kinds == 0].any()
    assert found.unknown.mean() < 0.1


def test_each_region_is_classified_for_itself() -> None:
    seen, crops, _ = regions()
    scores = np.full(60, 0.5)
    model = fit_regions(seen, crops, scores, np.zeros(0), 3, OPTIONS)
    whole = classify_regions(seen, crops["area_px"], scores, model, OPTIONS)
    assert seen.pooled is not None
    one = classify_regions(Seen(pooled=seen.pooled[30:31]), [9], [0.5], model, OPTIONS)
    np.testing.assert_allclose(one.probabilities[0], whole.probabilities[30], atol=1e-6)


def test_heads_keep_their_probabilities_but_for_what_is_known_as_normal() -> None:
    _, crops, kinds = regions()
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet(np.ones(3), 60)
    embeddings = rng.normal(size=(60, 6)).astype(np.float32)
    seen, scores = Seen(probabilities=probabilities, embeddings=embeddings), np.full(60, 0.5)
    model = fit_regions(seen, crops, scores, np.zeros(0), 3, OPTIONS)
    assert model.vote is None
    found = classify_regions(seen, crops["area_px"], scores, model, OPTIONS)
    np.testing.assert_array_equal(found.probabilities[kinds > 0], probabilities[kinds > 0])
    assert (found.probabilities[kinds == 0] == [1, 0, 0]).all()
    with pytest.raises(ValueError, match="does not fit the model"):
        classify_regions(regions()[0], crops["area_px"], scores, model, OPTIONS)


def test_mixtures_see_a_part_of_many_exposures_once() -> None:
    """50 exposures of one odd thing would be the largest class; as one part they are not."""
    seen, crops, _ = regions()
    assert seen.pooled is not None
    odd = np.repeat(seen.pooled[20:21] + 6, 50, axis=0)
    seen = Seen(pooled=np.concatenate([seen.pooled, odd]).astype(np.float32))
    more = crops.iloc[[20] * 50].assign(sample_id=[f"odd{i}" for i in range(50)])
    crops = pd.concat([crops, more], ignore_index=True)
    scores, parts = np.full(110, 0.5), np.r_[np.arange(60), np.full(50, 60)]

    def largest(parts: np.ndarray | None) -> int:
        model = fit_regions(seen, crops, scores, np.zeros(0), 4, OPTIONS, parts)
        found = classify_regions(seen, crops["area_px"], scores, model, OPTIONS)
        return int(found.probabilities[-1].argmax())

    assert largest(None) == 1
    assert largest(parts) == 3


def test_regions_that_look_normal_are_so_above_a_limit_that_is_only_assumed() -> None:
    """Scores overlap, so the limit leaves most good regions above it: their looks decide."""
    seen, crops, kinds = regions()
    crops = crops.assign(area_px=9)
    scores = np.concatenate([np.linspace(0.1, 0.5, 20), np.tile(np.linspace(0.4, 0.8, 20), 2)])
    options = OPTIONS.model_copy(update={"normal": "scores", "assumed_normal": 0.15})
    model = fit_regions(seen, crops.assign(score=scores), scores, np.zeros(0), 3, options)
    assert model.normal.basis == "lowest"
    assert (scores[kinds == 0] > model.normal.value).sum() > 10
    found = classify_regions(seen, crops["area_px"], scores, model, options)
    classes = found.probabilities.argmax(1)
    assert (classes[kinds == 0] == 0).all()
    assert adjusted_rand_score(kinds, classes) == 1


def test_a_sample_is_fitted_to_and_all_are_classified(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, crops, kinds = regions()
    scores, none = np.full(60, 0.5), np.zeros(0)

    def fitted(sample: int, order: np.ndarray) -> RegionModel:
        options = OPTIONS.model_copy(update={"sample": sample})
        return fit_regions(seen.rows(order), crops.iloc[order], scores, none, 3, options)

    rows = np.arange(60)
    full, model = fitted(40, rows), fitted(20, rows)
    assert [len(m.known.unit_descriptors) for m in (full, model)] == [40, 20]
    found = classify_regions(seen, crops["area_px"], scores, model, OPTIONS)
    assert adjusted_rand_score(kinds, found.probabilities.argmax(1)) == 1
    turned = fitted(20, rows[::-1])  # the same regions, in another order
    assert set(map(bytes, turned.known.unit_descriptors.round(4))) == set(
        map(bytes, model.known.unit_descriptors.round(4))
    )
    monkeypatch.setattr(region_classes, "_BLOCK", 7)
    blocks = classify_regions(seen, crops["area_px"], scores, model, OPTIONS)
    np.testing.assert_allclose(blocks.probabilities, found.probabilities, atol=1e-9)
    np.testing.assert_array_equal(blocks.unknown, found.unknown)
    np.testing.assert_allclose(blocks.descriptors, found.descriptors, atol=1e-6)
    np.testing.assert_allclose(blocks.embeddings, found.embeddings, atol=1e-6)


def test_heads_know_a_sample_too() -> None:
    seen, crops, _ = regions()
    assert seen.pooled is not None
    options = OPTIONS.model_copy(update={"sample": 10})
    by_heads = Seen(probabilities=np.full((60, 3), 1 / 3), embeddings=seen.pooled[:, 0])
    model = fit_regions(by_heads, crops, np.full(60, 0.5), np.zeros(0), 3, options)
    assert len(model.known.unit_descriptors) == 10


def test_taught_regions_are_fitted_to_whatever_the_sample_holds() -> None:
    seen, crops, kinds = regions()
    scores, options = np.full(60, 0.5), OPTIONS.model_copy(update={"sample": 5})
    taught = np.where(kinds == 2, 2, FREE)
    model = fit_regions(seen, crops, scores, np.zeros(0), 3, options, None, taught)
    assert 20 <= len(model.known.unit_descriptors) <= 25
    found = classify_regions(seen, crops["area_px"], scores, model, options)
    assert (found.probabilities[kinds == 2].argmax(1) == 2).all()
