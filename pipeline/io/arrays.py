"""Zarr artifacts: one chunk per item, sharded."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.io.files import replacing_folder
from pipeline.io.paths import ArtifactError, damaged, missing
from pipeline.io.schemas import SCHEMA_VERSION
from pipeline.io.tables import check_version

_SHARD_ITEMS = 256
_SHARD_BYTES = 64 * 2**20
"""Largest uncompressed size of a shard, of which zarr and the stage hold several copies."""


@dataclass(frozen=True)
class ArraySpec:
    """Shape and dtype of one array of a Zarr group; axis 0 counts the items.

    `shard` is the number of items of a shard, for arrays that are written together; None: as many
    as the size of an item allows.
    """

    shape: tuple[int, ...]
    dtype: str
    shard: int | None = None


def shard_count(spec: ArraySpec) -> int:
    """Return how many shards an array has; one without elements has none."""
    return 0 if 0 in spec.shape else -(-spec.shape[0] // shard_items(spec))


def shard_items(spec: ArraySpec) -> int:
    """Return how many items share a shard: one writer writes a whole shard at a time."""
    if spec.shard is not None:
        return spec.shard
    item = int(np.prod(spec.shape[1:], dtype=np.int64)) * np.dtype(spec.dtype).itemsize
    return max(1, min(_SHARD_ITEMS, _SHARD_BYTES // max(item, 1)))


@contextmanager
def create_arrays(
    path: Path, specs: Mapping[str, ArraySpec], attributes: Mapping[str, object] | None = None
) -> Iterator[dict[str, zarr.Array]]:
    """Yield the writable arrays of a new Zarr v3 group, renamed onto `path` at the end.

    One chunk per item of axis 0, sharded (`shard_items`).

    Parameters
    ----------
    path
        The group; an existing one is replaced.
    specs
        Shape and dtype of each array.
    attributes
        Attributes of the group, which also keeps the number and the CRC-32 of the shards of each
        array. Attributes that are known only at the end can be set through ``arrays[name].attrs``.

    Yields
    ------
    The arrays by name. All items must be written, also zeros: `open_arrays` counts the shards.
    """
    with replacing_folder(path) as temporary:
        group = zarr.create_group(temporary, zarr_format=3)
        shards = {name: shard_count(spec) for name, spec in specs.items()}
        content = {"schema_version": SCHEMA_VERSION, "shards": shards, **(attributes or {})}
        group.attrs.update(content)
        yield {name: _create_array(group, name, spec) for name, spec in specs.items()}
        _sweep_partial(temporary)
        group.attrs["crc32"] = {
            name: [_crc32(shard) for shard in _shards(temporary, group, name, count)]
            for name, count in shards.items()
        }


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


def write_block(array: zarr.Array, start: int, values: NDArray[Any]) -> None:
    """Write items from `start` on into an array of `create_arrays`, from any process.

    Raises ValueError unless they are whole shards: two writers of one shard would lose items.
    """
    items, total = array.shards[0], array.shape[0]
    stop = start + len(values)
    if start % items or (stop % items and stop != total) or stop > total:
        raise ValueError(f"items {start} to {stop} of {total} are not whole shards of {items}")
    array[start:stop] = values


def open_block(path: Path) -> dict[str, zarr.Array]:
    """Return the arrays of a group that `create_arrays` is writing, for `write_block`.

    The group must be there still: a worker that comes too late does not make it anew.
    """
    with zarr.config.set({"array.write_empty_chunks": True}):  # no property of the stored array
        return dict(zarr.open_group(path, mode="r+", use_consolidated=False).arrays())


def group_path(array: zarr.Array) -> Path:
    """Return the folder of the group of an array on disk, absolute."""
    return Path(str(array.store_path).removeprefix("file://")).parent.absolute()


def _sweep_partial(folder: Path) -> None:
    """Remove what killed writers left: zarr writes a shard as ``0.<id>.partial`` and renames it."""
    for left in folder.rglob("*.partial"):
        left.unlink(missing_ok=True)


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


def open_arrays(path: Path, *, check: bool = True) -> zarr.Group:
    """Open a Zarr group for reading; `ArtifactError` if it or a shard is missing or damaged.

    `check` reads all shards. Without it, only the group is looked at: for blocks, as their stage
    has checked the whole before.
    """
    if not path.exists():
        raise missing(path)
    try:
        group = zarr.open_group(path, mode="r")
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{path}: not a readable Zarr group ({error})") from error
    attributes = dict(group.attrs)
    check_version(path, attributes)
    if check:
        _check_shards(path, group, attributes.get("shards"))
    return _Group(group._async_group)


def _check_shards(path: Path, group: zarr.Group, shards: object) -> None:
    """Raise if a shard is missing, which would read as zeros, or is another one.

    Older groups have no `shards`.
    """
    if shards is None:
        return
    if not isinstance(shards, dict) or any(type(count) is not int for count in shards.values()):
        raise damaged(path, f"its attribute 'shards' is {shards}, not numbers of arrays' shards")
    for name, count in shards.items():
        if name not in group:
            raise damaged(path, f"the array {name!r} is missing")
        checksums = _checksums(path, group, name, count)
        for shard, checksum in zip(_shards(path, group, name, count), checksums, strict=True):
            if not shard.is_file():
                raise damaged(path, f"the shard {shard.relative_to(path)} is missing")
            if checksum is not None and _crc32(shard) != checksum:
                raise damaged(
                    path, f"the shard {shard.relative_to(path)} is not the one that was written"
                )


def _checksums(path: Path, group: zarr.Group, name: str, count: int) -> list[int | None]:
    """Return the CRC-32 of each shard of an array; None for a group of before there were any."""
    stored = dict(group.attrs).get("crc32")
    if stored is None:
        return [None] * count
    found = stored.get(name) if isinstance(stored, dict) else None
    if not isinstance(found, list) or len(found) != count:
        raise damaged(path, f"its attribute 'crc32' has not {count} numbers for {name!r}")
    return found


def _shards(path: Path, group: zarr.Group, name: str, count: int) -> list[Path]:
    """Return the files of an array's shards, which are complete along all axes but the first."""
    rest = "0" * (len(group[name].shape) - 1)
    return [path.joinpath(name, "c", str(i), *rest) for i in range(count)]


def _crc32(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            checksum = zlib.crc32(block, checksum)
    return checksum
