"""The promise of a limit, against simulated references and new parts."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.clustering.conformal import conformal_limit
from pipeline.evaluation.promise import promise_of, promise_words


@pytest.mark.parametrize(("n", "asked"), [(4, 0.05), (19, 0.05), (40, 0.05), (60, 0.2)])
def test_the_promise_is_that_of_the_limit(n: int, asked: float) -> None:
    rng = np.random.default_rng(0)
    promise = promise_of(n, asked)
    # scores are uniform: the share of new parts above a limit is 1 - limit
    shares = np.array([1 - conformal_limit(rng.random(n), asked)[0] for _ in range(4000)])
    assert shares.mean() == pytest.approx(promise.expected, abs=0.006)
    assert (shares <= promise.likely).mean() == pytest.approx(0.95, abs=0.02)
    assert promise.expected <= max(asked, 1 / (n + 1)) + 1e-9


@pytest.mark.parametrize(("asked", "needed"), [(0.05, 19), (0.1, 9), (0.01, 99), (0.3, 3)])
def test_too_few_references_are_said_to_be(asked: float, needed: int) -> None:
    assert promise_of(needed, asked).kept
    assert promise_of(needed, asked).expected <= asked + 1e-9
    assert f"{needed} references are needed" not in promise_words(promise_of(needed, asked))
    few = promise_of(needed - 1, asked)
    assert not few.kept
    assert few.expected > asked
    assert f"{needed} references are needed for {100 * asked:.3g} %" in promise_words(few)


@pytest.mark.parametrize(("n", "asked"), [(0, 0.05), (5, 0.0), (5, 1.0)])
def test_what_cannot_be_promised(n: int, asked: float) -> None:
    with pytest.raises(ValueError, match=r"references|share"):
        promise_of(n, asked)
