"""Every row of the comparison. A method is a module beside this one, with its rows in `ROWS`."""

from __future__ import annotations

from pipeline.peers import anomaly_clustering, floors, gcd_kmeans, uniformaly
from pipeline.peers.base import PeerRow
from pipeline.peers.deep_rows import DEEP_ROWS

ROWS: dict[str, PeerRow] = {
    **floors.ROWS,
    **anomaly_clustering.ROWS,
    **uniformaly.ROWS,
    **gcd_kmeans.ROWS,
    **DEEP_ROWS,
}


def method_of(row: PeerRow) -> str:
    """Return the module that a row's method is defined in: the name in `compare.methods`."""
    function = getattr(row.method, "func", row.method)  # of a functools.partial
    return str(function.__module__).rsplit(".", 1)[-1]


def rows_of(method: str) -> dict[str, PeerRow]:
    """Return the rows of a method; raises KeyError for one that has none."""
    rows = {key: row for key, row in ROWS.items() if method_of(row) == method}
    if not rows:
        known = ", ".join(methods())
        raise KeyError(f"{method!r} is no method of the comparison: use some of {known}")
    return rows


def methods() -> list[str]:
    """Return the names of all methods, in the order of the table."""
    return list(dict.fromkeys(method_of(row) for row in ROWS.values()))
