"""New images get the classes of the run, one at a time or together, and strange ones none.

The run has seen three of the four kinds of `tests.textures`; the new images have all of them.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config.reading import parse_params
from pipeline.curation.names import names_for, run_of, set_name
from pipeline.inference import load_classifier
from pipeline.io.paths import ArtifactPaths
from pipeline.io.results import read_results
from pipeline.io.schemas import CLASSIFIED, MERGED, REGIONS
from pipeline.io.tables import read_json, read_parquet, write_json
from tests.config.test_every_parameter import CATEGORY, ORDER, run, settings
from tests.textures import KINDS, write_plates

RUNS = ["patchcore mixture grain", "musc heads grain"]
"""Detector, classifier, and the kind that the run has not seen."""


@pytest.fixture(scope="module", params=RUNS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    method, classifier, strange = request.param.split()
    return make_run(tmp_path_factory.mktemp("classify"), method, classifier, strange)


def make_run(root: Path, method: str, classifier: str, strange: str) -> Path:
    """Write images and run all stages over them."""
    write_images(root, strange)
    (root / "base").mkdir()
    params = parse_params(content_of(root, method, classifier))
    for stage in ("backbone", "base", *ORDER[:-1]):
        run(stage, params, ArtifactPaths(root / "data"))
    return root


def content_of(root: Path, method: str, classifier: str) -> dict[str, dict[str, Any]]:
    """Return the parameters of `make_run`."""
    content = settings(root)
    content["maps"] |= {"method": method, "neighbourhoods": [1], "resolution": 128, "map_size": 128}
    content["crops"] = {"merge_distance": 0.0}
    content["classes"] = {"count": 4}
    content["train"] |= {"seed": 1}  # with seed 0 the heads know fewer classes
    content["predict"]["classifier"] = classifier
    return content


def write_images(root: Path, strange: str) -> None:
    """Write the run's images, some of them in a folder, and new ones with a `strange` kind too."""
    rng = np.random.default_rng(5)

    def one(kind: str) -> list[tuple[str, int]]:
        return [(kind, int(rng.integers(32, 44)))]

    known = [kind for kind in KINDS if kind != strange]
    both = [(known[0], 44), (known[1], 32)]
    write_plates(root / "normal" / CATEGORY, [(f"{i}", []) for i in range(8)], seed=1)
    seen = [(f"good_{i}", []) for i in range(8)]
    seen += [(f"{kind}_{i}", one(kind)) for kind in known for i in range(8)]
    write_plates(root / "images" / CATEGORY, seen, seed=2)
    deep = [("two_0", both), ("two_1", both)]
    write_plates(root / "images" / CATEGORY / "deep", deep, seed=3)
    new = [(f"{kind}_{i}", one(kind)) for kind in KINDS for i in range(6)]
    write_plates(root / "new", new, seed=4)
    mixed = [("good_0", []), ("good_1", []), *((kind, one(kind)) for kind in KINDS)]
    mixed += [("two_known", both), ("mostly_strange", [(known[0], 28), (strange, 44)])]
    mixed += [(f"mostly_{kind}", [(kind, 44), (strange, 28)]) for kind in known]
    write_plates(root / "mixed", mixed, seed=6)


def classify(root: Path, images: Path, out: Path, *more: str) -> tuple[int, str]:
    options = ["--category", CATEGORY, "--out", str(out), "--data", str(root / "data")]
    options += ["--params", str(root / "none.yaml"), "--names", str(root / "names.yaml"), *more]
    result = CliRunner().invoke(app, ["classify", str(images), *options])
    return result.exit_code, result.output


def table(root: Path, images: Path, out: Path, *more: str) -> pd.DataFrame:
    code, text = classify(root, images, out, *more)
    assert code == 0, text
    return read_parquet(out, CLASSIFIED)


def assert_same(row: Any, other: Any) -> None:
    """Compare two rows but for the paths."""
    for column in ("sample_id", "class", "name", "nearest_class"):
        assert row[column] == other[column]
    assert list(row["region_classes"]) == list(other["region_classes"])
    np.testing.assert_allclose(row["probabilities"], other["probabilities"], atol=1e-4)
    np.testing.assert_allclose(row["confidence"], other["confidence"], atol=1e-4)
    assert row["score"] == pytest.approx(other["score"], abs=1e-5)


def test_images_of_the_run_keep_their_classes(made: Path, tmp_path: Path) -> None:
    found = table(made, made / "images" / CATEGORY, tmp_path / "found.parquet")
    merged = read_parquet(ArtifactPaths(made / "data").merge(CATEGORY) / "images.parquet", MERGED)
    assert sorted(merged["sample_id"]) == sorted(found["sample_id"])
    again = found.set_index("sample_id")["nearest_class"].reindex(merged["sample_id"])
    same = merged["class"].to_numpy() == again.to_numpy()
    method = read_json(ArtifactPaths(made / "data").train(CATEGORY) / "model.json")["params"][
        "maps"
    ]
    # MuSc compares the run's images with each other, and new ones with a bank in which these are:
    # their regions differ a little, and rounding decides about some classes of a tiny network.
    assert same.mean() >= (1.0 if method["method"] == "patchcore" else 0.7)
    assert found["path"].tolist() == sorted(found["path"])
    assert "deep/two_1.png" in set(found["path"])


