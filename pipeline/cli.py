"""The command line: `anomalyncd <stage> [category]`, one command per node of dvc.yaml."""

from __future__ import annotations

import importlib
import logging
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.classify import classify
from pipeline.commands.correct import correct
from pipeline.commands.doctor import doctor
from pipeline.commands.drift import drift
from pipeline.commands.errors import debug, reported
from pipeline.commands.export import export
from pipeline.commands.fit import check_fit
from pipeline.commands.init import init
from pipeline.commands.inventory import inventory
from pipeline.commands.name import name
from pipeline.commands.options import NAMES, NamesOption
from pipeline.commands.preset import preset
from pipeline.commands.promote import promote
from pipeline.commands.reshape import UndoOption, merge, split
from pipeline.commands.teach import teach
from pipeline.config.reading import load_params
from pipeline.config.section import ConfigError
from pipeline.config.signature import arguments
from pipeline.distributed.engines import engine_of
from pipeline.distributed.ranks import joined, launch, processes, started
from pipeline.executor import using
from pipeline.io.paths import ArtifactPaths
from pipeline.io.provenance import recorded
from pipeline.terminal import start_logging

PER_CATEGORY = {
    "manifest": "List the images of a category and split its labels off.",
    "maps": "Compute anomaly maps (auto, nearest, musc, patchcore, precomputed, ground_truth).",
    "mebin": "Binarize the maps: MEBin, Otsu or a fixed threshold.",
    "crops": "Cut out a square sub-image around every region.",
    "classes": "Take or estimate the number of classes.",
    "views": "Run the frozen blocks over augmented views, once, into a cache.",
    "train": "Train the last block, the projector and the heads.",
    "predict": "Classify each region: mixture ensemble or trained heads.",
    "shape": "Grow the tree of the classes; apply what was merged and split by hand.",
    "merge": "Merge the classes of an image's regions into one; given numbers, merge classes.",
    "evaluate": "Compute metrics against labels and masks, if available.",
    "features": "Compare: compute what all methods see of a category, once.",
    "ours": "Compare: run this pipeline's own classifiers as rows of the table.",
    "compare": "Compare: judge all rows against the labels; write the table.",
}
WHOLE = {
    "demo": "Generate the demo images (two products, four defects each).",
    "backbone": "Fetch the weights of the frozen ViT.",
    "maps_backbone": "Fetch the weights of the maps' own ViT (maps.backbone).",
    "base": "Cut the labelled base set (D_l) out of its masks.",
    "report": "Write the summary, data/report/index.html and the review pages.",
}

