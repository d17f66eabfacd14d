"""The class tree of a category, as the review page draws it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.io.class_tree import has_tree, read_start, read_tree
from pipeline.io.region_table import read_predicted
from pipeline.report.category import Category


def fine_clusters(category: Category) -> NDArray[np.int64]:
    """Return the fine cluster (M,) of each region; its class where there is no tree."""
    if not has_tree(category.artifacts, category.name):
        return category.regions["class"].to_numpy(np.int64)
    shaped, _ = read_tree(category.artifacts, category.name)
    predicted = read_predicted(category.artifacts, category.name)
    x = np.stack([np.asarray(e) for e in predicted["embedding"]])
    own = shaped.tree.nearest(x)[np.arange(len(x)), predicted["class"].to_numpy(np.int64)]
    return np.asarray(own, np.int64)


def tree_columns(category: Category) -> dict[str, Any] | None:
    """Return the tree and the choices that were applied, or None if there is no tree to show.

    `owners` (numbers before any choice, out of `n`), `sizes` and `regions` (rows, the most central
    first) are columns over the fine clusters, `nodes` rows of two children and a height, as in
    `ClassTree`.
    """
    if not len(category.regions) or not has_tree(category.artifacts, category.name):
        return None
    shaped, choices = read_tree(category.artifacts, category.name)
    tree, start = shaped.tree, read_start(category.artifacts, category.name)
    predicted = read_predicted(category.artifacts, category.name)
    x = np.stack([np.asarray(e) for e in predicted["embedding"]])
    own = fine_clusters(category)
    gaps = ((x - tree.centres[own]) ** 2).sum(1)
    order = np.argsort(gaps, kind="stable")
    return {
        "owners": np.asarray(start.numbers)[tree.owners].tolist(),
        "n": start.n_numbers,
        "sizes": tree.sizes.tolist(),
        "regions": [order[own[order] == f].tolist() for f in range(len(tree.owners))],
        "nodes": [[*pair, round(h, 4)] for pair, h in zip(tree.nodes, tree.heights, strict=True)],
        "choices": choices,
    }
