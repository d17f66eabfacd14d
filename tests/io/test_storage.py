"""Files on a disk and in a bucket: the same bytes and names, and one line where there is none."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.io import storage
from pipeline.io.dataset_formats import DatasetError, scan_folder
from pipeline.io.datasets import collect
from pipeline.io.images import ImageError, read_image, read_listed, sample_id
from pipeline.io.storage import BucketPath, StorageError, list_bucket, place_of, read_bytes
from tests.buckets import BUCKET, Answers, Bucket, answering, bucket_server, environment


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with bucket_server() as started:
        yield started


@pytest.mark.parametrize(
    ("text", "bucket", "key"),
    [
        ("s3://b/a/c", "b", "a/c"),
        ("s3://b/a/c/", "b", "a/c"),
        ("s3://b", "b", ""),
        ("s3://b/", "b", ""),
    ],
)
def test_addresses(text: str, bucket: str, key: str) -> None:
    assert place_of(text) == BucketPath(bucket, key)


def test_a_path_stays_one() -> None:
    assert place_of("data/raw") == Path("data/raw")


def test_places_below_a_place() -> None:
    place = place_of("s3://b/raw") / "metal"
    assert str(place / "test/ä b.png") == "s3://b/raw/metal/test/ä b.png"
    assert place / "../normal/x.png" == BucketPath("b", "raw/normal/x.png")
    with pytest.raises(StorageError, match=r"s3://b/raw: \.\./\.\./x lies outside of the bucket"):
        place_of("s3://b/raw") / "../../x"
    with pytest.raises(StorageError, match="s3://: give a bucket"):
        place_of("s3://")


def test_names_and_bytes_of_a_bucket(bucket: Bucket) -> None:
    names = ["bytes/b/ö #1%.png", "bytes/a.png", "bytes/b/c/d e.txt"]
    for name in names:
        bucket.put(name, name.encode())
    bucket.put("bytes-of-another/a.png", b"")
    place = place_of(bucket.address) / "bytes"
    assert isinstance(place, BucketPath)
    listed = list_bucket(place)
    assert [file.path for file in listed] == sorted(n.removeprefix("bytes/") for n in names)
    for file in listed:
        content = f"bytes/{file.path}".encode()
        assert read_bytes(place / file.path, 100) == content
        assert file.size == len(content)
    before = listed[0].version
    bucket.put("bytes/a.png", b"BYTES/A.PNG")
    assert list_bucket(place)[0].version != before


def test_a_missing_or_large_object(bucket: Bucket) -> None:
    bucket.put("large.png", b"12345")
    with pytest.raises(ImageError, match=f"s3://{BUCKET}/raw/2026/none.png: no such file"):
        read_image(place_of(bucket.address) / "none.png")
    with pytest.raises(OSError, match="over the limit of 0 MiB"):
        read_bytes(place_of(bucket.address) / "large.png", 4)
    assert read_bytes(place_of(bucket.address) / "large.png", 5) == b"12345"


def test_no_such_bucket_is_one_line(bucket: Bucket) -> None:
    for work in (lambda p: read_bytes(p, 9), list_bucket):
        with pytest.raises(StorageError) as caught:
            work(BucketPath("nothing-here", "x"))
        assert str(caught.value) == (
            "s3://nothing-here/x: there is no such bucket; check dataset.root"
        )


def test_an_image_that_changed_is_noticed(bucket: Bucket, tmp_path: Path) -> None:
    for seed, name in enumerate(["first.png", "second.png"]):
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    bucket.put("changed/x.png", (tmp_path / "first.png").read_bytes())
    place = place_of(bucket.address) / "changed/x.png"
    listed = sample_id(place)
    assert np.array_equal(read_listed(place, listed), read_image(tmp_path / "first.png"))
    bucket.put("changed/x.png", (tmp_path / "second.png").read_bytes())
    with pytest.raises(ImageError, match="changed since the manifest was made"):
        read_listed(place, listed)


def test_references_elsewhere_in_the_bucket(bucket: Bucket, tmp_path: Path) -> None:
    for seed, name in enumerate(["lines/metal/a.png", "normal/metal/n.png"]):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        bucket.put(f"refs/{name}", path.read_bytes())
    root = place_of(bucket.address) / "refs"
    here, there = (
        collect(place / "lines/metal", normal_root=place / "normal/metal")
        for place in (tmp_path, root)
    )
    assert here == there
    assert [s.path for s in there.split("normal")] == ["../../normal/metal/n.png"]
    with pytest.raises(DatasetError, match=r"manifest\.normal_root: .* must lie in one bucket"):
        scan_folder(root / "lines/metal", normal_root=tmp_path / "normal/metal")


@pytest.mark.parametrize(
    "names",
    [
        ["train/good/1.png", "test/hole/1.png", "ground_truth/hole/1_mask.png"],
        ["hole/Imgs/1.jpg", "hole/Imgs/1.png"],
        ["images/hole/1.png", "masks/hole/1.png"],
        ["1.png", "test/2.png", "notes.txt", ".hidden/3.png"],
        ["a/Imgs.png", "masks/2.png"],
        ["good/1.png", "good/2.png", "normal_reference_files.txt"],
    ],
)
def test_the_same_scan_on_a_disk_and_in_a_bucket(
    names: list[str], bucket: Bucket, tmp_path: Path
) -> None:
    prefix = "-".join(sorted(names)).replace("/", "_")
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1.png\n")
        bucket.put(f"{prefix}/{name}", b"1.png\n")
    assert scan_folder(place_of(bucket.address) / prefix) == scan_folder(tmp_path)


def test_an_empty_prefix_is_one_line(bucket: Bucket) -> None:
    with pytest.raises(DatasetError, match="2026/nothing holds no usable query image"):
        collect(place_of(bucket.address) / "nothing")


def test_no_access_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b"<Error><Code>AccessDenied</Code></Error>"
    with answering(Answers([(403, body)])) as url:
        environment(monkeypatch, url)
        with pytest.raises(StorageError) as caught:
            read_bytes(BucketPath("b", "x.png"), 9)
    assert str(caught.value) == (
        "s3://b/x.png: access is denied; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )


def test_no_credentials_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, "http://127.0.0.1:1")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(StorageError) as caught:
        read_bytes(BucketPath("b", "x.png"), 9)
    assert str(caught.value) == (
        "s3://b/x.png: there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )


def test_a_server_that_stumbles_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers([(503, b"slow down"), (500, b""), (200, b"pixels")])
    with answering(answers) as url:
        environment(monkeypatch, url)
        assert read_bytes(BucketPath("b", "x.png"), 9) == b"pixels"
    assert answers.asked == ["/b/x.png"] * 3


def test_a_server_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """In `manifest` too: its images are not left out, as damaged ones are."""
    monkeypatch.setattr(storage, "_RETRIES", 1)
    monkeypatch.setattr(storage, "_REQUEST_S", 0.2)
    hang = threading.Event()
    with answering(Answers([(200, b"")], wait=lambda: hang.wait(5))) as url:
        environment(monkeypatch, url)
        with pytest.raises(StorageError, match=r"s3://b/x\.png: cannot be read; ") as caught:
            read_bytes(BucketPath("b", "x.png"), 9)
        hang.set()
    assert "\n" not in str(caught.value)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens
        environment(monkeypatch, f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(StorageError, match="s3://b/root: cannot be read"):
            collect(BucketPath("b", "root"))


def test_a_bucket_without_obstore_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "obstore.store", None)
    storage._store.cache_clear()
    with pytest.raises(StorageError, match=r"pip install 'anomalyncd\[storage\]'"):
        read_bytes(BucketPath("b", "x.png"), 9)
