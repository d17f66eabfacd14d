"""What `predict` says of the limit of normal images."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest

from pipeline.clustering.conformal import normal_limit
from pipeline.inference.region_artifacts import report_limit
from pipeline.inference.region_features import normal_of_set


def test_few_references_are_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    limit = normal_limit([0.0, 1.0], [0.5] * 9)
    report_limit("thing", limit, 9, 0.05)
    assert "9 normal references cannot promise fewer than 10 % false alarms" in caplog.text


def test_no_basis_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    report_limit("thing", normal_limit([0.0, 1.0], []), 0, 0.05)
    assert "thing: no image is called normal by its score" in caplog.text


def test_enough_references_are_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    report_limit("thing", normal_limit([0.0], np.arange(19.0)), 19, 0.05)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_more_false_alarms_lower_the_limit() -> None:
    crops = pd.DataFrame({"sample_id": ["a", "b"], "area_px": [5, 5]})
    scores, references = np.array([15.0, 3.0]), np.arange(19.0)
    given = ("scores", crops, scores, references)
    few, _ = normal_of_set(*given, false_alarms=0.05, assumed_normal=0)
    many, limit = normal_of_set(*given, false_alarms=0.5, assumed_normal=0)
    assert few.tolist() == [True, True]
    assert many.tolist() == [False, True]
    assert limit.false_alarms == 0.5


def test_a_share_that_is_assumed_to_be_normal_is_so() -> None:
    crops = pd.DataFrame({"sample_id": list("abcdefghij"), "area_px": 5})
    given = ("scores", crops, np.linspace(0, 1, 10), np.zeros(0))
    none, _ = normal_of_set(*given, false_alarms=0.05, assumed_normal=0)
    half, limit = normal_of_set(*given, false_alarms=0.05, assumed_normal=0.5)
    assert (none.sum(), half.sum(), limit.basis) == (0, 5, "lowest")