app = typer.Typer(
    name="anomalyncd",
    help=(
        "Discover defect classes in unlabelled images.\n\n"
        "Usually you run `dvc repro`, which runs every stage below whose inputs changed. Each "
        "stage also runs alone: it reads params.yaml and the artifacts of the stages before it, "
        "and writes its own under data/STAGE/.\n\n"
        "Order: demo, backbone, maps_backbone, base | manifest, maps, mebin, crops, classes, "
        "views, train, predict, shape, merge, evaluate | report. Example: `anomalyncd mebin metal`."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.callback()
def _options(
    tracebacks: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of every error.")
    ] = False,
) -> None:
    """Set what holds for all commands."""
    debug.set(tracebacks)


_ParamsOption = Annotated[Path, typer.Option("--params", help="The parameter file.")]
_DataOption = Annotated[Path, typer.Option("--data", help="Folder of the artifacts.")]
_PARAMS, _DATA = Path("params.yaml"), Path("data")


def run_stage(
    stage: str, category: str | None, params_path: Path, data: Path, *, method: str | None = None
) -> None:
    """Run one stage; an error that the user can mend is one line and exit status 1."""
    start_logging()
    logging.getLogger("anomalyncd").setLevel(logging.INFO)
    with reported(stage):
        params = load_params(params_path)
        if category is not None and category not in params.dataset.categories:
            known = ", ".join(params.dataset.categories)
            raise ConfigError(f"{category!r} is not in dataset.categories ({known})")
        paths = ArtifactPaths(data)
        check_fit(params, stage, paths)
        if stage == "train" and processes(params) > 1 and not started():
            launch(params, _itself(stage, category, params_path, data))
            return
        run = importlib.import_module(f"stages.{stage}").run
        given: dict[str, object] = {} if category is None else {"category": category}
        name = category
        if method is not None:
            given["method"], name = method, f"{category}-{method}"
        with (
            joined(params) if stage == "train" else nullcontext(True) as writes,
            recorded(stage, name, paths) if writes else nullcontext(),
            engine_of(params.compute) as engine,
            using(engine),
        ):
            run(paths=paths, **given, **arguments(run, params))


def _itself(stage: str, category: str | None, params: Path, data: Path) -> list[str]:
    """Return the arguments of Python that run a stage as `run_stage` does."""
    given = ["--category", str(category), "--params", str(params), "--data", str(data)]
    return ["-m", "pipeline.cli", *(["--debug"] if debug.get() else []), stage, *given]


def _per_category(stage: str) -> Callable[..., None]:
    def command(
        category: Annotated[
            str | None, typer.Argument(help="One of dataset.categories.", show_default=False)
        ] = None,
        named: Annotated[
            str | None, typer.Option("--category", help="Same as the argument (for DVC).")
        ] = None,
        params: _ParamsOption = _PARAMS,
        data: _DataOption = _DATA,
    ) -> None:
        if (category is None) == (named is None):
            raise typer.BadParameter("give one category: as the argument or by --category")
        run_stage(stage, category if named is None else named, params, data)

    return command


def _whole(stage: str) -> Callable[..., None]:
    def command(params: _ParamsOption = _PARAMS, data: _DataOption = _DATA) -> None:
        run_stage(stage, None, params, data)

    return command


def _peer(
    category: Annotated[str, typer.Option("--category", help="One of dataset.categories.")],
    method: Annotated[str, typer.Option("--method", help="One of compare.methods.")],
    params: _ParamsOption = _PARAMS,
    data: _DataOption = _DATA,
) -> None:
    run_stage("peer", category, params, data, method=method)


def _merge(
    category: Annotated[
        str | None, typer.Argument(help="One of dataset.categories.", show_default=False)
    ] = None,
    classes: Annotated[
        list[int] | None,
        typer.Argument(help="Classes to merge under the first of these numbers, as 2 5."),
    ] = None,
    named: Annotated[
        str | None, typer.Option("--category", help="Same as the argument (for DVC).")
    ] = None,
    undo: UndoOption = False,
    names: NamesOption = NAMES,
    params: _ParamsOption = _PARAMS,
    data: _DataOption = _DATA,
) -> None:
    if not classes and not undo:
        if names != NAMES:
            raise typer.BadParameter("--names is for merging classes: give their numbers")
        _per_category("merge")(category, named, params, data)
    elif category is None or named is not None:
        raise typer.BadParameter("give the category before the classes, not by --category")
    elif params != _PARAMS:
        raise typer.BadParameter("--params is for the stage: classes are merged without it")
    else:
        merge(category, classes or [], undo=undo, names=names, data=data)


_ORDER = ("demo", "backbone", "maps_backbone", "base", *PER_CATEGORY, "report")
for _stage in _ORDER:
    if _stage in WHOLE:
        app.command(_stage, help=WHOLE[_stage])(_whole(_stage))
    elif _stage == "merge":
        app.command(_stage, help=PER_CATEGORY[_stage])(_merge)
    else:
        app.command(_stage, help=PER_CATEGORY[_stage])(_per_category(_stage))


app.command("peer", help="Compare: run one method over a category.")(_peer)
for _command in (
    classify,
    correct,
    doctor,
    drift,
    init,
    inventory,
    name,
    preset,
    promote,
    split,
    teach,
):
    app.command()(_command)
app.add_typer(export, name="export")


def main() -> None:
    """Entry point of the `anomalyncd` script."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # not under nohup
            signal.signal(number, _stop)
    app()


def _stop(number: int, frame: object) -> None:
    """Leave as by an exception, so that temporaries are removed; status 143 for SIGTERM."""
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
