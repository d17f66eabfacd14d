"""A server of S3 for tests (moto's, in a thread), and one that fails as it is told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from pipeline.io import storage

BUCKET = "line-seven"


@dataclass
class Bucket:
    """A bucket on a server of this process; names in `address` are those of `root` below it."""

    url: str
    prefix: str = "raw/2026"

    @property
    def address(self) -> str:
        return f"s3://{BUCKET}/{self.prefix}"

    def put(self, name: str, content: bytes) -> None:
        self._client().put_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}", Body=content)

    def remove(self, name: str) -> None:
        self._client().delete_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}")

    def fill(self, root: Path) -> None:
        for path in sorted(root.rglob("*")):
            if path.is_file():
                self.put(path.relative_to(root).as_posix(), path.read_bytes())

    def create(self) -> None:
        self._client().create_bucket(Bucket=BUCKET)

    def _client(self):  # type: ignore[no-untyped-def]
        return boto3.client("s3", endpoint_url=self.url, region_name="us-east-1")


def environment(patch: pytest.MonkeyPatch, url: str) -> None:
    """Set what a user sets, and forget connections of other tests."""
    patch.setenv("AWS_ACCESS_KEY_ID", "key")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    patch.setenv("AWS_REGION", "us-east-1")
    patch.setenv("AWS_ENDPOINT_URL", url)
    storage._store.cache_clear()


@contextmanager
def bucket_server() -> Iterator[Bucket]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        environment(patch, f"http://{host}:{port}")
        bucket = Bucket(f"http://{host}:{port}")
        bucket.create()
        yield bucket
    server.stop()
    storage._store.cache_clear()


@dataclass
class Answers:
    """What a server answers to each request in turn: (status, body); the last for all others."""

    answers: list[tuple[int, bytes]]
    asked: list[str] = field(default_factory=list)
    wait: Callable[[], object] = lambda: None

    def next(self, path: str) -> tuple[int, bytes]:
        self.asked.append(path)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def answering(answers: Answers) -> Iterator[str]:
    """Run a server that gives `answers`; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers.wait()
            status, body = answers.next(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Last-Modified", "Tue, 01 Dec 2026 00:00:00 GMT")
            self.send_header("ETag", '"0"')
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
