"""ProtoGCD against the values of its specification."""

from __future__ import annotations

import pytest
import torch

from pipeline.peers.protogcd import hard_share, separation, sharpen

W = torch.tensor([[1.0, 0], [0.6, 0.8], [-0.8, 0.6]])


def test_separation_of_the_specification() -> None:
    assert float(separation(W, 0.1)) == pytest.approx(3.307790, abs=1e-5)
    assert float(separation(W[:1], 0.1)) == 0


def test_the_most_confident_share_of_each_view_becomes_one_hot() -> None:
    view = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.3, 0.7], [0.45, 0.55]])
    got = sharpen(torch.stack([view, view.flip(0)]), 0.5)
    assert got[0].tolist() == [view[0].tolist(), [1, 0], [0, 1], view[3].tolist()]
    assert torch.equal(got[1], got[0].flip(0))
    assert torch.equal(sharpen(view[None], 0.2), view[None])
    assert sharpen(view[None], 1.0).max(-1).values.tolist() == [[1.0] * 4]


def test_the_share_grows_to_1_over_the_first_half() -> None:
    assert [hard_share(p) for p in (0.0, 0.25, 0.5, 0.9)] == [0, 0.5, 1, 1]
