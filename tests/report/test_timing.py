"""Times an image from the records of runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.io.paths import ArtifactPaths
from pipeline.io.provenance import last_run, recorded, runs_path
from pipeline.report.timing import IN_TOTAL, PER_IMAGE, time_row

CPU = {"cpus": 2, "machine": "x86_64", "device": "cpu"}


def test_wall_time_is_divided_by_the_images() -> None:
    records = {
        "maps": {"wall_s": 25.0, **CPU, "device": "NVIDIA X"},
        "merge": {"wall_s": 0.05, **CPU},
        "train": {"wall_s": 12.34, **CPU},
    }
    row = time_row("metal", 100, records)
    assert row is not None
    assert dict(zip(PER_IMAGE, row.per_image, strict=True)) == {
        "maps": "250.0",
        "mebin": None,
        "crops": None,
        "predict": None,
        "merge": "0.5",
    }
    assert dict(zip(IN_TOTAL, row.in_total, strict=True)) == {"views": None, "train": "12.3"}
    assert row.machines == "NVIDIA X; 2 CPU cores, x86_64"


@pytest.mark.parametrize("record", [{}, {"wall_s": "soon"}, {"wall_s": -1}, {"wall_s": True}, None])
def test_unusable_records_are_no_times(record: dict[str, object] | None) -> None:
    assert time_row("metal", 3, {"maps": record}) is None
    row = time_row("metal", 3, {"maps": record, "merge": {"wall_s": 0}})
    assert row is not None
    assert row.per_image[0] is None
    assert row.per_image[-1] == "0.0"


def test_no_images() -> None:
    with pytest.raises(ValueError, match="0 images"):
        time_row("metal", 0, {})


def test_the_last_run_is_read_back(tmp_path: Path) -> None:
    artifacts = ArtifactPaths(tmp_path)
    assert last_run("maps", "metal", artifacts) is None
    with recorded("maps", "metal", artifacts):
        pass
    record = last_run("maps", "metal", artifacts)
    assert record is not None
    assert record["stage"] == "maps"
    assert 0 <= record["wall_s"] < 5
    path = runs_path("maps", "metal", artifacts)
    for broken in ("{", "[]", "\udce9"):
        path.write_text(broken, encoding="utf-8", errors="surrogateescape")
        assert last_run("maps", "metal", artifacts) is None


def test_the_device_is_the_one_that_was_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for used, expected in ((True, "NVIDIA X"), (False, "cpu")):
        cuda = SimpleNamespace(
            is_initialized=lambda used=used: used, get_device_name=lambda: "NVIDIA X"
        )
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
        with recorded("maps", None, ArtifactPaths(tmp_path)):
            pass
        record = json.loads(runs_path("maps", None, ArtifactPaths(tmp_path)).read_text())
        assert record["device"] == expected
