"""Kinds of bad maps, parameters, names, corrections, weights and artifacts, each with its outcome.

The outcome is an error that names the file or key and says why, or the right result. More kinds
stand in test_params.py, test_inputs.py, test_artifacts.py and beside the modules;
docs/reliability.md lists where.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import shutil
import struct
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save as to_bytes
from safetensors.torch import save_file

from pipeline.config.params import Params
from pipeline.config.reading import load_params, parse_params
from pipeline.config.section import ConfigError
from pipeline.curation.corrections import read_corrections
from pipeline.curation.names import read_names
from pipeline.io import tables
from pipeline.io.arrays import ArraySpec, create_arrays, open_arrays
from pipeline.io.backbone_weights import load_backbone, load_saved, save
from pipeline.io.dataset_formats import DatasetError
from pipeline.io.map_files import MapFileError, read_map
from pipeline.io.parts import parts_by_file
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.pypi_backbone import WeightsError
from pipeline.io.schemas import LABELS, MERGED, REGIONS
from pipeline.io.tables import read_json, read_parquet
from pipeline.mgvit.backbone import create_vit
from tests.running import run_stage

# Maps

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


def npy(shape: tuple[int, ...], kind: object = "<f4", data: bytes = bytes(64)) -> bytes:
    """Return an .npy file that says this of what follows its header."""
    buffer = io.BytesIO()
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + data


def saved(values: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return buffer.getvalue()


def lying(size: int) -> bytes:
    """Return an .npz whose directory says another size than that of its member."""
    whole = bytearray(zipped(a__npy=saved(VALUES)))
    place = whole.index(b"PK\x01\x02") + 24
    whole[place : place + 4] = struct.pack("<I", size)
    return bytes(whole)


RUNS = "{'descr': __import__('os').system('touch PWNED'), 'fortran_order': False, 'shape': (1,)}"
CODE = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + RUNS.ljust(117).encode() + b"\n"

BAD_MAPS: dict[str, tuple[str, bytes, str]] = {
    "4 TiB by its header": ("a.npy", npy((2**20, 2**20)), "not a readable map"),
    "4 GiB by its header": ("a.npy", npy((2**15, 2**15)), "could only read"),
    "a negative shape": ("a.npy", npy((-4, -4)), "not a readable map"),
    "objects by its header": ("a.npy", npy((2, 2), "|O"), "Object arrays"),
    "code in its header": ("a.npy", CODE, "not a readable map"),
    "complex numbers": ("a.npy", npy((2, 2), "<c8"), "type complex64"),
    "records": ("a.npy", npy((2,), [("x", "<f4")]), "are no anomaly map"),
    "dates": ("a.npy", npy((2, 2), "<M8[s]"), "are no anomaly map"),
    "a single number": ("a.npy", saved(np.float32(3)), "no map of"),
    "a row of numbers": ("a.npy", saved(VALUES[0]), "no map of"),
    "a PNG called .npy": ("a.npy", b"\x89PNG\r\n\x1a\n" + bytes(50), "not a readable map"),
    "an archive without arrays": ("a.npz", zipped(a__txt=b"text"), "no anomaly map"),
    "an empty archive": ("a.npz", zipped(), "holds 0 arrays"),
    "an archive with a lie of its size": ("a.npz", lying(2**31), "over the limit"),
    "an archive that is cut": ("a.npz", lying(30), "not a readable map"),
    "a pickle": ("a.npz", b"\x80\x04cos\nsystem\n(S'touch PWNED'\ntR.", "not a readable map"),
}


@pytest.mark.parametrize("kind", BAD_MAPS)
def test_a_bad_map_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    name, content, said = BAD_MAPS[kind]
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MapFileError, match=rf"{name}: .*{said}"):
        read_map(tmp_path / name)
    assert not list(tmp_path.rglob("PWNED"))


@pytest.mark.parametrize("order", ["<f8", ">f4", "<f2", ">i2", "|u1"])
@pytest.mark.parametrize("columns", [False, True])
def test_a_map_of_any_order_is_read(tmp_path: Path, order: str, columns: bool) -> None:
    values = VALUES.astype(order)
    np.save(tmp_path / "a.npy", np.asfortranarray(values) if columns else values)
    np.testing.assert_array_equal(read_map(tmp_path / "a.npy"), VALUES)


# params.yaml

LAUGHS = "dataset:\n  categories:\n  - &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"  - &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
BAD_PARAMS: dict[str, tuple[str, str]] = {
    "a key twice": ("maps: {seed: 1, seed: 2}", 'duplicate key "seed"'),
    "a section twice": ("maps: {seed: 1}\nmaps: {seed: 2}", 'duplicate key "maps"'),
    "code by a tag": ('maps: !!python/object/apply:os.system ["touch PWNED"]', "the tag"),
    "a name by a tag": ("maps: !!python/name:os.system", "the tag"),
    "a tag of its own": ("maps: !mine {seed: 1}", "the tag"),
    "bytes": ("dataset: {root: !!binary aGVsbG8=}", r"dataset\.root: .*string"),
    "a set": ("maps: !!set {seed}", "maps: "),
    "text by a tag": ("maps: {seed: !!str 1}", r"maps\.seed: .*integer"),
    "a section that holds itself": ("maps: &a\n  seed: *a", r"maps\.seed: .*integer"),
    "a list that holds itself": ("&a [*a]", "the file: .*dictionary"),
    "a billion laughs": (LAUGHS, r"dataset\.categories\.0"),
    "a merge of unknown keys": ("x: &a {seed: 1}\nmaps:\n  <<: *a", "x: unknown key"),
    "two documents": ("maps: {seed: 1}\n---\nmaps: {seed: 2}", "a single document"),
    "a tab": ("maps:\n\tseed: 1", "not valid YAML"),
    "NUL": ("maps: {seed: 1}\0", "not valid YAML"),
    "yes": ("views: {augment: {flip: yes}}", r"views\.augment\.flip: .*boolean .*'yes'"),
    "a time": ("maps: {seed: 1:30}", r"maps\.seed: .*'1:30'"),
    "a fraction": ("maps: {seed: 1.0}", r"maps\.seed: .*integer .*1\.0"),
    "not a number": ("maps: {gamma: .nan}", r"maps\.gamma: .*finite.*nan"),
    "infinity": ("maps: {gamma: .inf}", r"maps\.gamma: .*finite.*inf"),
    "an empty section": ("maps:", "maps: "),
    "a list": ("- 1", "the file: "),
    "a word": ("hello", "the file: "),
    "a number as key": ("1: {a: 2}", "1: "),
    "no key": ("~: {a: 2}", "Keys should be strings"),
    "another version of YAML": ("%YAML 9.9\n---\nmaps: {seed: 1}", "not valid YAML"),
    "no method to compare": ("compare: {methods: []}", r"compare\.methods: "),
    "no input to compare": ("compare: {input: []}", r"compare\.input: "),
    "no category": ("dataset: {categories: []}", r"dataset\.categories: "),
    "a category twice": ("dataset: {categories: [a, a]}", "listed twice"),
    "categories that differ in case": ("dataset: {categories: [Metal, metal]}", "upper and lower"),
    "a category of 300 letters": (f"dataset: {{categories: [{'x' * 300}]}}", "longer than 150"),
    "a category above": ("dataset: {categories: [..]}", "cannot be a category"),
    "1 MiB": ("#" * 2**20 + "\n", "1 MiB large"),
}


@pytest.mark.parametrize("kind", BAD_PARAMS)
def test_bad_parameters_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    content, said = BAD_PARAMS[kind]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(content)
    with pytest.raises(ConfigError, match=rf"params\.yaml: .*{said}"):
        load_params(tmp_path / "params.yaml")
    assert not list(tmp_path.rglob("PWNED"))


def test_categories_that_differ_in_the_form_of_accents_are_refused() -> None:
    names = [unicodedata.normalize(form, "é") for form in ("NFC", "NFD")]
    with pytest.raises(ConfigError, match="accents"):
        parse_params({"dataset": {"categories": names}})


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_parameters_and_names_that_are_no_file_are_refused_at_once(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "x.yaml"
    os.mkfifo(path) if kind == "pipe" else path.mkdir()
    for read in (load_params, read_names):
        with pytest.raises(ConfigError, match=r"x\.yaml: not a regular file"):
            read(path)


GOOD_PARAMS = {
    "a byte order mark": b"\xef\xbb\xbfmaps: {seed: 7}\n",
    "lines of Windows": b"maps:\r\n  seed: 7\r\n",
    "lines of old Macs": b"maps:\r  seed: 7\r",
    "a leading zero": b"maps: {seed: 007}\n",
    "no end of line": b"maps: {seed: 7}",
    "the end of a document": b"---\nmaps: {seed: 7}\n...\n",
}


@pytest.mark.parametrize("kind", GOOD_PARAMS)
def test_parameters_are_read_however_they_were_saved(tmp_path: Path, kind: str) -> None:
    (tmp_path / "params.yaml").write_bytes(GOOD_PARAMS[kind])
    assert load_params(tmp_path / "params.yaml").maps.seed == 7


# names.yaml, corrections and the file of parts

BAD_NAMES = {
    "a class twice": ("c: {1: a, 1: b}", 'duplicate key "1"'),
    "a category twice": ("c: {1: a}\nc: {2: b}", 'duplicate key "c"'),
    "a negative class": ("c: {-1: a}", "c: -1 is not a class number"),
    "half a class": ("c: {1.5: a}", r"c: 1\.5 is not a class number"),
    "a class as text": ('c: {"1": a}', "c: '1' is not a class number"),
    "code by a tag": ("c: {1: !!python/name:os.system x}", "the tag"),
    "a list": ("[1]", "must map categories"),
    "no names": ("c:", "c: must map class numbers"),
    "an empty name": ('c: {1: " "}', r"c\.1: ' ' is not a name"),
    "a number as name": ("c: {1: 5}", r"c\.1: 5 is not a name"),
}


@pytest.mark.parametrize("kind", BAD_NAMES)
def test_bad_names_are_named(tmp_path: Path, kind: str) -> None:
    content, said = BAD_NAMES[kind]
    (tmp_path / "names.yaml").write_text(content)
    with pytest.raises(ConfigError, match=rf"names\.yaml: .*{said}"):
        read_names(tmp_path / "names.yaml")


def corrections(entry: str) -> str:
    return f'{{"category": "c", "run": "r", "corrections": [{entry}]}}'


BAD_CORRECTIONS = {
    "no byte": ("", "not valid JSON"),
    "a web page": ("<html>", "not valid JSON"),
    "two contents": (corrections("") * 2, "Extra data"),
    "another key": (corrections("")[:-1] + ', "__proto__": {}}', "must hold category"),
    "a class that is no number": (corrections('{"crop_id": "a", "class": NaN}'), "nan is not"),
    "half a class": (corrections('{"crop_id": "a", "class": 1.0}'), "1.0 is not"),
    "a class of 5000 digits": (
        corrections(f'{{"crop_id": "a", "class": {"9" * 5000}}}'),
        "not valid JSON",
    ),
    "truth as class": (corrections('{"crop_id": "a", "class": true}'), "True is not"),
    "half a letter": (corrections('{"crop_id": "a", "name": "\\ud800"}'), "is not a name"),
    "no region": (corrections('{"class": 1}'), "must have a crop_id"),
    "class and name": (corrections('{"crop_id": "a", "class": 1, "name": "b"}'), "either"),
    "a list in a list": (corrections("[]"), "must have a crop_id"),
}


@pytest.mark.parametrize("kind", BAD_CORRECTIONS)
def test_bad_corrections_are_named(tmp_path: Path, kind: str) -> None:
    content, said = BAD_CORRECTIONS[kind]
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(ConfigError, match=rf"c\.json: .*{said}"):
        read_corrections(tmp_path / "c.json")


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_corrections_are_read_however_they_were_saved(
    tmp_path: Path, start: bytes, end: str
) -> None:
    content = json.loads(corrections('{"crop_id": "a", "class": 1}'))
    text = json.dumps(content, indent=1).replace("\n", end)
    (tmp_path / "c.json").write_bytes(start + text.encode())
    assert read_corrections(tmp_path / "c.json").targets == {"a": 1}


def test_a_file_of_parts_that_is_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "parts.csv")
    with pytest.raises(
        DatasetError, match=r"manifest\.part: .*parts\.csv cannot be read \(not a regular file"
    ):
        parts_by_file(tmp_path / "parts.csv", [])


# Weights

VIT = "test_vit.r160_in1k"


class Runs:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch PWNED",)


def state(change: Callable[[dict[str, torch.Tensor]], object] = lambda _: None) -> Any:
    content = dict(create_vit(VIT, None).state_dict())
    change(content)
    return content


def scribbled(content: dict[str, torch.Tensor]) -> None:
    content["norm.weight"] = content["norm.weight"].clone()
    content["norm.weight"][3] = torch.nan


BAD_WEIGHTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a pickle that runs": (lambda p: torch.save({"a": Runs()}, p), "w.pth", "Only tensors"),
    "a pickle that runs, of old": (
        lambda p: torch.save({"a": Runs()}, p, _use_new_zipfile_serialization=False),
        "w.pt",
        "Only tensors",
    ),
    "a pickle in place of tensors": (
        lambda p: torch.save(Runs(), p),
        "w.safetensors",
        "not a readable file of weights",
    ),
    "a header of 8 EiB": (
        lambda p: p.write_bytes(struct.pack("<Q", 2**63 - 1) + b"{}"),
        "w.safetensors",
        "not a readable file of weights",
    ),
    "a header that ends nowhere": (
        lambda p: p.write_bytes(struct.pack("<Q", 2) + b"{"),
        "w.safetensors",
        "not a readable file of weights",
    ),
    "cut short": (
        lambda p: p.write_bytes(to_bytes(state())[:-9]),
        "w.safetensors",
        "not a readable file of weights",
    ),
    "not a number": (
        lambda p: save_file(state(scribbled), p),
        "w.safetensors",
        r"norm\.weight holds NaN",
    ),
    "a tensor less": (
        lambda p: save_file(state(lambda s: s.pop("norm.weight")), p),
        "w.safetensors",
        r"missing .*norm\.weight",
    ),
    "a folder": (lambda p: p.mkdir(), "w.safetensors", "is not a file"),
    "a pipe": (lambda p: os.mkfifo(p), "w.pth", "is not a file"),
    "a list": (lambda p: torch.save([torch.ones(1)], p), "w.pth", "not a state dict"),
}


@pytest.mark.parametrize("kind", BAD_WEIGHTS)
def test_bad_weights_are_named_and_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    make, name, said = BAD_WEIGHTS[kind]
    monkeypatch.chdir(tmp_path)
    make(tmp_path / name)
    with pytest.raises(WeightsError, match=said) as caught:
        load_backbone("file", VIT, tmp_path / name)
    assert name in str(caught.value)
    assert not list(tmp_path.rglob("PWNED"))


@pytest.mark.parametrize("name", ["hf-hub:a/b", "local-dir:/etc", "https://a/b", "../../x"])
def test_a_backbone_that_is_an_address_is_no_model(name: str) -> None:
    with pytest.raises(WeightsError, match=r"backbone\.name: .*is not a timm model"):
        load_backbone("random", name, Path("x"))


def test_weights_that_changed_on_disk_are_named(tmp_path: Path) -> None:
    save(tmp_path / "backbone", *load_backbone("random", VIT, Path("x")))
    save_file(state(scribbled), tmp_path / "backbone/weights.safetensors")
    with pytest.raises(ArtifactError, match=r"not the file that backbone\.json describes"):
        load_saved(tmp_path / "backbone")


# Artifacts


def group(path: Path, seed: int) -> Path:
    values = np.random.default_rng(seed).random((3, 8, 8), np.float32)
    with create_arrays(path, {"maps": ArraySpec((3, 8, 8), "float32")}) as arrays:
        arrays["maps"][:] = values
    return path


def edited(path: Path, key: str, value: object) -> None:
    content = read_json(path / "zarr.json")
    content["attributes"][key] = value
    (path / "zarr.json").write_text(json.dumps(content))


def turn(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


SHARD = "maps/c/0/0/0"
BAD_ARRAYS: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "a shard of another category": (
        lambda ours, other: shutil.copy(other / SHARD, ours / SHARD),
        f"the shard {SHARD} is not the one that was written; run the stage 'maps' again",
    ),
    "a bit of a shard": (lambda ours, _: turn(ours / SHARD, 40), "not the one that was written"),
    "a shard too long": (
        lambda ours, _: (ours / SHARD).open("ab").write(b"x"),
        "not the one that was written",
    ),
    "no shard": (lambda ours, _: (ours / SHARD).unlink(), f"the shard {SHARD} is missing"),
    "another schema version": (
        lambda ours, _: edited(ours, "schema_version", 2),
        "schema_version is 2, this program reads 1; run its stage again",
    ),
    "checksums of nothing": (lambda ours, _: edited(ours, "crc32", {}), "its attribute 'crc32'"),
    "checksums that are text": (lambda ours, _: edited(ours, "crc32", "x"), "attribute 'crc32'"),
    "no description": (lambda ours, _: (ours / "zarr.json").unlink(), "not a readable Zarr"),
    "half a description": (lambda ours, _: os.truncate(ours / "zarr.json", 40), "not a readable"),
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
def test_bad_arrays_are_named(tmp_path: Path, kind: str) -> None:
    change, said = BAD_ARRAYS[kind]
    ours, other = (group(tmp_path / f"maps/{name}/maps.zarr", i) for i, name in enumerate("ab"))
    open_arrays(ours)
    change(ours, other)
    with pytest.raises(ArtifactError, match=rf"a/maps\.zarr: .*{said}"):
        open_arrays(ours)


def test_arrays_without_checksums_are_taken_as_they_are(tmp_path: Path) -> None:
    """They were written before there were any."""
    path = group(tmp_path / "maps/a/maps.zarr", 0)
    content = read_json(path / "zarr.json")
    del content["attributes"]["crc32"]
    (path / "zarr.json").write_text(json.dumps(content))
    turn(path / SHARD, -1)
    open_arrays(path)


def test_a_table_of_another_schema_version_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "SCHEMA_VERSION", 2)
    frame = pd.DataFrame(columns=LABELS.names)
    tables.write_parquet(tmp_path / "labels.parquet", frame, LABELS)
    monkeypatch.undo()
    with pytest.raises(ArtifactError, match=r"labels\.parquet: schema_version is 2, .* again"):
        read_parquet(tmp_path / "labels.parquet", LABELS)


# Whole sets

STAGES = (
    "manifest", "maps", "mebin", "crops", "classes",
    "views", "train", "predict", "shape", "merge", "evaluate", "report",
)  # fmt: skip


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("backbone")
    run_all(root, {}, "backbone", "base")
    return root / "data"


def run_all(root: Path, sections: dict[str, dict[str, Any]], *stages: str) -> ArtifactPaths:
    for name in ("normal", "base"):
        (root / name).mkdir(exist_ok=True)
    content: dict[str, dict[str, Any]] = {
        "dataset": {"root": str(root / "images"), "categories": ["c"]},
        "backbone": {"source": "random", "name": VIT},
        "manifest": {"normal_root": str(root / "normal")},
        "maps": {
            "method": "musc",
            "layers": [3],
            "neighbourhoods": [1],
            "resolution": 64,
            "map_size": 64,
        },
        "mebin": {"erode_px": 1, "tau": 3},
        "base": {"root": str(root / "base")},
        "predict": {"layers": [3]},
        "compute": {"device": "cpu"},
        "evaluate": {"bootstrap": 0},
        "report": {"gallery": 1, "examples": 1},
    }
    for section, values in sections.items():
        content[section] = {**content.get(section, {}), **values}
    params, paths = Params.model_validate(content), ArtifactPaths(root / "data")
    for stage in stages:
        category = None if stage in ("backbone", "base", "report") else "c"
        run_stage(importlib.import_module(f"stages.{stage}"), category, params, paths)
    return paths


def texture(seed: int, spot: bool = False, height: int = 64, width: int = 64) -> NDArray[np.uint8]:
    pixels = np.random.default_rng(seed).integers(90, 110, (height, width, 3)).astype(np.uint8)
    if spot:
        pixels[10 + seed : 22 + seed, 8 + 4 * seed : 20 + 4 * seed] = 255 - 20 * seed
    return pixels


def saved_set(root: Path, images: dict[str, NDArray[np.uint8]]) -> None:
    for name, pixels in images.items():
        path = root / "images/c" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


GREY = np.full((64, 64, 3), 128, np.uint8)
GOOD = {f"test/good/{i}.png": texture(i) for i in range(4)}
BAD = {f"test/bad/{i}.png": texture(i, spot=True) for i in range(6)}
SETS: dict[str, tuple[dict[str, NDArray[np.uint8]], dict[str, dict[str, Any]], int]] = {
    "two images": ({"0.png": texture(0), "1.png": texture(1, spot=True)}, {}, 2),
    "all equal": ({f"0.{kind}": GREY for kind in ("png", "bmp", "tiff")}, {}, 3),
    "all normal": (GOOD, {"classes": {"count": "auto"}}, 4),
    "all defective": (BAD, {"classes": {"count": "auto"}}, 6),
    "200 classes of 10 images": ({**GOOD, **BAD}, {"classes": {"count": 200}}, 10),
    "a line of pixels": ({f"{i}.png": texture(i, height=1, width=300) for i in range(3)}, {}, 3),
}


@pytest.mark.parametrize("kind", SETS)
def test_a_strange_set_is_sorted(tmp_path: Path, backbone: Path, kind: str) -> None:
    images, sections, n = SETS[kind]
    saved_set(tmp_path, images)
    shutil.copytree(backbone, tmp_path / "data")
    paths = run_all(tmp_path, sections, *STAGES)
    merged = read_parquet(paths.merge("c") / "images.parquet", MERGED)
    assert len(merged) == n
    rows = np.stack(merged["probabilities"])
    np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-5)
    assert merged["class"].between(0, rows.shape[1] - 1).all()
    assert (paths.report() / "review-c.html").is_file()
    if kind == "all equal":
        assert merged["class"].nunique() == 1
    if kind == "200 classes of 10 images":
        assert rows.shape[1] == 200
        assert merged["class"].nunique() <= len(
            read_parquet(paths.predict("c") / "regions.parquet", REGIONS)
        )


@pytest.mark.parametrize("copies", [1, 3])
def test_one_image_is_refused_with_what_to_do(tmp_path: Path, backbone: Path, copies: int) -> None:
    """Files with the same bytes are one image."""
    saved_set(tmp_path, {f"{i}.png": GREY for i in range(copies)})
    shutil.copytree(backbone, tmp_path / "data")
    with pytest.raises(ArtifactError, match=r"c: .*at least 2: add images, or use patchcore"):
        run_all(tmp_path, {}, "manifest", "maps")


def test_one_image_with_references_is_sorted(tmp_path: Path, backbone: Path) -> None:
    images = {f"train/good/{i}.png": texture(i) for i in range(3)}
    saved_set(tmp_path, {**images, "test/bad/0.png": texture(5, spot=True)})
    shutil.copytree(backbone, tmp_path / "data")
    paths = run_all(tmp_path, {"maps": {"method": "nearest", "runs": [[1, 1]]}}, *STAGES)
    assert len(read_parquet(paths.merge("c") / "images.parquet", MERGED)) == 1
