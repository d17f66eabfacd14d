"""Stages merge, evaluate and report over hand-made artifacts: what the page says of them."""

from __future__ import annotations

import base64
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from pipeline.config.params import Params
from pipeline.config.reading import parse_params
from pipeline.config.section import ConfigError
from pipeline.curation.corrections import add_corrections
from pipeline.curation.names import run_of, set_name
from pipeline.io import schemas
from pipeline.io.arrays import ArraySpec, create_arrays, open_arrays
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.tables import read_json, read_parquet, write_json, write_parquet
from pipeline.report.category import Category, read_category
from pipeline.report.page import render_review
from pipeline.report.review import review
from pipeline.report.typicality import typicality
from stages import evaluate, merge, report
from tests.graph import ROOT, closure
from tests.running import run_stage

NAME = "a<b"
LABELS = ["good", "good", "crack", "crack", "combined", "combined"]
REGIONS = [[0], [0], [1], [1], [2, 1], [2]]
"""The classes of the regions of each image."""


def write_arrays(path: Path, arrays: dict[str, np.ndarray], **attributes: object) -> None:
    specs = {name: ArraySpec(a.shape, str(a.dtype)) for name, a in arrays.items()}
    with create_arrays(path, specs, attributes) as written:
        for name, array in arrays.items():
            written[name][:] = array


def write_manifest(root: Path, artifacts: ArtifactPaths) -> list[str]:
    ids = [f"s{i}" for i in range(len(LABELS))]
    for i in range(len(ids)):
        pixels = np.full((48, 64, 3), 90 + 10 * i, np.uint8)
        cv2.imwrite(str(root / NAME / f"{i}.png"), pixels)
    rows = {"sample_id": ids, "path": [f"{i}.png" for i in range(6)], "split": "query"}
    frame = pd.DataFrame({**rows, "height": 48, "width": 64, "channels": 3, "part": ids})
    reference = frame[:1].assign(sample_id="r0", path="r0.png", split="normal", part="r0")
    listed = pd.concat([frame, reference], ignore_index=True)
    write_parquet(artifacts.manifest(NAME) / "images.parquet", listed, schemas.IMAGES)
    labels = pd.DataFrame({"sample_id": ids, "label": LABELS})
    write_parquet(artifacts.manifest(NAME) / "labels.parquet", labels, schemas.LABELS)
    mask = np.zeros((48, 64), np.uint8)
    mask[10:20, 10:30] = 255
    cv2.imwrite(str(root / NAME / "mask.png"), mask)
    masks = pd.DataFrame({"sample_id": ids[2:], "mask_path": "mask.png"})
    write_parquet(artifacts.manifest(NAME) / "masks.parquet", masks, schemas.MASKS)
    return ids


def write_maps(artifacts: ArtifactPaths, ids: list[str]) -> None:
    maps = np.random.default_rng(0).random((6, 32, 32)).astype(np.float32) * 0.4
    maps[2:, 8:16, 8:16] = 0.9
    scores = pd.DataFrame({"sample_id": ids, "score": maps.max((1, 2)), "image_score": 0.5})
    write_arrays(artifacts.maps(NAME) / "maps.zarr", {"maps": maps})
    write_parquet(artifacts.maps(NAME) / "scores.parquet", scores, schemas.MAP_SCORES)
    write_arrays(artifacts.mebin(NAME) / "masks.zarr", {"masks": maps > 0.6})
    frame = pd.DataFrame({"sample_id": ids, "threshold": [None] * 2 + [0.6] * 4})
    frame = frame.assign(n_regions=[0, 0, 1, 1, 1, 1], run_length=0, counts=[[0]] * 6)
    table = artifacts.mebin(NAME) / "images.parquet"
    write_parquet(table, frame, schemas.MEBIN_IMAGES, {"method": "mebin"})


