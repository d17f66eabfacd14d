"""Files and folders, written aside and renamed into place.

The temporary sibling of `NAME` is `.NAME.<place>-<pid>-<random>.tmp`; a folder that is being
replaced is briefly renamed to `.old`. The next process that writes into the folder removes what a
killed one left.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import re
import shutil
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pipeline.errors import AnomalyNCDError

_LEFT = re.compile(r"\.(?P<name>.+)\.(?P<place>[0-9a-f]{4})-(?P<pid>\d+)-\w{6,8}\.(tmp|old)")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SYNCED = 64
"""Folders with more files are not flushed to disk: that would take longer than writing them."""

_live: set[Path] = set()
"""Temporaries that this process is writing."""

_swept: set[tuple[int, Path]] = set()
"""Process and folder of every sweep; each folder is swept once."""


FREE = "the old files are as they were: free space, or give another folder"


class DiskFullError(AnomalyNCDError):
    """There is no space, or a file may not be as large; the message names the artifact."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`, to be created there as a file, and rename it onto it.

    On an exception the temporary is removed and `path` is left as it was. Raises
    `IsADirectoryError` where `path` is a folder: only `replacing_folder` takes one away.
    """
    _refuse_folder(path)
    with _temporary(path) as temporary:
        yield temporary
        _refuse_folder(path)
        if temporary.is_file() and not temporary.is_symlink():
            _flush(temporary)
        os.replace(temporary, path)
        _flush_folder(path.parent)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`, to be created there as a folder, and rename it onto it.

    An existing folder is DELETED with its contents: never give a path that a user chose unless it
    is known to be empty. On an exception the temporary is removed and `path` left as it was.
    """
    with _temporary(path) as temporary:
        yield temporary
        files = [file for file in temporary.rglob("*") if file.is_file() and not file.is_symlink()]
        for file in files if len(files) <= _SYNCED else []:
            _flush(file)
        if path.is_dir() and not path.is_symlink():  # a folder cannot be replaced in one step
            aside = temporary.with_suffix(".old")
            os.replace(path, aside)
            os.replace(temporary, path)
            _flush_folder(path.parent)
            shutil.rmtree(aside)
        else:
            os.replace(temporary, path)
            _flush_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) aside and rename it onto `path`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def free_path(path: Path) -> Path:
    """Return `path`, or the first of `path`2, `path`3, ... that does not exist."""
    number, free = 1, path
    while free.exists() or free.is_symlink():
        number, free = number + 1, path.with_name(f"{path.name}{number + 1}")
    return free


def temporary_prefix(name: str) -> str:
    """Return the beginning of the temporaries of `name`; random characters and ".tmp" follow."""
    return f".{name}.{_place()}-{os.getpid()}-"


def sweep(folder: Path) -> None:
    """Remove temporaries of killed processes from `folder`, and restore what they renamed.

    Only names of the exact pattern count, of processes of this machine (or container) that no
    longer run. Each process sweeps a folder once.
    """
    if (os.getpid(), folder) in _swept or not folder.is_dir():
        return
    _swept.add((os.getpid(), folder))
    with contextlib.suppress(OSError):  # a folder that cannot be listed
        for left in list(folder.iterdir()):
            _clear(left)


def _clear(left: Path) -> None:
    match = _LEFT.fullmatch(left.name)
    if match is None or match["place"] != _place() or left in _live:
        return
    if int(match["pid"]) != os.getpid() and _runs(int(match["pid"])):
        return
    target = left.with_name(match["name"])
    with contextlib.suppress(OSError):  # another user's, or another process was faster
        if left.suffix == ".old" and not target.exists():
            os.replace(left, target)
        else:
            _remove(left)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    temporary = path.with_name(f"{temporary_prefix(path.name)}{uuid.uuid4().hex[:6]}.tmp")
    aside = temporary.with_suffix(".old")
    _live.update((temporary, aside))
    try:
        yield temporary
    except OSError as error:
        if error.errno not in _FULL:
            raise
        size = _size(temporary) / 2**20
        raise DiskFullError(
            f"{path} could not be written ({error.strerror}, after {size:.1f} MiB); {FREE}"
        ) from error
    finally:
        if aside.exists() and not path.exists():  # interrupted between the two renames
            os.replace(aside, path)
        _remove(temporary)
        _remove(aside)
        _live.difference_update((temporary, aside))


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _refuse_folder(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        raise IsADirectoryError(
            f"{path} is a folder, but a file is written there: give another path, or remove it"
        )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Flush a file to disk, so that a power cut cannot leave it empty."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush_folder(path: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems know no such thing
        _flush(path)


@cache
def _place() -> str:
    """Return 4 hex digits that identify this machine or container."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:4]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
