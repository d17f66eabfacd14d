"""Artifacts on disk: where each one lies, its schema, and how it is written.

Parquet files carry `SCHEMA_VERSION` in their metadata, Zarr groups in their attributes. Everything
is written to a temporary sibling and renamed into place, so that no half of one is ever seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import zarr

from pipeline.errors import AnomalyNCDError
from pipeline.files import replacing as replacing
from pipeline.files import replacing_folder as replacing_folder

SCHEMA_VERSION = 1
_METADATA_KEY = b"anomalyncd"
_OF_CATEGORIES = (
    "manifest", "maps", "mebin", "crops", "classes",
    "views", "train", "predict", "merge", "evaluate",
)  # fmt: skip
_SHARD_ITEMS = 256
_SHARD_BYTES = 64 * 2**20
"""An upper bound on the uncompressed size of a shard: the unit of writing, of which zarr and the
stage hold several copies."""


class ArtifactError(AnomalyNCDError):
    """An artifact is missing, unreadable or not what its schema says."""


def _fields(*fields: tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema([pa.field(name, kind) for name, kind in fields])


_STRING, _INT, _FLOAT = pa.string(), pa.int64(), pa.float64()
_FLOATS = pa.list_(pa.float32())

IMAGES = _fields(
    ("sample_id", _STRING),
    ("path", _STRING),
    ("split", _STRING),
    ("height", _INT),
    ("width", _INT),
    ("channels", _INT),
)
LABELS = _fields(("sample_id", _STRING), ("label", _STRING))
MASKS = _fields(("sample_id", _STRING), ("mask_path", _STRING))
REJECTED = _fields(("path", _STRING), ("reason", _STRING))
MAP_SCORES = _fields(("sample_id", _STRING), ("score", _FLOAT), ("image_score", _FLOAT))
REFERENCE_SCORES = _fields(("sample_id", _STRING), ("score", _FLOAT))
MEBIN_IMAGES = _fields(
    ("sample_id", _STRING),
    ("threshold", _FLOAT),
    ("n_regions", _INT),
    ("run_length", _INT),
    ("counts", pa.list_(pa.int32())),
)
_CROP_FIELDS = (
    ("crop_id", _STRING),
    ("sample_id", _STRING),
    ("k", _INT),
    ("x0", _INT),
    ("y0", _INT),
    ("side", _INT),
    ("area_px", _INT),
    ("score", _FLOAT),
)
CROPS = _fields(*_CROP_FIELDS)
BASE_CROPS = _fields(*_CROP_FIELDS, ("label", _STRING))
REGIONS = _fields(
    ("crop_id", _STRING),
    ("sample_id", _STRING),
    ("class", _INT),
    ("confidence", _FLOAT),
    ("probabilities", _FLOATS),
    ("embedding", _FLOATS),
)
MERGED = _fields(
    ("sample_id", _STRING),
    ("class", _INT),
    ("confidence", _FLOAT),
    ("probabilities", _FLOATS),
    ("region_classes", pa.list_(_INT)),
    ("class_set", pa.list_(_INT)),
)
CLASSIFIED = _fields(
    ("path", _STRING),
    ("sample_id", _STRING),
    ("class", _INT),
    ("name", _STRING),
    ("confidence", _FLOAT),
    ("nearest_class", _INT),
    ("score", _FLOAT),
    ("probabilities", _FLOATS),
    ("region_classes", pa.list_(_INT)),
)


def write_parquet(
    path: Path,
    frame: pd.DataFrame,
    schema: pa.Schema,
    metadata: Mapping[str, object] | None = None,
) -> None:
    """Write `frame` with the columns and types of `schema`; `metadata` holds JSON values."""
    missing = [name for name in schema.names if name not in frame.columns]
    if missing:
        raise ArtifactError(f"{path}: the frame lacks the columns {missing}")
    table = pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)
    content = {"schema_version": SCHEMA_VERSION, **(metadata or {})}
    existing = table.schema.metadata or {}
    table = table.replace_schema_metadata({**existing, _METADATA_KEY: json.dumps(content).encode()})
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_parquet(path: Path, schema: pa.Schema) -> pd.DataFrame:
    """Read a table and check its columns against `schema`."""
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise missing(path) from None
    except (OSError, pa.ArrowInvalid) as error:
        raise damaged(path, f"not a readable Parquet file ({error})") from error
    _check_version(path, _decode(table.schema.metadata))
    if table.schema.names != schema.names:
        raise ArtifactError(f"{path}: has columns {table.schema.names}, expected {schema.names}")
    for name, kind in zip(schema.names, schema.types, strict=True):
        found = table.schema.field(name).type
        if found != kind:
            raise damaged(path, f"the column {name!r} is of type {found}, expected {kind}")
    frame: pd.DataFrame = table.to_pandas()
    return frame


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata that `write_parquet` stored, `schema_version` among them."""
    try:
        return _decode(pq.read_schema(path).metadata)
    except FileNotFoundError:
        raise missing(path) from None
    except (OSError, pa.ArrowInvalid) as error:
        raise damaged(path, f"not a readable Parquet file ({error})") from error


