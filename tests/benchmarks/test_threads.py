"""What `benchmarks.threads` says of two folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.threads import differing


def test_files_that_differ_are_told_with_how_much(tmp_path: Path) -> None:
    for name, value in (("one", 0.25), ("two", 0.5)):
        folder = tmp_path / name / "predict"
        folder.mkdir(parents=True)
        frame = pd.DataFrame({"same": [1.0, 2.0], "rows": [np.array([value]), np.array([1.0])]})
        frame.to_parquet(folder / "regions.parquet")
        np.save(folder / "same.npy", np.zeros(2))
        (folder / "hashes.json").write_text(name)
    assert list(differing(tmp_path / "one", tmp_path / "two")) == [
        "predict/hashes.json: other bytes",
        "predict/regions.parquet: rows 2.5e-01 of 1",
    ]
    assert list(differing(tmp_path / "one", tmp_path / "one")) == []
