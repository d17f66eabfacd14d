from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.detectors import image_pairs, musc


def _unit(n: int, p: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((n, p, d)) + 0.7 * rng.standard_normal((1, p, d))
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def _naive(
    features: np.ndarray, fraction: float, references: list[int], skip: float = 0
) -> np.ndarray:
    """The score of every patch from the definition, in float64, one pair of images at a time."""
    f = features.astype(np.float64)
    scores = np.zeros(f.shape[:2])
    for i in range(len(f)):
        nearest = []
        for j in references:
            if j != i:
                difference = f[i][:, None] - f[j][None]  # (P, P, D)
                nearest.append(np.sqrt((difference**2).sum(-1)).min(1))
        keep = max(1, int(np.floor(fraction * len(nearest) + 1e-9)))
        first = min(int(np.floor(skip * len(nearest) + 1e-9)), keep - 1)
        scores[i] = np.sort(np.stack(nearest), axis=0)[first:keep].mean(0)
    return scores


@pytest.mark.parametrize("n", [2, 3, 4, 11])
@pytest.mark.parametrize("memory_mb", [1024, 0.0025, 1e-9])
@pytest.mark.parametrize("side", [8, 27, 10_000])
def test_scores_equal_the_definition(monkeypatch, n, memory_mb, side):
    """Whatever the block and band sizes are: with p = 9 blocks of 1, 3 and all images."""
    monkeypatch.setitem(image_pairs._SIDE, "cpu", side)
    features = _unit(n, 9, 12)
    out = musc.mutual_scores(features, memory_mb=memory_mb)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, _naive(features, 0.3, list(range(n))), atol=1e-5)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
def test_fraction(fraction):
    features = _unit(7, 4, 6)
    expected = _naive(features, fraction, list(range(7)))
    np.testing.assert_allclose(musc.mutual_scores(features, fraction=fraction), expected, atol=1e-5)


@pytest.mark.parametrize("skip", [0.05, 0.2, 0.3, 0.9])
@pytest.mark.parametrize("n", [2, 11])
def test_the_very_nearest_images_are_skipped(n, skip):
    features = _unit(n, 4, 6)
    expected = _naive(features, 0.4, list(range(n)), skip)
    found = musc.mutual_scores(features, fraction=0.4, skip=skip)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_repeat_vouches_for_a_defect_unless_it_is_skipped():
    features = _unit(21, 5, 8)
    features[:2, 3] = -features[:2, 3]  # the same defect twice
    features[1, 3] = features[0, 3]
    vouched = musc.mutual_scores(features, fraction=0.1)
    skipped = musc.mutual_scores(features, fraction=0.1, skip=0.05)
    assert skipped[0, 3] > 1.5 * vouched[0, 3]


def test_bfloat16_stays_within_two_hundredths():
    features = _unit(30, 16, 64)
    exact, half = (musc.mutual_scores(features, half=h, skip=0.05) for h in (False, True))
    np.testing.assert_allclose(half, exact, atol=0.02)
    assert np.abs(half - exact).max() > 0


@pytest.mark.parametrize("side", [8, 27, 10_000])
@pytest.mark.parametrize("references", [None, 5])
def test_bfloat16_equals_rounded_cosines(monkeypatch, side, references):
    """Also where all cosines of a patch are negative, whose bits are in the other order."""
    monkeypatch.setitem(image_pairs._SIDE, "cpu", side)
    features = _unit(11, 3, 3)
    rounded = torch.from_numpy(features).bfloat16().float()
    cosines = torch.einsum("apd,bqd->abpq", rounded, rounded).amax(3)  # (A, B, P)
    assert (cosines < -0.1).any()
    gaps = (2 - 2 * cosines).clamp_min(0).sqrt().numpy()
    columns = musc.choose_references(_names(11), references, 0)
    expected = [np.mean([gaps[i, j] for j in columns if j != i], axis=0) for i in range(11)]
    found = musc.mutual_scores(features, half=True, references=columns, fraction=1)
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_threads_share_the_work_and_torch_keeps_its_own():
    features, before = _unit(11, 9, 12), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        out = musc.mutual_scores(features)
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as pool:  # a new thread
            assert pool.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(out, _naive(features, 0.3, list(range(11))), atol=1e-5)


