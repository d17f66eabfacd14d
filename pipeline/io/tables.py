"""Parquet and JSON artifacts: written in one step, checked when read.

Parquet files carry `SCHEMA_VERSION` in their metadata. Files are written to a temporary sibling and
renamed, so that none is ever half written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.io.files import replacing
from pipeline.io.paths import ArtifactError, damaged, missing
from pipeline.io.schemas import SCHEMA_VERSION

_METADATA_KEY = b"anomalyncd"


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
    check_version(path, _decode(table.schema.metadata))
    if table.schema.names != schema.names:
        raise ArtifactError(f"{path}: has columns {table.schema.names}, expected {schema.names}")
    for name, kind in zip(schema.names, schema.types, strict=True):
        actual = table.schema.field(name).type
        if actual != kind:
            raise damaged(path, f"the column {name!r} is of type {actual}, expected {kind}")
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


def params_of(path: Path) -> dict[str, Any]:
    """Return the sections of params.yaml that a table was made with, as its metadata keep them."""
    sections: dict[str, Any] = read_metadata(path).get("params") or {}
    return sections


def image_bits(manifest: Path) -> int:
    """Return the significant bits of a category's 16-bit images, from its manifest."""
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


def check_version(path: Path, content: Mapping[str, Any]) -> None:
    """Raise `ArtifactError` unless metadata or attributes have this program's schema_version."""
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path}: schema_version is {version}, this program reads {SCHEMA_VERSION}; "
            "run its stage again"
        )
