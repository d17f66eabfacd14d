"""`anomalyncd classify`: the classes of images that were not in the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from pipeline.commands.errors import check_run, reported
from pipeline.commands.watch import LineWatch, StoppedError, check_watched, say_start, watch
from pipeline.config.params import Params, Predict
from pipeline.config.reading import load_params
from pipeline.config.section import ConfigError
from pipeline.curation.names import NAMES, ClassNames, names_or_numbers
from pipeline.io.datasets import collect
from pipeline.io.images import sample_id
from pipeline.io.map_files import find_maps
from pipeline.io.paths import ArtifactPaths
from pipeline.io.results import ResultLog
from pipeline.io.schemas import CLASSIFIED
from pipeline.io.stored import parse_stored, read_object
from pipeline.io.tables import write_parquet
from pipeline.io.watched_folder import WatchedFolder
from pipeline.progress import track
from pipeline.terminal import printable, say, start_logging

if TYPE_CHECKING:
    from pipeline.inference import Classification, ImageClassifier


def classify(
    images: Annotated[
        Path, typer.Argument(help="An image, or a folder of images, flat or nested.")
    ],
    category: Annotated[str, typer.Option("--category", help="The product: its run is used.")],
    out: Annotated[
        Path,
        typer.Option("--out", help="The Parquet file to write; with --watch or --once a CSV file."),
    ],
    maps: Annotated[
        Path | None,
        typer.Option("--maps", help="Map or maps of them, where the run's were precomputed."),
    ] = None,
    names: Annotated[Path, typer.Option("--names", help="The file of names.")] = NAMES,
    params_path: Annotated[
        Path, typer.Option("--params", help="The parameter file: its section `merge` is used.")
    ] = Path("params.yaml"),
    data: Annotated[Path, typer.Option("--data", help="Folder of the artifacts.")] = Path("data"),
    watching: Annotated[
        bool, typer.Option("--watch", help="Wait for images that come into the folder.")
    ] = False,
    once: Annotated[
        bool,
        typer.Option(
            "--once", help="Classify what is new in the folder; status 1 if not all good."
        ),
    ] = False,
    interval: Annotated[
        float, typer.Option("--interval", help="--watch, --once: seconds between two looks.")
    ] = 1.0,
) -> None:
    """Classify new images with a finished run. Images are independent; nothing is trained.

    Every readable image has a row in the table. Other files are listed with the reason.

    --watch and --once append a line to a CSV file and print one of JSON for each image that is not
    in that file yet (docs/line.md). --once ends with status 0 if all of them are good, 1 if one is
    defective, unknown or unreadable, 2 for errors; --watch with 0 when it is told to stop.
    """
    start_logging()
    if watching or once:
        _watch(images, category, out, maps, names, params_path, data, once, interval)
        return
    with reported("classify"):
        paths = ArtifactPaths(data)
        _check_out(out)
        check_run(category, paths)
        class_names, notes = names_or_numbers(names, category, paths)
        for note in notes:
            say(note, err=True, colour=typer.colors.YELLOW)
        frame, rejected = classify_images(images, category, paths, params_path, maps, class_names)
        write_parquet(out, frame, CLASSIFIED, {"category": category})
        for path, reason in rejected:
            line = f"left out: {printable(path)}: {reason}"
            say(line, err=True, colour=typer.colors.YELLOW)
        counts = frame["name"].value_counts()
        say(f"{out}: {len(frame)} images: " + ", ".join(f"{n} x {k}" for k, n in counts.items()))
        promised = promise_of_run(category, paths)
        if promised is not None:
            stopped = int((frame["class"] != 0).sum())
            say(f"{stopped} of {len(frame)} images stopped; {promised}")


def _watch(
    folder: Path,
    category: str,
    out: Path,
    maps: Path | None,
    names: Path,
    params_path: Path,
    data: Path,
    once: bool,
    interval: float,
) -> None:
    """Do `--watch`, or `--once` where that is set."""
    with reported("classify", status=2):
        check_watched(folder, interval)
        if maps is not None or out.suffix.lower() != ".csv":
            raise ConfigError(
                "--watch and --once take no --maps: the run's detector makes them"
                if maps is not None
                else f"--out: {out} does not end in .csv: --watch and --once append to a CSV file"
            )
        paths = ArtifactPaths(data)
        check_run(category, paths)
        class_names, notes = names_or_numbers(names, category, paths)
        for note in notes:
            say(note, err=True, colour=typer.colors.YELLOW)
        log = ResultLog(out)
        params = load_params(params_path) if params_path.exists() else Params()
        classifier = _classifier(category, paths, params, class_names)
        if classifier.takes_maps:
            raise ConfigError("the run's maps were precomputed: --watch and --once cannot make any")
        say_start(folder, log)
        promised = promise_of_run(category, paths)
        if promised is not None:
            say(promised, err=True)
        line = LineWatch(WatchedFolder(folder), log, classifier, params.manifest.part)
        try:
            good = watch(line, once=once, interval=interval)
        except StoppedError:
            raise typer.Exit(130) from None
        finally:
            log.close()
    if once and not good:
        raise typer.Exit(1)


def promise_of_run(category: str, paths: ArtifactPaths) -> str | None:
    """Return what the run's limit promises of good parts; None where it rests on no references."""
    # Imported here: scipy and sklearn would make every command start more slowly.
    from pipeline.evaluation.promise import promise_of, promise_words
    from pipeline.io.scores import scores_of_reference_parts

    path = paths.predict(category) / "classifier.json"
    stored = read_object(path, {"params.predict.normal": (str,), "score_limit_basis": (str,)})
    options = parse_stored(path, "params.predict", Predict, stored["params"]["predict"])
    if options.normal != "scores" or stored["score_limit_basis"] != "references":
        return None
    references = scores_of_reference_parts(paths, category)
    return promise_words(promise_of(len(references), options.false_alarms))