def test_poses_that_differ_have_a_low_ratio():
    generator = np.random.default_rng(0)
    noise = 0.3 * generator.standard_normal((60, 6, 16))
    alike = (generator.standard_normal((1, 6, 16)) + noise).astype(np.float32)
    anyhow = (generator.standard_normal((6, 6, 16))[np.arange(60) % 6] + noise).astype(np.float32)
    same, poses = musc.pose_ratio(alike, (2, 3)), musc.pose_ratio(anyhow, (2, 3))
    assert poses < 0.8 < same <= 1
    assert musc.choose_ranks(poses) == (0, 0.05)
    assert musc.choose_ranks(same) == (0.05, 0.3)
    assert musc.pose_ratio(anyhow, (2, 3), half=True) == pytest.approx(poses, abs=0.05)


def test_pose_ratio_equals_the_definition():
    layer = np.random.default_rng(3).standard_normal((7, 6, 16)).astype(np.float32)
    unit = layer / np.linalg.norm(layer, axis=-1, keepdims=True)
    gaps = np.linalg.norm(unit[:, None, :, None] - unit[None, :, None], axis=-1).min(-1).mean(-1)
    rows = [np.sort(np.delete(gaps[i], i)) for i in range(7)]
    expected = np.median([row[0] / np.median(row) for row in rows])
    assert musc.pose_ratio(layer, (2, 3)) == pytest.approx(expected, abs=1e-3)


def test_float16_features_stay_within_a_thousandth():
    features = _unit(8, 16, 64)
    expected = _naive(features, 0.3, list(range(8)))
    np.testing.assert_allclose(musc.mutual_scores(features.astype(np.float16)), expected, atol=1e-3)


def test_references_limit_the_comparison():
    features = _unit(10, 4, 6)
    chosen = musc.choose_references(_names(10), 4, seed=1)
    assert len(set(chosen)) == 4
    assert list(chosen) == sorted(chosen)
    out = musc.mutual_scores(features, references=chosen, memory_mb=0.0003)
    np.testing.assert_allclose(out, _naive(features, 0.3, list(chosen)), atol=1e-5)


def _names(count: int) -> list[str]:
    return [f"image {number}" for number in range(count)]


def test_references_are_seeded():
    names = _names(100)
    draws = {tuple(musc.choose_references(names, 10, seed)) for seed in range(5)}
    assert len(draws) == 5
    assert tuple(musc.choose_references(names, 10, 3)) in draws
    assert list(musc.choose_references(_names(5), None, 0)) == list(range(5))
    assert list(musc.choose_references(_names(5), 9, 0)) == list(range(5))


def test_names_decide_which_references_are_taken():
    names = _names(60)
    chosen = {names[i] for i in musc.choose_references(names, 20, 0)}
    shuffled = names[::-1]
    assert {shuffled[i] for i in musc.choose_references(shuffled, 20, 0)} == chosen
    more = [*names, "one more"]
    assert len(chosen & {more[i] for i in musc.choose_references(more, 20, 0)}) >= 19


@pytest.mark.parametrize(
    ("count", "references"),
    [(2, 2), (300, 300), (724, 724), (1024, 512), (2048, 256), (10**6, 256)],
)
def test_references_within_the_budget(count, references):
    assert musc.affordable_references(count) == references


@settings(max_examples=25)
@given(n=st.integers(2, 6), seed=st.integers(0, 1000))
def test_order_of_images_plays_no_part(n, seed):
    features = _unit(n, 5, 4, seed)
    order = np.random.default_rng(seed).permutation(n)
    out = musc.mutual_scores(features)[order]
    np.testing.assert_allclose(musc.mutual_scores(features[order]), out, atol=1e-5)


def test_a_copy_in_another_image_lowers_the_score_to_zero():
    features = _unit(4, 5, 8)
    features[2] = features[0][::-1]
    scores = musc.mutual_scores(features)
    assert scores[[0, 2]].max() < 1e-3
    assert scores[[1, 3]].min() > 0.1


