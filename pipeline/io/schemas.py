"""Schemas of the Parquet artifacts."""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 1


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
    ("part", _STRING),
)
INVENTORY = _fields(("path", _STRING), ("size", _INT), ("version", _STRING))
LABELS = _fields(("sample_id", _STRING), ("label", _STRING))
MASKS = _fields(("sample_id", _STRING), ("mask_path", _STRING))
REJECTED = _fields(("path", _STRING), ("reason", _STRING), ("duplicate_of", _STRING))
MAP_SCORES = _fields(("sample_id", _STRING), ("score", _FLOAT), ("image_score", _FLOAT))
REFERENCE_SCORES = _fields(("sample_id", _STRING), ("score", _FLOAT), ("image_score", _FLOAT))
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
IDENTITY = _fields(
    ("sample_id", _STRING), ("x0", _INT), ("y0", _INT), ("side", _INT), ("class", _INT)
)
HISTORY = _fields(
    ("number", _INT),
    ("fate", _STRING),
    ("other", _INT),
    ("before", _INT),
    ("now", _INT),
    ("shared", _INT),
)
MERGED = _fields(
    ("sample_id", _STRING),
    ("class", _INT),
    ("confidence", _FLOAT),
    ("probabilities", _FLOATS),
    ("region_classes", pa.list_(_INT)),
    ("class_set", pa.list_(_INT)),
)
PART_VERDICTS = _fields(
    ("part", _STRING),
    ("class", _INT),
    ("confidence", _FLOAT),
    ("probabilities", _FLOATS),
    ("n_images", _INT),
    ("n_defective", _INT),
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
PEER = _fields(
    ("row", _STRING),
    ("input", _STRING),
    ("seed", _INT),
    ("sample_id", _STRING),
    ("class", _INT),
    ("probabilities", _FLOATS),
)
