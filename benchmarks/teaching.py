"""Measure how many regions people must classify: python -m benchmarks.teaching bottle

after `dvc repro predict@bottle`. Plays a person who knows the label of every image and says, region
by region, what it is: at random (mean over seeds), or in the order of the review page, renewed
after each round. Prints the share of images in their class, classes matched to labels one to one,
with corrections alone and with a fit in which the classified regions are fixed, and after how many
answers 95 % is reached. Images of classified regions count, too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.case import Case, load_case
from pipeline.clustering.class_tree import grow_tree
from pipeline.clustering.taught import FREE
from pipeline.evaluation.clustering import match_clusters
from pipeline.inference.region_classes import Seen, classify_regions, fit_regions
from pipeline.report.questions import question_order

Order = Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]], NDArray[np.int64]]

ENOUGH = 0.95


def main(
    category: Annotated[str, typer.Argument(help="One of dataset.categories.")],
    params: Path = Path("params.yaml"),
    data: Path = Path("data"),
    answers: Annotated[int, typer.Option(help="Answers a round.")] = 5,
    most: Annotated[int, typer.Option(help="Stop after so many answers.")] = 60,
    seeds: Annotated[int, typer.Option(help="Random orders.")] = 3,
) -> None:
    """Compare orders, and corrections with fits."""
    case = load_case(category, params, data)
    person = Person(case)
    rounds = range(0, most + 1, answers)
    typer.echo(
        f"{category}: {len(case.crops)} regions, {person.n_images} images, share in their class"
    )
    typer.echo(
        "| order, use of the answers | " + " | ".join(map(str, rounds)) + " | answers to 95 % |"
    )
    typer.echo("|---" * (len(rounds) + 2) + "|")
    for use in ("corrections", "fit"):
        paged = person.play(use, lambda p, x, left: person.page(p, x, left), answers, most)
        _row(f"page, {use}", [paged], answers)
        drawn = [
            person.play(use, _random(np.random.default_rng(seed)), answers, most)
            for seed in range(seeds)
        ]
        _row(f"random, {use}", drawn, answers)


def _random(rng: np.random.Generator) -> Order:
    return lambda p, x, left: rng.permutation(np.flatnonzero(left))


def _row(name: str, curves: list[list[float]], answers: int) -> None:
    mean = np.mean(curves, 0)
    reached = [next((i for i, s in enumerate(c) if s >= ENOUGH), None) for c in curves]
    told = [f"over {(len(mean) - 1) * answers}" if i is None else str(i * answers) for i in reached]
    cells = " | ".join(f"{share:.2f}" for share in mean)
    typer.echo(f"| {name} | {cells} | {', '.join(told)} |")


class Person:
    """Knows the label of each image, and answers for it; the label that means normal is class 0."""

    def __init__(self, case: Case) -> None:
        """Fit once, without any answer."""
        self.case = case
        self.predict = case.params.predict
        normal = set(case.params.manifest.normal_label)
        labels = [label for label in sorted(set(case.labels)) if label not in normal]
        self.truth = np.array([0 if k in normal else labels.index(k) + 1 for k in case.labels])
        first = ~case.crops["sample_id"].duplicated().to_numpy()
        self.image_truth, self.n_images = self.truth[first], int(first.sum())
        self.seen = Seen(pooled=case.pooled)
        self.start = self._fit(np.full(len(self.truth), FREE))

    def play(self, use: str, order: Order, answers: int, most: int) -> list[float]:
        """Return the share of images that are right after 0, `answers`, ... answers."""
        taught = np.full(len(self.truth), FREE)
        p, x = self.start
        shares = [self._right(p, taught)]
        while len(shares) * answers <= most:
            left = taught == FREE
            asked = order(p, x, left)[:answers]
            taught[asked] = self.truth[asked]
            if use == "fit":
                p, x = self._fit(taught)
            shares.append(self._right(p, taught))
        return shares

    def page(
        self, p: NDArray[np.float64], x: NDArray[np.float64], left: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Return the regions of which nothing is known in the order of the review page."""
        classes = p.argmax(1)
        fine = grow_tree(x, classes, p.shape[1]).nearest(x)[np.arange(len(x)), classes]
        order = question_order(p, fine, self.case.parts)
        return order[left[order]]

    def _fit(self, taught: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return probabilities (M, C) and embeddings (M, E)."""
        case = self.case
        n = max(case.n_classes, int(taught.max()) + 1)
        model = fit_regions(
            self.seen, case.crops, case.scores, case.references, n, self.predict, case.parts, taught
        )
        found = classify_regions(self.seen, case.crops["area_px"], case.scores, model, self.predict)
        return found.probabilities, found.embeddings

    def _right(self, p: NDArray[np.float64], taught: NDArray[np.int64]) -> float:
        """Return the share of images in their class, with the answers given."""
        width = max(p.shape[1], int(self.truth.max()) + 1)
        wide = np.pad(p, ((0, 0), (0, width - p.shape[1])))
        names = match_clusters(self.image_truth, self.case.image_classes(wide))
        swap = self._numbers(names, width)
        wide = wide[:, swap]
        known = taught != FREE
        wide[known] = np.eye(width)[taught[known]]
        return float((self.case.image_classes(wide) == self.image_truth).mean())

    @staticmethod
    def _numbers(names: dict[int, int], width: int) -> NDArray[np.int64]:
        """Return, for each label, the class that is matched to it; unmatched ones fill the rest."""
        of_label = {int(label): int(k) for k, label in names.items()}
        free = iter([k for k in range(width) if k not in of_label.values()])
        return np.array([of_label[j] if j in of_label else next(free) for j in range(width)])


if __name__ == "__main__":
    typer.run(main)
