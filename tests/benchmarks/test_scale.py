"""The model of a cluster, and the synthetic regions of the caps."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.caps import draw, judged
from pipeline.inference.region_classes import RegionClasses

pytest.importorskip("distributed", reason="needs the extra dask")
from benchmarks.scale import Run, model_s, overhead_s, print_model


def test_the_model_finds_its_own_overhead_on_few_workers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = [
        Run(workers, 12 * workers, t, model_s(0.01, 12 * workers, workers, t))
        for workers in (1, 2, 4)
        for t in (0.25, 1.0)
    ]
    slow = Run(8, 96, 1.0, 2 * model_s(0.01, 96, 8, 1.0))  # plays no part in the fit
    assert overhead_s([*runs, slow]) == pytest.approx(0.01)
    assert runs[1].efficiency == pytest.approx(12 / 12.12)
    print_model([*runs, slow])
    assert "| 8 | 1 | 25.92 | 12.96 | -50 % |" in capsys.readouterr().out


def test_synthetic_regions_have_a_rare_class() -> None:
    seen, crops, kinds = draw(300, 7, seed=0)
    assert seen.pooled is not None
    assert seen.pooled.shape[0] == len(crops) == 300
    assert (kinds == 5).sum() == 7
    nothing = np.zeros((300, 1))
    perfect = RegionClasses(np.eye(6)[kinds], nothing[:, 0] > 0, nothing[..., None], nothing)
    assert judged(perfect, kinds) == "1.000 | 1.00"