def write_classifier(artifacts: ArtifactPaths) -> None:
    stored = {"score_limit": 0.4, "score_limit_basis": "references", "false_alarms": 0.05}
    content = {
        **stored,
        "separation": 2.5,
        "params": {"predict": {"normal": "scores", "false_alarms": 0.05}},
    }
    write_json(artifacts.predict(NAME) / "classifier.json", content)
    known = pd.DataFrame({"sample_id": ["r0"], "score": [0.3], "image_score": [0.4]})
    write_parquet(artifacts.maps(NAME) / "references.parquet", known, schemas.REFERENCE_SCORES)


def write_regions(artifacts: ArtifactPaths, ids: list[str]) -> None:
    owners = [(ids[i], k) for i, classes in enumerate(REGIONS) for k in range(len(classes))]
    classes = [k for found in REGIONS for k in found]
    n = len(classes)
    rng = np.random.default_rng(1)
    crops = pd.DataFrame(owners, columns=["sample_id", "k"])
    crops = crops.assign(
        crop_id=[f"{s}_{k}" for s, k in owners], x0=2, y0=3, side=20, area_px=100, score=0.9
    )
    write_parquet(artifacts.crops(NAME) / "crops.parquet", crops, schemas.CROPS)
    pixels = rng.integers(0, 255, (n, 64, 64, 3), np.uint8)
    masks = np.zeros((n, 64, 64), np.uint8)
    masks[2:, 20:44, 20:44] = 1
    write_arrays(artifacts.crops(NAME) / "crops.zarr", {"images": pixels, "masks": masks})
    regions = crops[["crop_id", "sample_id"]].assign(
        **{"class": classes},
        confidence=0.8,
        probabilities=list(np.eye(3, dtype=np.float32)[classes] * 0.7 + 0.1),
        embedding=list(rng.normal(size=(n, 8)).astype(np.float32)),
    )
    write_parquet(artifacts.predict(NAME) / "regions.parquet", regions, schemas.REGIONS)
    descriptors = rng.normal(size=(n, 2, 5)).astype(np.float16)
    write_arrays(artifacts.predict(NAME) / "descriptors.zarr", {"descriptors": descriptors})
    attention = np.zeros((n, 4, 4), np.float16)
    attention[2:, 1:3, 1:3] = 0.125
    write_arrays(
        artifacts.predict(NAME) / "attention.zarr", {"attention": attention}, image_size=56
    )
    plain = {"rows": np.array([2, 4]), "attention": np.full((2, 4, 4), 0.05, np.float16)}
    write_arrays(artifacts.predict(NAME) / "plain_attention.zarr", plain)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    (root / "images" / NAME).mkdir(parents=True)
    artifacts = ArtifactPaths(root / "data")
    ids = write_manifest(root / "images", artifacts)
    write_maps(artifacts, ids)
    write_regions(artifacts, ids)
    write_classifier(artifacts)
    artifacts.train(NAME).mkdir(parents=True)
    columns = ("loss_total", "loss_rep", "loss_cls_u", "loss_reg", "loss_rep_l", "loss_cls_l")
    history = pd.DataFrame({"epoch": [0, 1], **{column: [2.0, 1.0] for column in columns}})
    history = history.assign(loss_head_0=[2.0, 1.5], loss_head_1=[2.0, 1.25])
    history.to_csv(artifacts.train(NAME) / "history.csv", index=False)
    run = {"wall_s": 0.6, "cpus": 3, "machine": "m<i>", "device": "cpu"}
    write_json(artifacts.root / "runs" / "maps" / f"{NAME}.json", run)
    return root


def params(root: Path, **sections: dict[str, object]) -> Params:
    dataset = {"root": str(root / "images"), "categories": [NAME]}
    return parse_params({"dataset": dataset, "mebin": {"erode_px": 2}, **sections})


def tables(root: Path, artifacts: ArtifactPaths) -> Category:
    return read_category(NAME, root / "images" / NAME, artifacts, root / "names.yaml")


