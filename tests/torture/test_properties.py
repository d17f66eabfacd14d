"""Properties that hold for any input, found by Hypothesis; few examples, as each is small."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ruamel.yaml import YAML

from pipeline.binarization.mebin import ScoreRange, binarize_map
from pipeline.config.reading import load_params, parse_params
from pipeline.config.section import ConfigError
from pipeline.curation.corrections import LONGEST_NAME, read_corrections
from pipeline.curation.names import read_names, set_name
from pipeline.detectors.normalise import rescale, value_range
from pipeline.evaluation.clustering import clustering_scores
from pipeline.exports.folders import folder_names
from pipeline.io.tables import read_json, write_json
from pipeline.regions.crops import area_px, cut, find_regions, region_squares, resize_mask
from pipeline.regions.merging import merge_regions
from tests.torture.test_params import KEYS, nested

FEW = settings(max_examples=40)
masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24))
lines = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Cf", "Zl", "Zp", "Co", "Cn")), min_size=1
).filter(lambda text: text.strip() and text.strip().isprintable())


@FEW
@given(mask=masks)
def test_regions_cover_the_mask_and_no_more(mask: np.ndarray) -> None:
    found = find_regions(mask)
    assert found.areas.sum() == mask.sum()
    covered = np.zeros_like(mask)
    for x0, y0, x1, y1 in found.boxes:
        assert mask[y0:y1, x0:x1].any()
        covered[y0:y1, x0:x1] = True
    assert (covered | ~mask).all()


@FEW
@given(
    mask=masks,
    padding=st.floats(0, 2),
    smallest=st.floats(0, 1),
    distance=st.floats(0, 1),
    keep=st.none() | st.integers(1, 3),
)
def test_squares_are_squares_and_each_can_be_cut(
    mask: np.ndarray, padding: float, smallest: float, distance: float, keep: int | None
) -> None:
    squares = region_squares(
        mask, padding=padding, smallest_side=smallest, merge_distance=distance, keep=keep
    )
    assert 1 <= len(squares) <= (keep or max(1, len(find_regions(mask).areas)))
    image = np.zeros((*mask.shape, 3), np.uint8)
    for square in squares:
        pixels, inside = cut(image, mask, square, size=16)
        assert pixels.shape == (16, 16, 3)
        assert set(np.unique(inside)) <= {0, 1}
        assert 0 <= area_px(mask, square) <= mask.sum()
    if keep is None and distance == 0 and mask.any():
        assert sum(area_px(mask, square) for square in squares) > 0


@FEW
@given(mask=masks, height=st.integers(1, 40), width=st.integers(1, 40))
def test_a_mask_comes_back_from_a_multiple_of_its_size(
    mask: np.ndarray, height: int, width: int
) -> None:
    assert resize_mask(mask, (height, width)).shape == (height, width)
    large = resize_mask(mask, (3 * mask.shape[0], 3 * mask.shape[1]))
    np.testing.assert_array_equal(resize_mask(large, mask.shape), mask)
    np.testing.assert_array_equal(large[1::3, 1::3], mask)


@FEW
@given(
    values=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.floats(-(2.0**99), 2.0**99, width=32),
    )
)
def test_maps_keep_their_order_on_the_scale_of_the_set(values: np.ndarray) -> None:
    scaled = rescale(values, *value_range(values))
    assert scaled.dtype == np.float32
    assert 0 <= scaled.min() <= scaled.max() <= 1
    order = np.argsort(values, axis=None, kind="stable")
    assert (np.diff(scaled.ravel()[order]) >= 0).all()


@FEW
@given(
    amap=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=4, max_side=16),
        elements=st.floats(0, 1, width=32),
    ),
    floor=st.floats(0, 1, width=32),
    tau=st.integers(1, 8),
)
def test_a_mask_is_the_map_above_its_threshold(amap: np.ndarray, floor: float, tau: int) -> None:
    found = binarize_map(
        amap, ScoreRange(floor, 1.0), thresholds=16, tau=tau, erode_px=0, rule="paper"
    )
    assert found.mask.any() == (found.n_regions > 0) == (found.run_length > 0)
    if found.n_regions:
        assert found.run_length >= tau
        assert found.threshold >= floor - 1e-6
        np.testing.assert_array_equal(found.mask, amap > np.float64(found.threshold))
    else:
        assert np.isnan(found.threshold)


@FEW
@given(data=st.data(), n_images=st.integers(1, 5), n_classes=st.integers(1, 6))
def test_merged_probabilities_are_between_those_of_the_regions(
    data: st.DataObject, n_images: int, n_classes: int
) -> None:
    more = data.draw(st.lists(st.integers(0, n_images - 1), max_size=6))
    index = np.array([*range(n_images), *more])
    rows = hnp.arrays(float, (len(index), n_classes), elements=st.floats(0.01, 1))
    p = data.draw(rows)
    p /= p.sum(1, keepdims=True)
    areas = data.draw(hnp.arrays(float, len(index), elements=st.floats(0, 1e9)))
    scores = data.draw(hnp.arrays(float, len(index), elements=st.floats(0, 1)))
    for rule in ("area", "mean", "score"):
        merged = merge_regions(
            p, index, areas, scores, rule=rule, temperature=8.0, n_images=n_images
        )
        np.testing.assert_allclose(merged.sum(1), 1, rtol=1e-9)
        for i in range(n_images):
            assert (merged[i] >= p[index == i].min(0) - 1e-9).all()
            assert (merged[i] <= p[index == i].max(0) + 1e-9).all()


@FEW
@given(pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30))
def test_scores_do_not_depend_on_the_names_of_clusters(pairs: list[tuple[int, int]]) -> None:
    true, found = (np.array(column) for column in zip(*pairs, strict=True))
    scores = clustering_scores(true, found)
    renamed = clustering_scores(true, np.array([3, 1, 4, 0, 2])[found])
    np.testing.assert_allclose(
        [scores.nmi, scores.ari, scores.f1], [renamed.nmi, renamed.ari, renamed.f1], atol=1e-9
    )
    assert 0 <= scores.nmi <= 1 + 1e-9
    assert 0 < scores.f1 <= 1
    assert clustering_scores(true, true).f1 == 1


@settings(max_examples=40)
@given(key=st.sampled_from(sorted(KEYS)), value=st.integers(0, 999) | st.floats(0, 1))
def test_parameters_come_back_from_the_file_as_they_were(key: str, value: float) -> None:
    try:
        params = parse_params(nested(key, value))
    except ConfigError:  # nonsense is in test_params.py
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        with path.open("w", encoding="utf-8") as file:
            YAML(typ="safe", pure=True).dump(params.to_json(), file)
        assert load_params(path) == params


@settings(max_examples=25)
@given(
    names=st.dictionaries(st.integers(0, 999), lines, min_size=1, max_size=5),
    category=lines,
)
def test_names_come_back_from_the_file_as_they_were(names: dict[int, str], category: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "names.yaml"
        for number, name in names.items():
            set_name(path, category, number, name, "0" * 12)
        found = read_names(path)[category]
    assert found.names == {number: name.strip() for number, name in names.items()}
    assert found.run == "0" * 12


@FEW
@given(names=st.dictionaries(st.integers(0, 50), lines, max_size=6))
def test_folders_of_classes_differ_on_any_file_system(names: dict[int, str]) -> None:
    folders = folder_names(names)
    assert folders.keys() == names.keys()
    assert len({name.casefold() for name in folders.values()}) == len(names)
    for name in folders.values():
        assert name not in {"", ".", ".."}
        assert not set(name) & set('/\\:*?"<>|\0')
        assert not name.startswith((".", "-"))


@FEW
@given(
    entries=st.dictionaries(
        st.text(min_size=1, max_size=9),
        st.integers(0, 2**40) | lines.map(lambda name: name[:LONGEST_NAME]),
        max_size=6,
    )
)
def test_corrections_come_back_from_the_file_as_they_were(entries: dict[str, int | str]) -> None:
    assume(all(not isinstance(e, str) or e.strip() for e in entries.values()))
    rows = [
        {"crop_id": crop, "name" if isinstance(target, str) else "class": target}
        for crop, target in entries.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.json"
        assume(not any("\ud800" <= c <= "\udfff" for c in json.dumps(rows, ensure_ascii=False)))
        write_json(path, {"category": "c", "run": "r", "corrections": rows})
        assert read_json(path)["corrections"] == rows
        found = read_corrections(path)
    expected = {k: v.strip() if isinstance(v, str) else v for k, v in entries.items()}
    assert found.targets == expected