def test_one_at_a_time_or_together_is_the_same(made: Path, tmp_path: Path) -> None:
    together = table(made, made / "mixed", tmp_path / "all.parquet").set_index("path")
    assert len(together) == len(list((made / "mixed").iterdir())) == 11
    assert (together["nearest_class"] > 0).mean() > 0.5
    assert (together["region_classes"].map(len) > 1).any()
    for name, other in together.iterrows():
        alone = table(made, made / "mixed" / str(name), tmp_path / "one.parquet")
        assert alone["path"].tolist() == [name]
        assert_same(alone.iloc[0], other)


@pytest.mark.parametrize("made", [*RUNS, "patchcore mixture dots"], indirect=True)
def test_a_kind_that_was_left_out_is_unknown_and_others_are_not(
    made: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    strange = request.node.callspec.params["made"].split()[-1]
    found = table(made, made / "new", tmp_path / "found.parquet")
    unknown = found["class"] == -1
    shares = unknown.groupby(found["path"].str.split("_").str[0]).mean()
    assert shares[strange] >= 0.6, shares
    assert shares.drop(strange).mean() <= 0.2, shares
    assert ((found["name"] == "unknown") == unknown).all()


@pytest.mark.parametrize("made", RUNS[:1], indirect=True)
def test_an_image_is_unknown_where_most_of_its_weight_is(made: Path, tmp_path: Path) -> None:
    found = table(made, made / "mixed", tmp_path / "found.parquet").set_index("path")
    classifier = load_classifier(made / "data", CATEGORY, names=made / "none.yaml")
    regions = classifier([made / "mixed" / str(path) for path in found.index]).regions
    shares = []
    for _, rows in regions.groupby("image"):
        weights = np.exp(np.sqrt(rows["area_px"]) / 100)  # Eq. 6
        shares.append(float(weights[rows["unknown"]].sum() / weights.sum()))
    assert any(0 < share <= 0.5 for share in shares)
    assert any(share > 0.5 for share in shares)
    assert (found["class"] == -1).tolist() == [share > 0.5 for share in shares]


def test_confidence_is_that_of_the_nearest_class(made: Path, tmp_path: Path) -> None:
    found = table(made, made / "mixed", tmp_path / "found.parquet")
    assert (found["class"] == -1).any()
    probabilities = np.stack(found["probabilities"].tolist())
    assert found["nearest_class"].tolist() == probabilities.argmax(1).tolist()
    np.testing.assert_allclose(found["confidence"], probabilities.max(1), atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)


def test_every_file_that_can_be_read_has_a_row(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "images"
    (images / "deep").mkdir(parents=True)
    for name in ("dots", "good_0", "two_known"):
        shutil.copy(made / "mixed" / f"{name}.png", images)
    for copy in ("a.png", "deep/b.png"):
        shutil.copy(made / "mixed" / "dots.png", images / copy)
    (images / "broken.png").write_bytes(b"nothing")
    (images / "twin.png").write_bytes(b"nothing")
    (images / "normal_reference_files.txt").write_text("good_0.png\n")  # as in a set to train on
    monkeypatch.chdir(made)
    code, text = classify(made, images, tmp_path / "found.parquet", "--data", "data")
    assert code == 0, text
    found = read_parquet(tmp_path / "found.parquet", CLASSIFIED)
    paths = ["a.png", "deep/b.png", "dots.png", "good_0.png", "two_known.png"]
    assert found["path"].tolist() == paths
    for row in (0, 1):
        assert_same(found.iloc[row], found.iloc[2])
    left_out = [line.split(": ")[1] for line in text.splitlines() if line.startswith("left out")]
    assert left_out == ["broken.png", "normal_reference_files.txt", "twin.png"]
    assert text.count("not an image file") == 3
    assert f"{tmp_path / 'found.parquet'}: 5 images: " in text
    assert not list((made / "data").glob("tmp*"))


def test_names_show_unless_they_are_another_run_s(made: Path, tmp_path: Path) -> None:
    names, out = tmp_path / "names.yaml", tmp_path / "found.parquet"
    for number in range(4):
        set_name(
            names,
            CATEGORY,
            number,
            f"kind {number}",
            run_of(ArtifactPaths(made / "data"), CATEGORY),
        )
    found = table(made, made / "mixed", out, "--names", str(names))
    known = found[found["class"] >= 0]
    assert known["name"].tolist() == [f"kind {k}" for k in known["class"]]
    set_name(names, CATEGORY, 1, "kind 1", "0" * 12)
    code, text = classify(made, made / "mixed", out, "--names", str(names))
    assert code == 0
    assert "Classes are shown by number" in text
    assert "name the classes again" in text
    known = read_parquet(out, CLASSIFIED)[lambda frame: frame["class"] > 0]
    assert known["name"].tolist() == [f"class {k}" for k in known["class"]]


@pytest.mark.parametrize("made", RUNS[:1], indirect=True)
def test_names_outlive_another_network_beside_the_mixture(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "data", tmp_path / "data")
    artifacts = ArtifactPaths(tmp_path / "data")
    set_name(tmp_path / "names.yaml", CATEGORY, 1, "one", run_of(artifacts, CATEGORY))
    path = artifacts.predict(CATEGORY) / "regions.parquet"
    content = read_json(path.with_name("classifier.json"))["params"]
    content["train"]["mu"] += 1
    before = np.stack(read_parquet(path, REGIONS)["embedding"].tolist())
    for stage in ("train", "predict"):
        run(stage, parse_params(content), artifacts)
    after = np.stack(read_parquet(path, REGIONS)["embedding"].tolist())
    np.testing.assert_array_equal(after, before)  # the network is not asked
    assert names_for(tmp_path / "names.yaml", CATEGORY, artifacts)[1] == "one"


def test_what_cannot_be_classified_is_said(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.parquet"
    assert "does not exist" in classify(made, tmp_path / "none", out)[1]
    (tmp_path / "empty").mkdir()
    code, text = classify(made, tmp_path / "empty", out)
    assert (code, out.exists()) == (1, False)
    assert f"{tmp_path / 'empty'} holds no usable query image" in text
    (tmp_path / "broken.png").write_bytes(b"nothing")
    code, text = classify(made, tmp_path / "broken.png", out)
    assert (code, out.exists()) == (1, False)
    assert "broken.png: not an image file" in text
    assert "--maps is needed" in classify(made, made / "new", out, "--maps", str(tmp_path))[1]
    shutil.copytree(made / "data", tmp_path / "data")
    (tmp_path / "data" / "maps" / CATEGORY / "bank.safetensors").unlink()
    assert "dvc repro" in classify(tmp_path, made / "new", out)[1]


def test_maps_of_others_come_as_a_file_or_a_folder(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "data", tmp_path / "data")
    path = ArtifactPaths(tmp_path / "data").predict(CATEGORY) / "classifier.json"
    content = read_json(path)
    content["params"]["maps"]["method"] = "precomputed"
    write_json(path, content)
    images, maps = tmp_path / "images", tmp_path / "maps"
    images.mkdir()
    maps.mkdir()
    high = read_json(ArtifactPaths(tmp_path / "data").train(CATEGORY) / "model.json")["maps"][
        "raw_max"
    ]
    for i, name in enumerate(("dots", "stripes")):
        shutil.copy(made / "mixed" / f"{name}.png", images)
        amap = np.zeros((128, 128), np.float32)
        amap[20 * i : 20 * i + 40, 10:60] = high
        np.save(maps / f"{name}.npy", amap)
    out = tmp_path / "found.parquet"
    found = table(tmp_path, images, out, "--maps", str(maps))
    alone = table(tmp_path, images / "stripes.png", out, "--maps", str(maps / "stripes.npy"))
    assert_same(alone.iloc[0], found.iloc[1])
    assert "is needed" in classify(tmp_path, images, out)[1]


def test_what_is_farther_than_all_known_regions_is_unknown(made: Path, tmp_path: Path) -> None:
    before = table(made, made / "mixed", tmp_path / "before.parquet")
    shutil.copytree(made / "data", tmp_path / "data")
    path = ArtifactPaths(tmp_path / "data").predict(CATEGORY) / "classifier.json"
    write_json(path, {**read_json(path), "known_limit": -1.0})
    found = table(tmp_path, made / "mixed", tmp_path / "found.parquet")
    defect = found["nearest_class"] > 0
    assert defect.any()
    assert (found.loc[defect, "class"] == -1).all()
    assert set(found.loc[defect, "name"]) == {"unknown"}
    assert found["nearest_class"].tolist() == before["nearest_class"].tolist()


@pytest.mark.parametrize("made", RUNS[:1], indirect=True)
def test_once_gives_the_classes_of_the_table_and_its_status(made: Path, tmp_path: Path) -> None:
    found = table(made, made / "mixed", tmp_path / "found.parquet").set_index("path")
    out = tmp_path / "results.csv"
    options = ("--once", "--interval", "0.05")
    assert classify(made, made / "mixed", out, *options)[0] == 1
    rows = read_results(out).set_index("path")
    assert rows["class"].to_dict() == found["class"].to_dict()
    np.testing.assert_allclose(rows["score"], found["score"].reindex(rows.index), atol=1e-4)
    assert set(rows["verdict"]) == {"good", "defect", "unknown"}
    assert classify(made, made / "mixed", out, *options)[0] == 0  # nothing is new
    assert len(read_results(out)) == len(found)
    assert "does not end in .csv" in classify(made, made / "mixed", tmp_path / "x.pq", *options)[1]
    assert classify(made, made / "none", out, *options)[0] == 2
    code, text = classify(made, made / "mixed", out)
    assert code == 1
    assert "--once for CSV" in text
