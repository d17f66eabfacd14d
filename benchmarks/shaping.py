"""Measure what merging and splitting classes by hand is worth: python -m benchmarks.shaping bottle

after `dvc repro predict@bottle`. A person who knows the labels looks at the fine clusters of a few
regions or more, splits every class whose fine clusters differ in their most frequent label, and
merges the parts of a label. Prints the clicks that this takes (one a split, one a merged class),
with NMI, ARI, F1 and purity of the images. Labels play the person, and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray

from benchmarks.case import load_case
from pipeline.clustering.class_choices import Choice, Merge, ShapedClasses, Split, apply_choices
from pipeline.clustering.class_tree import grow_tree
from pipeline.evaluation.clustering import clustering_scores
from pipeline.io.region_table import n_classes, read_predicted
from pipeline.regions.merging import merge_regions

SMALLEST = (5, 3, 1)


class Person:
    """The images of a category as choices class them, against their labels."""

    def __init__(self, category: str, params: Path, data: Path) -> None:
        case = load_case(category, params, data)
        regions = read_predicted(case.paths, category)
        self._x = np.stack([np.asarray(e) for e in regions["embedding"]])
        self._p = np.stack([np.asarray(p, np.float64) for p in regions["probabilities"]])
        self._image = pd.factorize(case.crops["sample_id"])[0]
        self._areas = case.crops["area_px"].to_numpy(np.float64)
        self._scores = case.crops["score"].to_numpy(np.float64)
        self._merge = case.params.merge
        self.labels, self.region_labels = np.array(case.image_labels), case.labels
        self.classes = self._p.argmax(1)
        self.tree = grow_tree(self._x, self.classes, n_classes(regions))

    def fine(self) -> NDArray[np.int64]:
        """Return the fine cluster (M,) of each region."""
        own: NDArray[np.int64] = self.tree.nearest(self._x)[np.arange(len(self._x)), self.classes]
        return own

    def images(self, shaped: ShapedClasses) -> NDArray[np.int64]:
        """Return the class (N,) of each image."""
        merged = merge_regions(
            shaped.probabilities(self._p, self._x),
            self._image,
            self._areas,
            self._scores,
            rule=self._merge.weights,
            temperature=self._merge.temperature,
            n_images=len(self.labels),
        )
        return np.asarray(merged.argmax(1), np.int64)

    def row(self, name: str, shaped: ShapedClasses) -> str:
        """Return a line of the table."""
        found = self.images(shaped)
        m = clustering_scores(self.labels, found)
        pure = pd.crosstab(self.labels, found).to_numpy().max(0).sum() / len(found)
        n = len(np.unique(shaped.members))
        return f"| {name} | {n} | {m.nmi:.3f} | {m.ari:.3f} | {m.f1:.3f} | {pure:.3f} |"


def shape(person: Person, smallest: int) -> tuple[list[Choice], int]:
    """Return the choices of a person, and the clicks: one a split, one a merged class."""
    codes = pd.factorize(person.region_labels)[0]
    fine, sizes = person.fine(), person.tree.sizes
    label = np.array(
        [
            np.bincount(codes[fine == f]).argmax() if sizes[f] >= smallest else -1
            for f in range(len(sizes))
        ]
    )
    choices: list[Choice] = []
    while True:
        members = apply_choices(person.tree, choices).members
        mixed = {int(k): _minority(label[members == k], sizes[members == k]) for k in set(members)}
        worst = max(mixed, key=lambda k: mixed[k])
        if mixed[worst] == 0:
            break
        choices.append(Split(worst))
    groups: dict[int, list[int]] = {}
    for k in np.unique(members).tolist():
        own = label[members == k]
        if (own >= 0).any():
            groups.setdefault(int(own.max()), []).append(k)
    merges = [Merge(tuple(group)) for group in groups.values() if len(group) > 1]
    return [*choices, *merges], len(choices) + sum(len(m.classes) for m in merges)


def _minority(labels: NDArray[np.int64], sizes: NDArray[np.int64]) -> int:
    """Return the regions of fine clusters that are not of the most frequent label; -1 is none."""
    seen = labels >= 0
    if not seen.any():
        return 0
    counts = np.bincount(labels[seen], sizes[seen])
    return int(counts.sum() - counts.max())


def main(
    category: Annotated[str, typer.Argument(help="One of dataset.categories.")],
    params: Path = Path("params.yaml"),
    data: Path = Path("data"),
) -> None:
    """Shape the classes as a person who knows the labels would."""
    person = Person(category, params, data)
    n = len(person.tree.owners)
    typer.echo(f"{category}: {n} fine clusters of {len(person.classes)} regions\n")
    typer.echo("| fine clusters looked at | clicks | classes | NMI | ARI | F1 | purity |")
    typer.echo("|---|---|---|---|---|---|---|")
    typer.echo(person.row("none | 0", apply_choices(person.tree, [])))
    for smallest in SMALLEST:
        choices, clicks = shape(person, smallest)
        name = f"of {smallest} regions or more | {clicks}"
        typer.echo(person.row(name, apply_choices(person.tree, choices)))


if __name__ == "__main__":
    typer.run(main)
