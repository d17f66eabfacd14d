"""Measure the stages beside the plain way: `python -m benchmarks.speed mebin --category mtd`.

Reads the artifacts of a finished run (`dvc repro crops@<category>`), writes its figures to
data/benchmarks/<name>.json and prints them; `render` prints all that are there as the table of
docs/performance.md. With --quick everything is tiny and synthetic, and the figures mean nothing.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from benchmarks.speed import detectors, growth, masks, network, quality
from benchmarks.speed.harness import Row, load, save
from benchmarks.speed.inputs import Artifacts, Inputs, Synthetic
from benchmarks.speed.table import markdown
from pipeline.config.params import load_params
from pipeline.errors import AnomalyNCDError
from pipeline.io.paths import ArtifactPaths

Name = Literal[
    "mebin",
    "crops",
    "merging",
    "augmentation",
    "inference",
    "training",
    "quality",
    "musc",
    "coreset",
    "growth",
    "rerun",
    "all",
    "render",
]
_SIZES = (100, 1000, 10000)


def measured(inputs: Inputs, *, quick: bool) -> dict[str, Callable[[], list[Row]]]:
    """Return what each name measures on a category."""

    def n(usual: int) -> int:
        return min(usual, 3) if quick else usual

    def repeats(usual: int) -> int:
        return 1 if quick else usual

    runs = {
        "mebin": lambda: [masks.mebin(inputs, limit=n(40), repeats=repeats(5))],
        "crops": lambda: [masks.crops(inputs, limit=n(60), repeats=repeats(5))],
        "merging": lambda: [masks.merging(inputs, repeats=repeats(20))],
        "augmentation": lambda: [network.augmentation(inputs, limit=n(32), repeats=repeats(5))],
        "inference": lambda: [network.inference(inputs, limit=n(32), repeats=repeats(5))],
        "training": lambda: network.training(inputs, limit=n(32), repeats=repeats(3)),
        "quality": lambda: [quality.quality(inputs, quick=quick)],
        "musc": lambda: detectors.musc(inputs, limit=12 if quick else 60, repeats=repeats(3)),
        "coreset": lambda: [detectors.coreset(inputs, repeats=repeats(3))],
    }
    return {**runs, "rerun": runs["training"]}


def run(name: str, inputs: Inputs, *, quick: bool, folder: Path, arguments: Sequence[str]) -> None:
    """Measure one thing, keep its figures, and print them."""
    if name == "growth":
        with tempfile.TemporaryDirectory() as work:
            rows = growth.grown((4,) if quick else _SIZES, 1 if quick else 3, Path(work))
    else:
        rows = measured(inputs, quick=quick)[name]()
    kept = "training" if name == "rerun" else name
    save(folder, kept, rows, arguments)
    typer.echo(markdown([result for result in load(folder) if result["name"] == kept]))


_EVERYTHING: tuple[Name, ...] = (
    "mebin",
    "crops",
    "merging",
    "augmentation",
    "inference",
    "training",
    "musc",
    "coreset",
    "growth",
)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    name: Annotated[Name, typer.Argument(help="What to measure; render prints what is known.")],
    category: Annotated[str, typer.Option(help="Without: the first of dataset.categories.")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="Tiny synthetic input.")] = False,
    params_path: Annotated[Path, typer.Option("--params")] = Path("params.yaml"),
    data: Annotated[Path, typer.Option("--data", help="Folder of the artifacts.")] = Path("data"),
    out: Annotated[
        Path | None, typer.Option(help="Folder of the figures; without: <data>/benchmarks.")
    ] = None,
) -> None:
    """Measure one thing, or all, beside the plain way."""
    folder = out or data / "benchmarks"
    try:
        if name == "render":
            typer.echo(markdown(load(folder)))
            return
        with tempfile.TemporaryDirectory() as scratch:
            inputs = _inputs(category, quick, params_path, data, Path(scratch))
            for one in _EVERYTHING if name == "all" else (name,):
                chosen = [*([f"--category={inputs.name}"] if not quick else ["--quick"])]
                run(one, inputs, quick=quick, folder=folder, arguments=[one, *chosen])
    except AnomalyNCDError as error:
        typer.secho(f"benchmarks.speed: {error}", err=True, fg=typer.colors.RED)
        raise typer.Exit(1) from error


def _inputs(category: str, quick: bool, params_path: Path, data: Path, scratch: Path) -> Inputs:
    if quick:
        return Synthetic(scratch)
    params = load_params(params_path)
    return Artifacts(category or params.dataset.categories[0], params, ArtifactPaths(data))


if __name__ == "__main__":
    app(args=sys.argv[1:])