def image_bits(manifest: Path) -> int:
    """Return the significant bits of a category's 16-bit images, as its manifest keeps them."""
    return int(read_metadata(manifest / "images.parquet").get("bits", 16))


def _decode(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((metadata or {}).get(_METADATA_KEY, b"{}"))
    return content


def write_json(path: Path, content: object) -> None:
    """Write `content` as indented JSON; NaN is refused (use None)."""
    with replacing(path) as temporary:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or broken one is an `ArtifactError` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise missing(path) from None
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path}: not UTF-8 text: save as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not valid JSON ({error})") from error


@dataclass(frozen=True)
class ArraySpec:
    """Shape and dtype of one array of a Zarr group; axis 0 counts the items."""

    shape: tuple[int, ...]
    dtype: str


def shard_count(spec: ArraySpec) -> int:
    """Return how many shards an array has; one without elements has none."""
    return 0 if 0 in spec.shape else -(-spec.shape[0] // shard_items(spec))


def shard_items(spec: ArraySpec) -> int:
    """Return how many items share a shard: one writer writes a whole shard at a time."""
    item = int(np.prod(spec.shape[1:], dtype=np.int64)) * np.dtype(spec.dtype).itemsize
    return max(1, min(_SHARD_ITEMS, _SHARD_BYTES // max(item, 1)))


@contextmanager
def create_arrays(
    path: Path, specs: Mapping[str, ArraySpec], attributes: Mapping[str, object] | None = None
) -> Iterator[dict[str, zarr.Array]]:
    """Yield the writable arrays of a new Zarr v3 group, renamed onto `path` at the end.

    One chunk an item of axis 0, sharded (`shard_items`). Attributes that are known only at the end
    can be set through ``arrays[name].attrs``; `attributes` go to the group, which also keeps the
    number of shards of each array. All of them must be written, those of zeros too: `open_arrays`
    counts them.
    """
    with replacing_folder(path) as temporary:
        group = zarr.create_group(temporary, zarr_format=3)
        shards = {name: shard_count(spec) for name, spec in specs.items()}
        content = {"schema_version": SCHEMA_VERSION, "shards": shards, **(attributes or {})}
        group.attrs.update(content)
        yield {name: _create_array(group, name, spec) for name, spec in specs.items()}


def _create_array(group: zarr.Group, name: str, spec: ArraySpec) -> zarr.Array:
    chunk = (1, *(max(1, n) for n in spec.shape[1:]))
    return group.create_array(
        name,
        shape=spec.shape,
        dtype=spec.dtype,
        chunks=chunk,
        shards=(shard_items(spec), *chunk[1:]),
        fill_value=0,
        config={"write_empty_chunks": True},  # else a shard of zeros would be no file
    )


class _Array(zarr.Array):  # type: ignore[misc]  # zarr has no types here
    """An array of which a damaged shard is an `ArtifactError` when it is read."""

    def __getitem__(self, selection: Any) -> Any:
        try:
            return super().__getitem__(selection)
        except (ValueError, RuntimeError) as error:  # a checksum; a decompressor
            where = str(self.store_path).removeprefix("file://")
            raise ArtifactError(f"{where}: damaged ({error}); run its stage again") from error


class _Group(zarr.Group):  # type: ignore[misc]
    """A group of `_Array`."""

    def __getitem__(self, path: str) -> zarr.Array | zarr.Group:
        item = super().__getitem__(path)
        return _Array(item._async_array) if isinstance(item, zarr.Array) else item


def open_arrays(path: Path) -> zarr.Group:
    """Open a Zarr group for reading; check that it is there, its version and all its shards."""
    if not path.exists():
        raise missing(path)
    try:
        group = zarr.open_group(path, mode="r")
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{path}: not a readable Zarr group ({error})") from error
    attributes = dict(group.attrs)
    _check_version(path, attributes)
    _check_shards(path, group, attributes.get("shards"))
    return _Group(group._async_group)


def _check_shards(path: Path, group: zarr.Group, shards: object) -> None:
    """Raise if a shard is not there, which would read as zeros; older groups have no `shards`."""
    if shards is None:
        return
    if not isinstance(shards, dict) or any(type(count) is not int for count in shards.values()):
        raise damaged(path, f"its attribute 'shards' is {shards}, not numbers of arrays' shards")
    for name, count in shards.items():
        if name not in group:
            raise damaged(path, f"the array {name!r} is missing")
        axes = len(group[name].shape) - 1
        for i in range(count):
            shard = path.joinpath(name, "c", str(i), *("0" * axes))
            if not shard.is_file():
                raise damaged(path, f"the shard {shard.relative_to(path)} is missing")


def _check_version(path: Path, content: Mapping[str, Any]) -> None:
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path}: schema_version is {version}, this program reads {SCHEMA_VERSION}; "
            "run its stage again"
        )


def missing(path: Path) -> ArtifactError:
    """Return the error for an artifact that does not exist."""
    stage = _stage_of(path)
    return ArtifactError(f"{path} does not exist: run the stage '{stage}' first (or `dvc repro`)")


def damaged(path: Path, what: str) -> ArtifactError:
    """Return the error for an artifact whose content is not what its stage writes."""
    stage = _stage_of(path)
    return ArtifactError(f"{path}: {what}; run the stage '{stage}' again (or `dvc repro`)")


def _stage_of(path: Path) -> str:
    """Return the stage that writes `path`: DATA/<stage>/<category>/FILE or DATA/<stage>/FILE."""
    folder = path.parent
    return folder.parent.name if folder.parent.name in _OF_CATEGORIES else folder.name


@dataclass(frozen=True)
class Layout:
    """Where every artifact lies under `root`; `c` is a category."""

    root: Path = Path("data")

    def raw_demo(self) -> Path:
        """Folder of the generated demo images."""
        return self.root / "raw" / "demo"

    def backbone(self) -> Path:
        """`weights.safetensors` and `backbone.json`."""
        return self.root / "backbone"

    def base(self) -> Path:
        """`crops.parquet` and `crops.zarr` of the labelled base set."""
        return self.root / "base"

    def manifest(self, c: str) -> Path:
        """`images.parquet`, `labels.parquet`, `masks.parquet`, `rejected.parquet`."""
        return self.root / "manifest" / c

    def maps(self, c: str) -> Path:
        """`maps.zarr`, `scores.parquet`, `references.parquet` and `bank.safetensors`."""
        return self.root / "maps" / c

    def mebin(self, c: str) -> Path:
        """`masks.zarr` and `images.parquet`."""
        return self.root / "mebin" / c

    def crops(self, c: str) -> Path:
        """`crops.parquet` and `crops.zarr`."""
        return self.root / "crops" / c

    def views(self, c: str) -> Path:
        """Frozen-block tokens of the augmented views (a cache, never pushed)."""
        return self.root / "views" / c

    def classes(self, c: str) -> Path:
        """`classes.json` and `candidates.csv`."""
        return self.root / "classes" / c

    def train(self, c: str) -> Path:
        """`model.safetensors`, `model.json`, `history.csv`."""
        return self.root / "train" / c

    def predict(self, c: str) -> Path:
        """Regions, their descriptors and attention, and the fitted classifier."""
        return self.root / "predict" / c

    def merge(self, c: str) -> Path:
        """`images.parquet`."""
        return self.root / "merge" / c

    def evaluate(self, c: str | None = None) -> Path:
        """`metrics.json` of a category; `summary.json` lies in the folder above (`c` None)."""
        return self.root / "evaluate" / c if c else self.root / "evaluate"

    def report(self) -> Path:
        """`index.html`."""
        return self.root / "report"
