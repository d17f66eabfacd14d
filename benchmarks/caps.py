"""Measure what the caps on fits cost: python -m benchmarks.caps real bottle (or: synthetic 20000)

`real` reads params.yaml and data/ (after `dvc repro crops@<category>`), lowers `predict.sample`
below the number of regions, and prints NMI/ARI/F1 over images, the mean over seeds (of the sample
and the mixtures), the standard deviation of NMI, and the estimated numbers of classes. `synthetic`
draws more regions than a cap, some of a rare class, and prints NMI over regions, how well the best
class fits the rare one (F1), and CPU seconds. Labels are used for the metrics alone.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from sklearn.metrics import f1_score, normalized_mutual_info_score

from benchmarks.case import Case, load_case
from benchmarks.classifiers import classes_of_images, metrics
from pipeline.clustering.class_count import best_count, count_candidates
from pipeline.clustering.descriptors import region_descriptors
from pipeline.config.params import Predict
from pipeline.inference.region_classes import RegionClasses, Seen, classify_regions, fit_regions
from pipeline.inference.region_features import fitted_rows

app = typer.Typer(add_completion=False)

_SHARES = (1.0, 0.5, 0.25, 0.125)
_CLASSES, _LAYERS, _DIM = 6, 5, 384


def real_row(case: Case, sample: int, seeds: int) -> str:
    """Return the row of a cap."""
    true, seen = case.image_labels, Seen(pooled=case.pooled)
    runs, counts = [], []
    for seed in range(seeds):
        options = case.params.predict.model_copy(update={"sample": sample, "seed": seed})
        runs.append(metrics(true, classes_of_images(case, seen, options, case.n_classes)))
        rows = fitted_rows(case.crops, case.normal(), sample, seed)
        counts.append(
            best_count(count_candidates(region_descriptors(case.pooled[rows]), seed=seed))
        )
    found = np.array(runs)
    text = "/".join(f"{value:.3f}" for value in found.mean(0))
    estimated = " ".join(str(count + 1) for count in counts)
    return f"| {case.category} | {sample} | {text} ± {found[:, 0].std():.3f} | {estimated} |"


@app.command()
def real(
    category: Annotated[str, typer.Argument(help="One of dataset.categories.")],
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 5,
    params: Path = Path("params.yaml"),
    data: Path = Path("data"),
) -> None:
    """Lower the cap on the crops of a category."""
    case = load_case(category, params, data)
    n = int((~case.normal()).sum())
    typer.echo("| set | fitted to | NMI/ARI/F1 | classes estimated, by seed |\n|---|---|---|---|")
    for share in _SHARES:
        typer.echo(real_row(case, max(1, round(share * n)), seeds))


def draw(n: int, rare: int, seed: int) -> tuple[Seen, pd.DataFrame, NDArray[np.int64]]:
    """Return n regions of five overlapping classes, `rare` of a sixth, and their classes.

    Classes are Gaussians in 12 directions of each layer, of unequal size; the rest is noise.
    """
    rng = np.random.default_rng(seed)
    sizes = np.array([0.4, 0.25, 0.15, 0.12, 0.08])
    kinds = np.r_[rng.choice(5, n - rare, p=sizes), np.full(rare, 5)]
    rng.shuffle(kinds)
    pooled = np.empty((n, _LAYERS, _DIM), np.float32)
    for layer in range(_LAYERS):
        axes = np.linalg.qr(rng.normal(size=(_DIM, 12)))[0]
        centres = rng.normal(scale=0.8, size=(_CLASSES, 12))
        for start in range(0, n, 65_536):
            some = kinds[start : start + 65_536]
            inner = centres[some] + rng.normal(size=(len(some), 12))
            noise = rng.standard_normal((len(some), _DIM), np.float32) * 0.1
            pooled[start : start + len(some), layer] = inner @ axes.T + noise + 1
    names = [str(i) for i in range(n)]
    crops = pd.DataFrame({"crop_id": names, "sample_id": names, "area_px": 9, "score": 0.5})
    return Seen(pooled=pooled), crops, kinds


def judged(found: RegionClasses, kinds: NDArray[np.int64]) -> str:
    """Return NMI over regions, and the F1 of the class that fits the rare one best."""
    classes = found.probabilities.argmax(1)
    rare = kinds == kinds.max()
    f1 = [f1_score(rare, classes == label) for label in range(found.probabilities.shape[1])]
    return f"{normalized_mutual_info_score(kinds, classes):.3f} | {max(f1):.2f}"


@app.command()
def synthetic(
    regions: Annotated[list[int], typer.Argument(help="How many regions.")],
    samples: Annotated[str, typer.Option(help="Caps, with commas; 0: none.")] = "0,5000,1000",
    rare: Annotated[float, typer.Option(help="Share of the rare class.")] = 0.001,
    seed: int = 0,
) -> None:
    """Fit to samples of synthetic regions."""
    typer.echo(
        "| regions | fitted to | NMI | F1 of the rare class | fit, CPU s | classify, CPU s |\n"
        "|---|---|---|---|---|---|"
    )
    for n in regions:
        seen, crops, kinds = draw(n, max(1, round(rare * n)), seed)
        scores = np.full(n, 0.5)
        for sample in (int(text) or n for text in samples.split(",")):
            options = Predict(normal="none", sample=sample, seed=seed)
            start = time.process_time()
            model = fit_regions(seen, crops, scores, np.zeros(0), _CLASSES, options)
            fitted = time.process_time()
            found = classify_regions(seen, crops["area_px"], scores, model, options)
            seconds = f"{fitted - start:.1f} | {time.process_time() - fitted:.1f}"
            typer.echo(f"| {n} | {min(sample, n)} | {judged(found, kinds)} | {seconds} |")


if __name__ == "__main__":
    app()
