"""A tree of fine clusters below and above the classes of a run.

Each class is divided into fine clusters by Ward's method (Ward, 1963) in the space in which the
classifier decided; Ward's method again joins fine clusters to classes, and the classes to one root.
So the classes of the run are nodes of the tree, and people can split and merge them
(`class_choices`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import fcluster, linkage

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

FINE_PER_CLASS = 4
FEWEST_FINE = 24
"""Fine clusters a class, and at least so many in all, while each has three regions on average."""

_REGIONS_PER_FINE = 3
_MOST_FOR_WARD = 4000
"""Regions of a class from which its fine clusters are made; all are assigned to them."""


@dataclass(frozen=True)
class ClassTree:
    """F fine clusters in E dimensions, and the F - 1 nodes that join them.

    `centres` (F, E), `owners` (F,) the class of each, rising, and `sizes` (F,) regions. Node F + i
    joins the two nodes of `nodes[i]`, of smaller numbers, at `heights[i]`, which are at least those
    below them; the last one joins the normal class to the defects. Every class has a fine cluster,
    of no region where it is empty; class 0 has one.
    """

    centres: Floats
    owners: Ints
    sizes: Ints
    nodes: Sequence[tuple[int, int]]
    heights: Sequence[float]

    @property
    def n_classes(self) -> int:
        """Return the number of classes that the tree was grown from."""
        return int(self.owners.max()) + 1

    def nearest(self, embeddings: ArrayLike) -> Ints:
        """Return the nearest fine cluster (M, classes) of every class to embeddings (M, E)."""
        x = np.asarray(embeddings, np.float32)
        x = x.reshape(len(x), self.centres.shape[1])
        nearest = np.zeros((len(x), self.n_classes), np.int64)
        for k in range(self.n_classes):
            own = np.flatnonzero(self.owners == k)
            gaps = np.stack([((x - self.centres[f]) ** 2).sum(1) for f in own], 1)  # (M, own)
            nearest[:, k] = own[gaps.argmin(1)]
        return nearest

    def leaves(self, node: int) -> set[int]:
        """Return the fine clusters below a node."""
        n = len(self.owners)
        if node < n:
            return {node}
        left, right = self.nodes[node - n]
        return self.leaves(left) | self.leaves(right)


def grow_tree(embeddings: ArrayLike, classes: ArrayLike, n_classes: int) -> ClassTree:
    """Grow the tree of a run's classes, without labels.

    Parameters
    ----------
    embeddings
        (M, E) of the regions, in the space in which the classifier decided.
    classes
        (M,) their classes, 0 to n_classes - 1.
    n_classes
        Classes, the normal one (0) included, which is not divided.

    Returns
    -------
    The tree, with `FINE_PER_CLASS` fine clusters a class, at least `FEWEST_FINE`, but no more than
    a third of the regions; the loosest classes have most.

    Raises
    ------
    ValueError
        For lengths that differ, or no class.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0], [1.0], [1.1], [1.2], [5.0], [5.1], [5.2]])
    >>> tree = grow_tree(x, [0, 1, 1, 1, 1, 1, 1], 2)
    >>> tree.owners.tolist(), tree.sizes.tolist(), tree.nodes
    ([0, 1, 1], [1, 3, 3], [(1, 2), (0, 3)])
    """
    x, k = np.asarray(embeddings, np.float32), np.asarray(classes, np.int64)
    if len(x) != len(k) or n_classes < 1:
        raise ValueError(f"{len(k)} classes, of {n_classes}, for embeddings {x.shape}")
    wanted = max(FINE_PER_CLASS * n_classes, FEWEST_FINE)
    wanted = min(wanted, max(n_classes, int((k > 0).sum()) // _REGIONS_PER_FINE + 1))
    parts = _divided([x[k == j] for j in range(n_classes)], wanted)
    owners = np.repeat(np.arange(n_classes), [len(part) for part in parts])
    tree = ClassTree(np.concatenate(parts), owners, np.zeros(len(owners), np.int64), [], [])
    own = tree.nearest(x)[np.arange(len(x)), k] if len(x) else np.zeros(0, np.int64)
    sizes = np.bincount(own, minlength=len(owners)).astype(np.int64)
    nodes, heights = _joined(tree.centres, sizes, owners)
    return ClassTree(tree.centres, owners, sizes, nodes, heights)


def _divided(groups: Sequence[Floats], wanted: int) -> list[Floats]:
    """Return the centres (f, E) of each group's fine clusters, `wanted` in all.

    The groups' Ward trees are cut at one height; the first group, and an empty one, stays whole.
    """
    trees: dict[int, tuple[Floats, NDArray[np.float64]]] = {}
    for j, rows in enumerate(groups):
        if j and len(rows) > 1:
            step = -(-len(rows) // _MOST_FOR_WARD)
            trees[j] = rows[::step], linkage(rows[::step].astype(np.float64), "ward")
    cuts = sorted(((h, j) for j, (_, links) in trees.items() for h in links[:, 2]), reverse=True)
    counts = np.bincount([j for h, j in cuts[: wanted - len(groups)] if h > 0], minlength=1)
    parts = []
    for j, rows in enumerate(groups):
        if j in trees and j < len(counts) and counts[j]:
            points, links = trees[j]
            labels = fcluster(links, counts[j] + 1, "maxclust")
            parts.append(np.stack([points[labels == c].mean(0) for c in np.unique(labels)]))
        else:
            parts.append(
                rows.mean(0, keepdims=True)
                if len(rows)
                else np.zeros_like(rows, shape=(1, rows.shape[1]))
            )
    return [np.asarray(part, np.float32) for part in parts]


def _joined(
    centres: Floats, sizes: Ints, owners: Ints
) -> tuple[list[tuple[int, int]], list[float]]:
    """Return nodes and heights: of each class, then of the defects, and the normal class last."""
    nodes: list[tuple[int, int]] = []
    heights: list[float] = []
    centre = {f: centres[f].astype(np.float64) for f in range(len(owners))}
    size = {f: max(1, int(sizes[f])) for f in range(len(owners))}
    height = dict.fromkeys(centre, 0.0)

    def join(open_nodes: list[int]) -> int:
        """Join nodes to one by Ward's method; return its number."""
        while len(open_nodes) > 1:
            pairs = [(a, b) for i, a in enumerate(open_nodes) for b in open_nodes[i + 1 :]]
            costs = [_ward(size[a], size[b], centre[a] - centre[b]) for a, b in pairs]
            best = int(np.argmin(costs))
            a, b = pairs[best]
            new = len(owners) + len(nodes)
            size[new] = size[a] + size[b]
            centre[new] = (size[a] * centre[a] + size[b] * centre[b]) / size[new]
            height[new] = max(costs[best], height[a], height[b])
            nodes.append((a, b))
            heights.append(height[new])
            open_nodes = [*(n for n in open_nodes if n not in (a, b)), new]
        return open_nodes[0]

    classes = [join(np.flatnonzero(owners == k).tolist()) for k in range(int(owners.max()) + 1)]
    if len(classes) > 1:
        join([classes[0], join(classes[1:])])
    return nodes, heights


def _ward(a: int, b: int, gap: NDArray[np.float64]) -> float:
    """Return Ward's distance of clusters of `a` and `b` points whose centres differ by `gap`."""
    return float(np.sqrt(2 * a * b / (a + b) * (gap @ gap)))