def _check_out(out: Path) -> None:
    """Raise `ConfigError` where `out` is anything but free, or a table of an earlier `classify`."""
    if out.suffix.lower() == ".csv":
        raise ConfigError(
            f"--out: {out} would be Parquet: give a name that ends in .parquet, or --once for CSV"
        )
    if out.is_dir():
        raise ConfigError(f"--out: {out} is a folder: give the file, as {out / 'classes.parquet'}")
    if (out.exists() or out.is_symlink()) and not _is_table(out):
        raise ConfigError(
            f"--out: {out} exists and is no table of `classify`: give another path or remove it"
        )


def _is_table(path: Path) -> bool:
    if not path.is_file():  # a pipe would be waited for
        return False
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowInvalid):
        return False
    return schema.names == CLASSIFIED.names and b"anomalyncd" in (schema.metadata or {})


def classify_images(
    images: Path,
    category: str,
    trained: ArtifactPaths,
    params_path: Path,
    maps: Path | None,
    names: ClassNames,
) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Return the table of `CLASSIFIED`, a row a file, and (path, reason) of what was left out.

    `images` is a file or a folder. Rows are ordered by path; files with the same bytes have the
    same values. Raises `ConfigError` if there is no such file or folder, and `AnomalyNCDError` if
    there is no usable image in it.
    """
    if not images.exists():
        raise ConfigError(f"{images} does not exist: give an image, or a folder of images")
    if maps is not None and not maps.exists():
        raise ConfigError(f"{maps} does not exist: give a map, or a folder of maps, of the images")
    params = load_params(params_path) if params_path.exists() else Params()
    classifier = _classifier(category, trained, params, names)
    if classifier.takes_maps != (maps is not None):
        raise ConfigError(
            f"the run's maps.method is {classifier.options.maps.method}: --maps is needed with "
            "precomputed and only then"
        )
    files = _files(images, category, classifier.options.bits)
    frame = _classes(files, classifier, category, maps)
    rows = pd.DataFrame(sorted(files.used), columns=["path", "sample_id"])
    return rows.merge(frame, on="sample_id", how="left", validate="many_to_one"), files.left_out


def _classifier(
    category: str, trained: ArtifactPaths, params: Params, names: ClassNames
) -> ImageClassifier:
    # Imported here: torch, which it needs, would make every command take seconds to start.
    from pipeline.inference import load_classifier

    return load_classifier(
        trained.root, category, names=names, merge=params.merge, device=params.compute.device
    )


@dataclass(frozen=True)
class _Files:
    """The files that were given: `used` as (path, sample_id), `unique` sample_id -> path."""

    root: Path
    used: list[tuple[str, str]]
    unique: dict[str, str]
    left_out: list[tuple[str, str]]


def _files(images: Path, category: str, bits: int) -> _Files:
    """Look at every file; paths are relative to the folder."""
    if not images.is_dir():
        found = sample_id(images)
        return _Files(images.parent, [(images.name, found)], {found: images.name}, [])
    with track(f"classify {category}: reading") as progress:
        dataset = collect(
            images,
            layout="folder",
            exclude_labels=(),
            normal_list="",  # whatever list of references lies in the folder
            bits=bits,
            progress=progress,
        )
    ids = {sample.path: sample.sample_id for sample in dataset.samples}
    copies = [row for row in dataset.rejected if row.duplicate_of in ids]
    return _Files(
        images,
        [*ids.items(), *((row.path, ids[str(row.duplicate_of)]) for row in copies)],
        {number: path for path, number in ids.items()},
        [(row.path, row.sentence()) for row in dataset.rejected if row.duplicate_of not in ids],
    )


def _classes(
    files: _Files, classifier: ImageClassifier, category: str, maps: Path | None
) -> pd.DataFrame:
    """Return a row a sample_id."""
    paths = list(files.unique.values())
    given = None if maps is None else _map_files(maps, paths, files)
    with track(f"classify {category}") as progress:
        blocks = classifier.blocks([files.root / p for p in paths], given, progress=progress)
        frame = pd.concat([_rows(block) for block in blocks], ignore_index=True)
    return frame.assign(sample_id=list(files.unique))


def _map_files(maps: Path, paths: list[str], files: _Files) -> list[Path]:
    if maps.is_dir():
        folder = maps.resolve()
        others = [path for path, _ in (*files.used, *files.left_out)]
        return find_maps(folder.parent, folder.name, paths, others)
    if len(paths) > 1:
        raise ConfigError(f"--maps: {maps} is one file for {len(paths)} images: give a folder")
    return [maps]


def _rows(result: Classification) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "class": result.classes,
            "name": result.names,
            "confidence": result.confidence,
            "nearest_class": result.nearest_classes,
            "score": result.scores,
            "probabilities": list(result.probabilities),
            "region_classes": result.region_classes,
        }
    )
