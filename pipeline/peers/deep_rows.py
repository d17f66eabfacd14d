"""The rows of trained methods: small modules on frozen tokens, under the budget `equal`.

Rows that train the last block of the trunk are not here: they need the tokens before it. The
pipeline's own heads (`ours`) are such a row.
"""

from __future__ import annotations

from pipeline.peers.amend import AMEND
from pipeline.peers.base import Basis, Figures, Input, Method, PeerRow, Uses
from pipeline.peers.blca import BLCA
from pipeline.peers.cms import CMS, MeanShiftWard
from pipeline.peers.gatcluster import GATCluster
from pipeline.peers.gcd import GCD
from pipeline.peers.iic import IIC
from pipeline.peers.protogcd import ProtoGCD
from pipeline.peers.scan import SCAN
from pipeline.peers.scan import Settings as ScanSettings
from pipeline.peers.simgcd import SimGCD
from pipeline.peers.temi import TEMI
from pipeline.peers.turtle import TURTLE
from pipeline.peers.uno import UNO

_ADAPTER = (
    "An adapter on the frozen class token, the identity at the start, takes the place of the last "
    "block. Among the novel classes only, unless compare.open. "
)
_TOKENS: tuple[Input, ...] = ("whole", "crop")
_PATCHES: tuple[Input, ...] = ("patch",)


def _row(
    name: str,
    method: Method,
    footnote: str,
    *,
    inputs: tuple[Input, ...] = _TOKENS,
    uses: tuple[Uses, ...] = (),
    published: tuple[Figures, Figures] | None = None,
    basis: Basis = "C",
    trains: str = "heads",
) -> PeerRow:
    """Return a row; `published` are the figures on MVTec AD and MTD."""
    return PeerRow(
        name=name,
        method=method,
        inputs=inputs,
        uses=frozenset(uses),
        random=trains != "nothing",
        trains=trains,
        published=dict(zip(("MVTec AD", "MTD"), published, strict=True)) if published else {},
        basis=basis,
        footnote=footnote,
    )


DEEP_ROWS: dict[str, PeerRow] = {
    "iic": _row(
        "IIC (heads on frozen features)",
        IIC(),
        "Head B alone: the overclustering head could act on it only through the trunk.",
        published=((0.093, 0.020, 0.285), (0.064, 0.020, 0.252)),
    ),
    "gatcluster": _row(
        "GATCluster (heads on frozen tokens)",
        GATCluster(),
        "Views are flips and shifts of the token map, on 64 principal components and at most 8 x 8 "
        "cells; without mutual-information critics.",
        inputs=_PATCHES,
        published=((0.136, 0.053, 0.264), (0.028, 0.009, 0.243)),
    ),
    "scan": _row(
        "SCAN (frozen ViT for its pretext task)",
        SCAN(),
        "Linear heads, without self-labelling; min(20, N / 2K) neighbours, at least 5.",
        published=((0.210, 0.103, 0.335), (0.041, 0.029, 0.282)),
    ),
    "scan_self_labelling": _row(
        "SCAN (frozen ViT for its pretext task, self-labelling)",
        SCAN(ScanSettings(self_label=True)),
        "As SCAN, then trained on images with a probability above .99; `confident` counts them.",
        published=((0.210, 0.103, 0.335), (0.041, 0.029, 0.282)),
    ),
    "uno": _row(
        "UNO (heads)",
        UNO(),
        "Two views, no small crops, MLPs of width 512; the base prototypes are trained first. "
        "Without a base set this is SwAV with several heads.",
        uses=("B",),
        published=((0.146, 0.052, 0.342), (0.034, 0.011, 0.221)),
    ),
    "gcd": _row(
        "GCD (adapter on frozen ViT)",
        GCD(),
        _ADAPTER + "The contrast is on the 256-d projection.",
        uses=("B",),
        published=((0.417, 0.302, 0.553), (0.211, 0.115, 0.381)),
    ),
    "simgcd": _row(
        "SimGCD (adapter on frozen ViT)",
        SimGCD(),
        _ADAPTER + "One head, eps 2, lam .35.",
        uses=("B",),
        published=((0.452, 0.346, 0.569), (0.105, 0.048, 0.293)),
    ),
    "amend": _row(
        "AMEND (adapter on frozen ViT, our reading)",
        AMEND(),
        _ADAPTER + "N = 4, M = 5. The published code cannot run; equations in part from notes.",
        uses=("B",),
        published=((0.431, 0.333, 0.542), (0.138, 0.067, 0.324)),
        basis="T",
    ),
    "temi": _row(
        "TEMI (heads on frozen features)",
        TEMI(),
        "min(50, N / 2K) neighbours, at least 5; learning rate 1e-3 for 500 steps.",
    ),
    "turtle": _row(
        "TURTLE (frozen features)",
        TURTLE(),
        "One space of features; the authors' own steps and constants under either budget.",
    ),
    "protogcd": _row(
        "ProtoGCD (adapter on frozen ViT)",
        ProtoGCD(),
        _ADAPTER + "Separation of prototypes with weight .1.",
        uses=("B",),
    ),
    "cms": _row(
        "CMS (adapter on frozen ViT)",
        CMS(),
        _ADAPTER + "One step of mean shift at the end; InfoNCE keeps the positive in its "
        "denominator, the authors' code does not.",
        uses=("B",),
    ),
    "mean_shift_ward": _row(
        "CMS (mean shift and Ward only)",
        MeanShiftWard(),
        "CMS's clustering on frozen class tokens, one step.",
        trains="nothing",
    ),
    "blca": _row(
        "BLCA (our maps, frozen tokens)",
        BLCA(),
        "Tokens of the last layer at the patch grid; tau is .05 of the spread of our maps.",
        inputs=_PATCHES,
        uses=("M",),
    ),
    "blca_untrained": _row(
        "BLCA (our maps, frozen tokens, no token net)",
        BLCA(train=False),
        "As BLCA, without training.",
        inputs=_PATCHES,
        uses=("M",),
        trains="nothing",
    ),
}
