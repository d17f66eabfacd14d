"""Where raw images lie: a folder, or a bucket of S3 (`s3://bucket/prefix`); both are read alike.

A bucket is read by obstore (the extra `storage`), which is imported, and a connection opened, at
the first file of a bucket that a user has named. Address and credentials are those of the
environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION,
AWS_ENDPOINT_URL (http:// is not encrypted), AWS_SKIP_SIGNATURE. Broken connections, timeouts and
errors of the server are tried again; what lasts is a `StorageError`, never an image left out.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import AnomalyNCDError
from pipeline.file_checks import file_problem

if TYPE_CHECKING:
    from obstore.store import S3Store

SCHEME = "s3://"
"""What the address of a bucket begins with."""

CONNECTIONS = 32
"""Objects that are fetched at a time: they hide the 50 to 100 ms of each."""

_RETRIES = 4
_RETRY_S = 60
"""Seconds after which a request is not tried again."""
_CONNECT_S = 5
_REQUEST_S = 120
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


class StorageError(AnomalyNCDError):
    """A bucket cannot be read: no access, no bucket, no connection; the message names the place."""


@dataclass(frozen=True)
class BucketPath:
    """A place in a bucket: an object, or the prefix of some."""

    bucket: str
    key: str = ""

    def __truediv__(self, name: str) -> BucketPath:
        """Return a place below this one; `..` goes up. StorageError outside of the bucket."""
        key = posixpath.normpath(posixpath.join(self.key, name))
        if key.startswith(("..", "/")):
            raise StorageError(f"{self}: {name} lies outside of the bucket")
        return BucketPath(self.bucket, "" if key == "." else key)

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}"

    def absolute(self) -> BucketPath:
        """Return the same place: every address is absolute."""
        return self


Place = Path | BucketPath
"""A file or folder on a disk, or in a bucket."""


class Listed(NamedTuple):
    """A file below a place: relative path (posix), bytes, and what changes with its content."""

    path: str
    size: int
    version: str


def place_of(text: str) -> Place:
    """Return the place that a path or address names; StorageError for a bucket without a name."""
    if not text.startswith(SCHEME):
        return Path(text)
    bucket, _, key = text.removeprefix(SCHEME).partition("/")
    if not bucket:
        raise StorageError(f"{text}: give a bucket, as {SCHEME}bucket/prefix")
    return BucketPath(bucket) / key.strip("/")


def read_bytes(place: Place, largest: int) -> bytes:
    """Return the bytes of a file.

    Raises
    ------
    OSError
        There is no such file (FileNotFoundError), it is not a regular one, or larger than `largest`
        bytes; `strerror` is the reason.
    StorageError
        The bucket cannot be read.
    """
    if isinstance(place, Path):
        problem = file_problem(place, largest)
        if problem is not None:
            raise OSError(0, problem)
        return place.read_bytes()
    with _reported(place):
        result = _store(place.bucket).get(place.key)
        size = result.meta["size"]
        if size <= largest:
            return bytes(result.bytes())
    raise OSError(0, f"{size / 2**20:.0f} MiB large, over the limit of {largest / 2**20:.0f} MiB")


def list_bucket(place: BucketPath) -> list[Listed]:
    """List the objects below a prefix, sorted by path; the version is the ETag.

    Raises StorageError where the bucket cannot be read.
    """
    with _reported(place):
        below = PurePosixPath(place.key)
        found = [
            Listed(
                PurePosixPath(item["path"]).relative_to(below).as_posix(),
                item["size"],
                (item["e_tag"] or str(item["last_modified"])).strip('"'),
            )
            for page in _store(place.bucket).list(place.key or None)
            for item in page
        ]
    return sorted(found)


@lru_cache(maxsize=16)
def _store(bucket: str) -> S3Store:
    try:
        from obstore.store import S3Store
    except ImportError:
        raise StorageError(
            f"{SCHEME}{bucket}: buckets need obstore; pip install 'anomalyncd[storage]'"
        ) from None
    return S3Store(
        bucket,
        client_options={
            "allow_http": any(os.environ.get(n, "").startswith("http://") for n in _ENDPOINTS),
            "connect_timeout": timedelta(seconds=_CONNECT_S),
            "timeout": timedelta(seconds=_REQUEST_S),
        },
        retry_config={
            "max_retries": _RETRIES,
            "retry_timeout": timedelta(seconds=_RETRY_S),
            "backoff": {
                "init_backoff": timedelta(milliseconds=200),
                "max_backoff": timedelta(seconds=5),
                "base": 2,
            },
        },
    )


@contextmanager
def _reported(place: BucketPath) -> Iterator[None]:
    """Turn the errors of obstore into ours: a missing object, or a bucket that cannot be read."""
    try:
        yield
    except AnomalyNCDError:
        raise
    except Exception as error:  # obstore is not imported where no bucket is used
        if not isinstance(error, FileNotFoundError) and not type(error).__module__.startswith(
            ("obstore", "_obstore")
        ):
            raise
        text = " ".join(str(error).split())
        if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in text:
            raise FileNotFoundError(2, "no such object") from None
        raise StorageError(f"{place}: {_reason(type(error).__name__, text)}") from error


def _reason(kind: str, text: str) -> str:
    if "NoSuchBucket" in text:
        return "there is no such bucket; check dataset.root"
    if kind in ("PermissionDeniedError", "UnauthenticatedError"):
        return "access is denied; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if "/latest/" in text:  # where machines of a cloud ask for theirs
        return "there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    shown = text.partition(" Debug source")[0]
    return f"cannot be read; check AWS_ENDPOINT_URL, AWS_REGION and the network ({shown})"