def page(root: Path, **sections: dict[str, object]) -> str:
    """Run the last three stages and return the page."""
    artifacts, chosen = ArtifactPaths(root / "data"), params(root, **sections)
    run_stage(merge, NAME, chosen, artifacts)
    run_stage(evaluate, NAME, chosen, artifacts)
    run_stage(report, None, chosen, artifacts, names_path=root / "names.yaml")
    return (artifacts.report() / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def html(made: Path) -> str:
    return page(made)


def part(html: str, heading: str) -> str:
    """The text from a heading to the next one."""
    start = html.index(f"<h3>{heading}</h3>")
    return html[start : html.index("<h3>", start + 4) if "<h3>" in html[start + 4 :] else None]


def test_class_sets_of_images(made: Path, html: str) -> None:
    del html
    merged = read_parquet(
        ArtifactPaths(made / "data").merge(NAME) / "images.parquet", schemas.MERGED
    )
    assert [s.tolist() for s in merged["class_set"]] == [[], [], [1], [1], [1, 2], [2]]


def test_combined_images_are_counted(made: Path, html: str) -> None:
    metrics = read_json(ArtifactPaths(made / "data").evaluate(NAME) / "metrics.json")
    assert (metrics["combined_n"], metrics["combined_multi"]) == (2, 0.5)
    section = part(html, "Images with several defects")
    assert "1 of 6 images" in section
    assert "2 images labelled as combined it is 50%" in section
    assert section.count("<img") == 1
    assert "4.png<br>classes 1, 2; merged" in section
    assert "<br>region 2: 0.80, 0: 0.10<br>region 1: 0.80, 0: 0.10<br>image 1: 0.45" in section


def test_the_limit_of_the_image_scores_is_explained(html: str) -> None:
    section = part(html, "Image scores")
    assert "at most 5.0% of good images" in section
    assert "limit 0.4" in section
    assert "Nearest to the limit" in section


def test_every_binarization_has_its_column(html: str) -> None:
    section = part(html, "Maps and masks")
    heads = re.findall(r'<th scope="col">(.*?)</th>', section)
    fixed = ["fixed 0.3", "fixed 0.5", "fixed 0.7"]
    assert heads[1:] == ["image", "anomaly map", "Otsu", *fixed, "MEBin"]
    assert section.count("<img") == 6 * 7
    assert "above 0.600: 1 region<" in section
    assert section.count(">no region<") == 2


def test_attention_leaves_sub_images_without_patches_out(html: str) -> None:
    section = part(html, "What the class token looks at")
    assert re.findall(r'<th scope="row">(.*?)</th>', section) == ["class 1", "class 2"]
    assert section.count("50% on the patches") == 5
    uris = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', section)
    pixels = (np.frombuffer(base64.b64decode(uri), np.uint8) for uri in uris)
    widths = [cv2.imdecode(data, cv2.IMREAD_COLOR).shape[1] for data in pixels]
    assert sorted(widths) == [224] * 3 + [336] * 2  # two have the plain attention as well


def test_each_head_has_its_curve(html: str) -> None:
    section = part(html, "Training")
    assert section.count("<svg") == 2
    assert "head 1 ends lowest" in section
    assert re.findall(r">(head \d)</text>", section) == ["head 0", "head 1"]


def test_scores_are_shown_by_class_and_by_label(html: str) -> None:
    section = part(html, "Image scores")
    titles = re.findall(r'aria-label="a&lt;b: image scores by ([^"]+)"', section)
    assert titles == ["discovered class", "true label"]


def test_both_scatters_are_there_and_named(html: str) -> None:
    section = part(html, "Embeddings")
    names = re.findall(r'aria-label="([^"]*)"', section)
    assert names == ["a&lt;b: discovered classes", "a&lt;b: true labels"]
    assert "one of 7 regions" in section
    colour = {
        name: fill
        for fill, name in re.findall(r'fill="(#\w+)" fill-opacity="\.8"><title>(\w+)', section)
    }
    discovered = re.findall(r'fill="(#\w+)" fill-opacity="\.8"><title>class (\d)', section)
    assert colour["crack"] == dict((k, c) for c, k in discovered)["1"]


def test_times_and_everything_from_disk_is_escaped(html: str) -> None:
    section = part(html, "Time")
    assert "<td>100.0</td>" in section
    assert "3 CPU cores, m&lt;i&gt;" in section
    assert "a<b" not in html


def test_examples_and_gallery_are_bounded_and_the_method_is_named(
    made: Path, tmp_path: Path
) -> None:
    shutil.copytree(made, tmp_path / "copy")
    artifacts = ArtifactPaths(tmp_path / "copy" / "data")
    table = artifacts.mebin(NAME) / "images.parquet"
    frame = read_parquet(table, schemas.MEBIN_IMAGES)
    write_parquet(table, frame, schemas.MEBIN_IMAGES, {"method": "otsu"})
    scores = read_parquet(artifacts.maps(NAME) / "scores.parquet", schemas.MAP_SCORES)
    broken = int(scores["score"].argmin())
    (tmp_path / "copy" / "images" / NAME / f"{broken}.png").write_bytes(b"broken")
    options = {"examples": 2, "gallery": 1}
    html = page(tmp_path / "copy", report=options, mebin={"fixed_threshold": 0.3})
    section = part(html, "Maps and masks")
    assert section.count('<th scope="row">') == 1  # the lowest score belongs to the broken image
    assert f"{broken}.png" not in section
    assert "chosen: Otsu" in section
    assert re.findall(r"<th scope=\"col\">fixed ([\d.]+)", section) == ["0.1", "0.3", "0.5"]
    assert part(html, "Discovered classes").count("<img") == 3


def test_without_labels_nothing_is_judged(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "copy")
    folder = ArtifactPaths(tmp_path / "copy" / "data").manifest(NAME)
    for name, schema in (("labels", schemas.LABELS), ("masks", schemas.MASKS)):
        empty = pd.DataFrame({column: pd.Series(dtype=str) for column in schema.names})
        write_parquet(folder / f"{name}.parquet", empty, schema)
    shutil.rmtree(tmp_path / "copy" / "data" / "runs")
    html = page(tmp_path / "copy")
    assert "<h3>Time</h3>" not in html
    assert "true labels" not in html
    assert "labelled as combined" not in html
    assert part(html, "Embeddings").count("<svg") == 1
    assert part(html, "Image scores").count("<svg") == 2
    metrics = read_json(ArtifactPaths(tmp_path / "copy" / "data").evaluate(NAME) / "metrics.json")
    assert metrics["combined_n"] is metrics["combined_multi"] is None


def test_attention_of_other_regions_is_refused(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "copy")
    path = ArtifactPaths(tmp_path / "copy" / "data").predict(NAME) / "attention.zarr"
    write_arrays(path, {"attention": np.zeros((3, 4, 4), np.float16)}, image_size=56)
    with pytest.raises(ArtifactError, match="run `predict` again"):
        page(tmp_path / "copy")


def test_the_report_needs_no_torch() -> None:
    files = closure(Path("stages/report.py"))
    assert len(files) > 5
    assert not [file for file in files if "import torch" in (ROOT / file).read_text("utf-8")]


def review_data(root: Path) -> tuple[str, dict[str, Any]]:
    """Return a review page and the content of its blocks."""
    html = (root / "data/report" / f"review-{NAME}.html").read_text(encoding="utf-8")
    blocks = re.findall(r'<script type="application/json" id="(\w+)">(.*?)</script>', html, re.S)
    return html, {name: json.loads(block) for name, block in blocks}


def test_the_review_page_holds_every_region(made: Path, html: str) -> None:
    assert 'href="review-a%3Cb.html"' in html
    assert 'href="review-a%3Cb.html#class=2"' in html
    assert "0 corrections applied" in html
    text, content = review_data(made)
    assert "a<b" not in text
    data, artifacts = content["data"], ArtifactPaths(made / "data")
    assert data["run"] == run_of(artifacts, NAME)
    assert [c["name"] for c in data["classes"]] == [None] * 3
    table = read_parquet(artifacts.predict(NAME) / "regions.parquet", schemas.REGIONS)
    regions = data["regions"]
    assert regions["id"] == table["crop_id"].tolist()
    assert regions["model"] == regions["shown"] == [0, 0, 1, 1, 2, 1, 2]
    assert regions["image"] == [0, 1, 2, 3, 4, 4, 5]
    assert regions["square"] == [[2, 3, 20]] * 7
    stored = np.asarray(open_arrays(artifacts.predict(NAME) / "descriptors.zarr")["descriptors"])
    expected = typicality(stored.reshape(7, -1), regions["model"])
    np.testing.assert_allclose(regions["typicality"], expected, atol=1e-4)
    assert data["images"]["path"] == [f"{i}.png" for i in range(6)]
    assert (data["images"]["width"][0], data["images"]["height"][0]) == (64, 48)
    assert data["images"]["merged"] == [0, 0, 1, 1, *data["images"]["merged"][4:]]
    assert len(content["thumbnails"]) == 7
    outlines = [outline for _, _, outline in content["pictures"]]
    assert outlines[:2] == ["", ""]
    # the square 8:16 of a map of 32 x 32 over 64 x 48 pixels, through pixel centres
    assert {frozenset(re.findall(r"\d+ \d+", o)) for o in outlines[2:]} == {
        frozenset({"17 13", "17 23", "31 23", "31 13"})
    }


def test_no_label_reaches_the_review_page(made: Path, html: str) -> None:
    del html
    text, _ = review_data(made)
    text = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert not [label for label in set(LABELS) if label in text]


def test_names_and_corrections_are_shown(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(made, root)
    artifacts = ArtifactPaths(root / "data")
    run = run_of(artifacts, NAME)
    set_name(root / "names.yaml", NAME, 1, "cr<ack", run)
    regions = read_parquet(artifacts.predict(NAME) / "regions.parquet", schemas.REGIONS)
    entries = [
        {"crop_id": "s2_0", "name": "st<ain"},
        {"crop_id": "s0_0", "name": "cr<ack"},
        {"crop_id": "s5_0", "class": 0},
    ]
    file = root / "download.json"
    write_json(file, {"category": NAME, "run": run, "corrections": entries})
    add_corrections(artifacts, NAME, file, regions)
    html = page(root)
    assert "Class 1: cr&lt;ack \u2013 3 regions" in html
    assert "3 corrections applied there" in html
    text, content = review_data(root)
    assert "3 corrections applied" in text
    assert [c["name"] for c in content["data"]["classes"]] == [None, "cr<ack", None, "st<ain"]
    assert content["data"]["regions"]["shown"] == [1, 0, 3, 1, 2, 1, 0]
    assert content["data"]["regions"]["model"] == [0, 0, 1, 1, 2, 1, 2]
    assert content["data"]["regions"]["typicality"][2] == 1  # alone in its class


def test_names_and_corrections_of_another_run_are_not_used_and_it_says_so(
    made: Path, tmp_path: Path
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(made, root)
    set_name(root / "names.yaml", NAME, 1, "crack", "000000000000")
    stored = {"category": NAME, "run": "000000000000", "corrections": []}
    write_json(root / "data/corrections" / f"{NAME}.json", stored)
    html = page(root)
    for text in (html, review_data(root)[0]):
        assert "Classes are shown by number: " in text
        assert "Corrections are not applied: " in text
        assert "0 corrections applied" in text
    assert "<h4>Class 1 \u2013" in html
    (root / "names.yaml").write_text("- 3")
    with pytest.raises(ConfigError, match=r"names\.yaml"):
        page(root)


def test_pages_of_categories_that_are_gone_vanish(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(made, root)
    (root / "data/report").mkdir(exist_ok=True)
    (root / "data/report/review-old.html").write_text("")
    page(root)
    assert {p.name for p in (root / "data/report").iterdir()} == {
        "index.html",
        f"review-{NAME}.html",
    }


def test_pictures_stop_at_the_size_that_a_page_may_have(made: Path, html: str) -> None:
    del html
    category = tables(made, ArtifactPaths(made / "data"))
    whole = review(category)
    assert whole.n_pictures == whole.n_images == 6
    parts = [sum(map(len, picture)) for picture in whole.pictures if picture]
    limit = sum(map(len, whole.thumbnails)) + sum(parts[:2]) + 1
    assert review(category, page_bytes=limit).n_pictures == 2
    assert len(review(category, page_bytes=0).thumbnails) == 7
    (category.folder / "1.png").rename(category.folder / "aside.png")
    try:
        assert [p is None for p in review(category).pictures] == [False, True] + [False] * 4
    finally:
        (category.folder / "aside.png").rename(category.folder / "1.png")


def test_masks_of_other_images_are_refused(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(made, root)
    table = ArtifactPaths(root / "data").mebin(NAME) / "images.parquet"
    frame = read_parquet(table, schemas.MEBIN_IMAGES)
    write_parquet(table, frame[::-1], schemas.MEBIN_IMAGES, {"method": "mebin"})
    with pytest.raises(ArtifactError, match="run `mebin` again"):
        page(root)


def test_descriptors_of_other_regions_are_refused(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "copy")
    path = ArtifactPaths(tmp_path / "copy" / "data").predict(NAME) / "descriptors.zarr"
    write_arrays(path, {"descriptors": np.zeros((3, 2, 5), np.float16)})
    with pytest.raises(ArtifactError, match="of other regions; run `predict` again"):
        page(tmp_path / "copy")


def test_a_review_page_without_regions(made: Path, html: str, tmp_path: Path) -> None:
    del html
    shutil.copytree(made, tmp_path / "copy")
    artifacts = ArtifactPaths(tmp_path / "copy" / "data")
    category = tables(made, artifacts)
    empty = replace(category, regions=category.regions[:0], crops=category.crops[:0])
    none = np.zeros((0, 2, 5), np.float16)
    write_arrays(artifacts.predict(NAME) / "descriptors.zarr", {"descriptors": none})
    found = review(empty)
    assert (found.n_regions, found.n_images, found.n_pictures) == (0, 0, 0)
    assert found.data["regions"]["typicality"] == found.data["classes"] == []
    assert "0 regions of 0 images (6 of 6 have none)" in render_review(found)


def test_verdicts_on_parts_are_shown_only_where_there_are_parts(
    made: Path, html: str, tmp_path: Path
) -> None:
    assert "<h3>Parts</h3>" not in html
    root = tmp_path / "copy"
    shutil.copytree(made, root)
    table = ArtifactPaths(root / "data").manifest(NAME) / "images.parquet"
    frame = read_parquet(table, schemas.IMAGES)
    frame["part"] = ["good", "good", "<b>", "<b>", "<b>", "last", "r0"]
    write_parquet(table, frame, schemas.IMAGES)
    section = part(page(root, manifest={"part": "parts.csv"}), "Parts")
    assert "3 parts, 2 of them not normal" in section
    rows = re.findall(
        r'<th scope="row">(.*?)</th><td>(.*?)</td><td>.*?</td><td>(.*?)</td>', section
    )
    assert rows == [("&lt;b&gt;", "class 1", "3 of 3"), ("last", "class 2", "1 of 1")]


def test_metrics_are_shown_with_their_intervals(html: str) -> None:
    summary = html[: html.index("Labels and masks are used")]
    interval = r'<span class="interval">\[-?\d\.\d{3}, \d\.\d{3}\]</span>'
    assert re.search(rf"<td>\d\.\d{{3}}{interval}</td>", summary)
    assert "{" not in summary[summary.index("<tbody>") :]


def test_the_summary_has_no_intervals(made: Path, html: str) -> None:
    del html
    assert "intervals" not in read_json(made / "data" / "summary.json")


def test_the_page_does_not_tell_where_it_was_made() -> None:
    """An address is no part of an artifact, and engines leave the page the same."""
    given = parse_params({"compute": {"engine": "dask", "address": "tcp://secret:1", "workers": 2}})
    assert report.shown_params(given) == report.shown_params(Params())
    assert '"memory_mb"' in report.shown_params(Params())
