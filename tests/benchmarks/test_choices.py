"""Rows of `benchmarks.detector_choices` and `benchmarks.region_errors`."""

from __future__ import annotations

import pytest

from benchmarks.detector_choices import WITH, WITHOUT, Rows, parse
from benchmarks.region_errors import ROWS
from pipeline.config.presets import with_overrides
from pipeline.config.reading import load_params
from tests.graph import ROOT


@pytest.mark.parametrize("rows", [WITH, WITHOUT, ROWS], ids=["with", "without", "regions"])
def test_every_row_but_the_first_changes_possible_parameters(rows: Rows) -> None:
    given = load_params(ROOT / "params.yaml")
    first, *others = (with_overrides(given, overrides) for overrides in rows.values())
    assert first == given
    same = [one for one in others if one == given]
    assert len(same) == (1 if rows is ROWS else 0)  # the default's own number of thresholds


def test_rows_of_ones_own() -> None:
    assert parse(["maps.resolution=644 maps.tiles=1", "maps.runs=[[5,3]]"]) == {
        "maps.resolution=644 maps.tiles=1": {"maps.resolution": 644, "maps.tiles": 1},
        "maps.runs=[[5,3]]": {"maps.runs": [[5, 3]]},
    }
