"""What the table says of each row: its name, what it trains and uses, what was published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.peers.base import Basis, Figures, PeerRow, Uses
from pipeline.peers.rows import ROWS

USES = {"N": "normals", "B": "base set", "M": "maps"}
BASIS = {
    "C": "authors' code",
    "P": "the AnomalyNCD paper",
    "T": "third-party code",
    "M": "general knowledge",
}


@dataclass(frozen=True)
class Description:
    """The words of a row."""

    name: str
    trains: str
    uses: frozenset[Uses]
    basis: Basis
    published: Mapping[str, Figures] = field(default_factory=dict)
    footnote: str = ""
    own: bool = False


_PAPER = {
    "MVTec AD, MuSc": (0.613, 0.526, 0.712),
    "MVTec AD, PatchCore": (0.670, 0.601, 0.769),
    "MTD, MuSc": (0.268, 0.228, 0.509),
    "MTD, PatchCore": (0.380, 0.390, 0.617),
}
_RULE = "An image without a region, or with a score like good images', is normal beforehand."
_NO_RULE = "Without the rule that a low score is normal, which no peer has."


def _own(name: str, trains: str, published: Mapping[str, Figures], rule: bool) -> Description:
    return Description(
        f"{name}{', normal by score' if rule else ''}",
        trains,
        frozenset({"M"}),
        "P",
        published if rule else {},
        _RULE if rule else _NO_RULE,
        own=True,
    )


OWN = {
    "heads": _own("AnomalyNCD (heads)", "last block", _PAPER, rule=True),
    "heads_free": _own("AnomalyNCD (heads)", "last block", {}, rule=False),
    "mixture": _own("ours (mixtures)", "nothing", {}, rule=True),
    "mixture_free": _own("ours (mixtures)", "nothing", {}, rule=False),
}
"""Rows of this pipeline. The heads also train on a base set, where there is one."""


def describe(
    key: str, given: str, *, maps_use_normals: bool, base_classes: int
) -> Description | None:
    """Return the words of a row on an input; None for a row that is no longer known.

    Sub-images come from maps, so rows on them use maps, and with them the normal references that
    the maps use. Without a base set no row uses one.
    """
    own = key in OWN
    if not own and key not in ROWS:
        return None
    found = OWN[key] if own else _of_peer(ROWS[key])
    uses = set(found.uses)
    if given == "crop":
        uses.add("M")
    if "M" in uses and maps_use_normals:
        uses.add("N")
    if own and key.startswith("heads") and base_classes:
        uses.add("B")
    name = found.name
    if "B" in uses and not base_classes:
        uses.discard("B")
        name = f"{name} (no D_l)"
    return Description(
        f"{name}, {given}", found.trains, frozenset(uses), found.basis, found.published,
        found.footnote, own=own,
    )  # fmt: skip


def _of_peer(row: PeerRow) -> Description:
    return Description(row.name, row.trains, row.uses, row.basis, row.published, row.footnote)