def test_average_over_layers_and_neighbourhoods():
    rng = np.random.default_rng(5)
    layers = [rng.standard_normal((5, 12, d)).astype(np.float32) for d in (6, 8)]
    expected = np.zeros((5, 12))
    for layer in layers:
        for size in (1, 3):
            unit = np.zeros_like(layer)
            maps = layer.reshape(5, 3, 4, -1)
            padded = np.pad(maps, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
            total = sum(padded[:, y : y + 3, x : x + 4] for y in range(size) for x in range(size))
            unit = np.asarray(total).reshape(5, 12, -1)
            unit = unit / np.linalg.norm(unit, axis=-1, keepdims=True)
            expected += _naive(unit, 0.3, list(range(5))) / 4
    calls = []
    out = musc.patch_scores(
        layers,
        (3, 4),
        neighbourhoods=(1, 3),
        progress=lambda done, total: calls.append((done, total)),
    )
    np.testing.assert_allclose(out, expected, atol=1e-5)
    assert calls[-1] == (20, 20)
    assert calls == sorted(calls)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("n", [1, 20])
def test_new_images_are_compared_with_all_of_a_bank(n, half):
    rng = np.random.default_rng(7)
    new, bank = (rng.standard_normal((k, 6, 16)).astype(np.float32) for k in (n, 5))
    unit = [layer / np.linalg.norm(layer, axis=-1, keepdims=True) for layer in (new, bank)]
    gaps = np.linalg.norm(unit[0][:, None, :, None] - unit[1][None, :, None], axis=-1).min(-1)
    expected = np.sort(gaps, axis=1)[:, 1:3].mean(1)  # (n, 6)
    found = musc.scores_against(
        [new], [bank], (2, 3), neighbourhoods=[1], fraction=0.6, skip=0.2, half=half
    )
    np.testing.assert_allclose(found, expected, atol=0.01 if half else 1e-5)
    with pytest.raises(ValueError, match="bank of reference images is empty"):
        musc.scores_against([new], [bank[:0]], (2, 3))


def test_one_image_is_an_error():
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        musc.patch_scores([np.zeros((1, 4, 3), np.float32)], (2, 2))
    with pytest.raises(ValueError, match="at least 2"):
        musc.mutual_scores(_unit(1, 4, 3))
    with pytest.raises(ValueError, match="references"):
        musc.choose_references(_names(5), 1, 0)


def _naive_reweighted(scores: np.ndarray, tokens: np.ndarray, ks: tuple[int, ...]) -> np.ndarray:
    flat = (scores - scores.min()) / (scores.max() - scores.min())
    unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    result = np.zeros(len(scores))
    for k in ks:
        for i, token in enumerate(unit):
            cosines = unit @ token
            near = np.argsort(-cosines)[:k]
            weights = np.maximum(cosines[near], 0)
            result[i] += (weights / weights.sum() * flat[near]).sum() / len(ks)
    return result


@pytest.mark.parametrize("rows", [4, 1024])
def test_reweighting_equals_the_definition(monkeypatch, rows):
    monkeypatch.setattr(musc, "_GRAPH_ROWS", rows)
    rng = np.random.default_rng(3)
    scores, tokens = rng.random(13) * 5 + 2, rng.standard_normal((13, 4))
    out = musc.reweight_scores(scores, tokens)
    np.testing.assert_allclose(out, _naive_reweighted(scores, tokens, (1, 2, 3)), atol=1e-6)


def test_reweighting_with_k_of_one_is_min_max():
    scores = np.array([3.0, 1.0, 2.0])
    out = musc.reweight_scores(scores, np.ones((3, 2)), ks=(1,))
    np.testing.assert_allclose(out, [1, 0, 0.5])


def test_reweighting_of_few_or_equal_scores():
    two = musc.reweight_scores(np.array([0.0, 1.0]), np.eye(2))
    np.testing.assert_allclose(two, [0, 1])
    assert not musc.reweight_scores(np.ones(4), np.eye(4)).any()
    with pytest.raises(ValueError, match="class tokens"):
        musc.reweight_scores(np.ones(4), np.eye(3))
    with pytest.raises(ValueError, match="ks"):
        musc.reweight_scores(np.ones(4), np.eye(4), ks=())


def test_images_of_a_part_are_not_compared():
    """Against the definition, with the images of the own part among the left out."""
    features, parts = _unit(7, 4, 6), np.array([0, 0, 1, 2, 2, 2, 3])
    found = musc.mutual_scores(features, fraction=0.6, skip=0.2, parts=parts)
    for i, part in enumerate(parts):
        rest = [i, *np.flatnonzero(parts != part)]
        expected = _naive(features[rest], 0.6, list(range(len(rest))), 0.2)[0]
        np.testing.assert_allclose(found[i], expected, atol=1e-5)
    with pytest.raises(ValueError, match="all are of one part"):
        musc.mutual_scores(features, parts=np.zeros(7, np.int64))


def test_poses_are_of_different_parts():
    """Every image six times: without parts the nearest tenth are its twins."""
    layer = np.repeat(_unit(8, 6, 8, seed=5), 6, axis=0)
    single = musc.pose_ratio(layer[::6], (2, 3), sample=99)
    assert musc.pose_ratio(layer, (2, 3), sample=99) < 0.1 * single
    left_out = musc.pose_ratio(layer, (2, 3), parts=np.repeat(np.arange(8), 6), sample=99)
    assert left_out == pytest.approx(single, rel=0.1)
