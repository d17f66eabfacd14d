"""`anomalyncd classify`: the classes of images that were not in the run."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from numpy.typing import NDArray

from pipeline.binarization.mebin import ScoreRange
from pipeline.commands.errors import check_run, reported
from pipeline.config.params import ConfigError, Params, load_params, parse_params
from pipeline.curation.names import NAMES, ClassNames, names_or_numbers
from pipeline.io.dataset_formats import DatasetError
from pipeline.io.datasets import same_bytes
from pipeline.io.files import sweep, temporary_prefix
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import CLASSIFIED, CROPS, IMAGES, MAP_SCORES, MERGED, REJECTED
from pipeline.io.stored import NUMBER, check_sha256, read_object, read_tensors
from pipeline.io.tables import read_parquet, write_parquet
from pipeline.regions.merging import region_weights
from pipeline.terminal import printable, say, start_logging

if TYPE_CHECKING:
    from pipeline.io.region_classifier import RegionModel

UNKNOWN = "unknown"
_RANGES = {
    f"{stage}.{end}": NUMBER
    for stage, ends in (("maps", ("raw_min", "raw_max")), ("mebin", ("s_min", "s_max")))
    for end in ends
}


def classify(
    images: Annotated[
        Path, typer.Argument(help="An image, or a folder of images, flat or nested.")
    ],
    category: Annotated[str, typer.Option("--category", help="The product: its run is used.")],
    out: Annotated[Path, typer.Option("--out", help="The Parquet file to write.")],
    maps: Annotated[
        Path | None,
        typer.Option("--maps", help="Map or maps of them, where the run's were precomputed."),
    ] = None,
    names: Annotated[Path, typer.Option("--names", help="The file of names.")] = NAMES,
    params_path: Annotated[Path, typer.Option("--params")] = Path("params.yaml"),
    data: Annotated[Path, typer.Option("--data", help="Folder of the artifacts.")] = Path("data"),
) -> None:
    """Classify new images by a finished run, each for itself; nothing is trained.

    Every file that can be read as an image has a row; the others are named with the reason.
    """
    start_logging()
    with reported("classify"):
        paths = ArtifactPaths(data)
        _check_out(out)
        check_run(category, paths)
        known, notes = names_or_numbers(names, category, paths)
        for note in notes:
            say(note, err=True, colour=typer.colors.YELLOW)
        frame, rejected = classify_images(images, category, paths, params_path, maps, known)
        write_parquet(out, frame, CLASSIFIED, {"category": category})
        for path, reason in rejected:
            said = f"left out: {printable(path)}: {reason}"
            say(said, err=True, colour=typer.colors.YELLOW)
        counts = frame["name"].value_counts()
        say(f"{out}: {len(frame)} images: " + ", ".join(f"{n} x {k}" for k, n in counts.items()))


def _check_out(out: Path) -> None:
    """Raise `ConfigError` where `out` is anything but free, or a table of an earlier `classify`."""
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
    same values. Every image goes through the stages as in the run, with what the run has learnt:
    its reference bank, the range of its maps and of MEBin's thresholds, its network and its
    classifier. Raises `ConfigError` if there is no such file or folder, or no usable image in it.

    `class` is -1 where most of an image's weight is on regions unlike all of the run. `confidence`
    is always the probability of `nearest_class` among the classes of the run, which sum to 1:
    for an unknown image it says which of them is nearest, not how sure it is that none fits.
    """
    if not images.exists():
        raise ConfigError(f"{images} does not exist: give an image, or a folder of images")
    if maps is not None and not maps.exists():
        raise ConfigError(f"{maps} does not exist: give a map, or a folder of maps, of the images")
    # Imported here: torch, which it needs, would make every command take seconds to start.
    from pipeline.io.region_classifier import check_network, load_region_model

    model, stored = load_region_model(trained.predict(category))
    check_network(trained, category)
    with _workplace(trained.root) as temporary:
        root = Path(temporary)
        params = _params(stored, params_path, root, maps, category)
        stand_in = root / "raw" / category
        _link(images, stand_in)
        paths = ArtifactPaths(root)
        for new, old in (
            (paths.backbone(), trained.backbone()),
            (paths.train(category), trained.train(category)),
        ):
            new.parent.mkdir(exist_ok=True)
            new.symlink_to(old.resolve())
        try:
            _cut_out(category, params, paths, trained)
        except DatasetError as error:
            raise ConfigError(str(error).replace(str(stand_in), str(images))) from error
        unknown = _sort(category, params, paths, model)
        table = _table(category, params, paths, unknown, names)
        files, left_out = _files(category, paths)
        return files.merge(table, on="sample_id", how="left", validate="many_to_one"), left_out


def _workplace(data: Path) -> tempfile.TemporaryDirectory[str]:
    """Make a temporary folder in `data`, or in the system's place for them if that is read-only."""
    sweep(data)
    try:
        prefix = temporary_prefix("classify")
        return tempfile.TemporaryDirectory(dir=data, prefix=prefix, suffix=".tmp")
    except OSError:
        return tempfile.TemporaryDirectory(prefix="anomalyncd-")


def _link(given: Path, folder: Path) -> None:
    """Make `folder` stand for a given folder, or hold nothing but a given file."""
    folder.parent.mkdir(exist_ok=True)
    if not given.is_file():
        folder.symlink_to(given.resolve())
        return
    folder.mkdir()
    (folder / given.name).symlink_to(given.resolve())


def _params(
    stored: dict[str, Any], params_path: Path, root: Path, maps: Path | None, category: str
) -> Params:
    """Return the parameters of the run, for a flat set; merging is that of params.yaml."""
    content = {**stored}
    if params_path.exists():
        content["merge"] = load_params(params_path).merge.model_dump()
    method = stored["maps"]["method"]
    if method == "ground_truth":
        raise ConfigError(
            "the run's maps were made from ground-truth masks, which new images do not have: run "
            "with maps.method musc, patchcore or precomputed"
        )
    if (method == "precomputed") != (maps is not None):
        raise ConfigError(
            f"the run's maps.method is {method}: --maps is needed with precomputed and only then"
        )
    content["dataset"] = {"root": str(root / "raw"), "categories": [category]}
    nothing = root / "no_references.txt"  # whatever list of references lies in the folder
    nothing.touch()
    manifest = {"layout": "folder", "exclude_labels": [], "normal_root": str(root / "none")}
    content["manifest"] = {**stored["manifest"], **manifest, "normal_list": str(nothing.resolve())}
    if maps is not None:
        _link(maps, root / "maps_of_others" / category)
        content["maps"] = {**stored["maps"], "precomputed_root": str(root / "maps_of_others")}
    return parse_params(content, source="classifier.json: params")


def _cut_out(category: str, params: Params, paths: ArtifactPaths, trained: ArtifactPaths) -> None:
    """Run the stages from the manifest to the sub-images."""
    manifest, maps, mebin, crops = (
        importlib.import_module(f"stages.{name}") for name in ("manifest", "maps", "mebin", "crops")
    )
    model_json = trained.train(category) / "model.json"
    description = read_object(model_json, _RANGES)
    low, high = (description["maps"][name] for name in ("raw_min", "raw_max"))
    ends = ScoreRange(*(description["mebin"][name] for name in ("s_min", "s_max")))
    path = trained.maps(category) / maps.BANK
    bank = read_tensors(path)
    check_sha256(path, description["maps"].get("bank_sha256"), model_json)
    manifest.run(category, params, paths)
    maps.run(category, params, paths, maps.Frozen(bank, low, high))
    mebin.run(category, params, paths, ends)
    crops.run(category, params, paths)


def _sort(
    category: str, params: Params, paths: ArtifactPaths, model: RegionModel
) -> NDArray[np.bool_]:
    """Run the stages `predict` and `merge`; return which sub-images (M,) are unlike the run's."""
    predicting, merging = (
        importlib.import_module(f"stages.{name}") for name in ("predict", "merge")
    )
    seen = predicting.look(category, params, paths)
    found = predicting.classify(seen, model, params)
    predicting.write_regions(paths.predict(category), seen, found.probabilities, params)
    merging.run(category, params, paths)
    unknown: NDArray[np.bool_] = found.unknown
    return unknown


def _table(
    category: str,
    params: Params,
    paths: ArtifactPaths,
    unknown: NDArray[np.bool_],
    names: ClassNames,
) -> pd.DataFrame:
    """Return a row a sample_id; it is unknown where regions of most of its weight are."""
    merged = read_parquet(paths.merge(category) / "images.parquet", MERGED)
    crops = read_parquet(paths.crops(category) / "crops.parquet", CROPS)
    scores = read_parquet(paths.maps(category) / "scores.parquet", MAP_SCORES)
    index = pd.Index(merged["sample_id"]).get_indexer(crops["sample_id"])
    weights = region_weights(
        index,
        crops["area_px"],
        crops["score"],
        rule=params.merge.weights,
        temperature=params.merge.temperature,
        n_images=len(merged),
    )
    share = np.bincount(index, weights=weights * unknown, minlength=len(merged))
    strange = share > 0.5
    classes = np.where(strange, -1, merged["class"])
    return pd.DataFrame(
        {
            "sample_id": merged["sample_id"],
            "class": classes,
            "name": [UNKNOWN if k < 0 else names[int(k)] for k in classes],
            "confidence": merged["confidence"],
            "nearest_class": merged["class"],
            "score": scores.set_index("sample_id")["score"].reindex(merged["sample_id"]).to_numpy(),
            "probabilities": merged["probabilities"],
            "region_classes": merged["region_classes"],
        }
    )


def _files(category: str, paths: ArtifactPaths) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Return path and sample_id of every usable file, by path, and (path, reason) of the others.

    The manifest keeps one of several files with the same bytes, and its reason names it.
    """
    images = read_parquet(paths.manifest(category) / "images.parquet", IMAGES)
    rejected = read_parquet(paths.manifest(category) / "rejected.parquet", REJECTED)
    twins = {same_bytes(path): sample_id for path, sample_id in _rows(images, "sample_id")}
    files, left_out = _rows(images, "sample_id"), []
    for path, reason in _rows(rejected, "reason"):
        if reason in twins:
            files.append((path, twins[reason]))
        else:
            left_out.append((path, reason))
    return pd.DataFrame(sorted(files), columns=["path", "sample_id"]), left_out


def _rows(frame: pd.DataFrame, column: str) -> list[tuple[str, str]]:
    """Return (path, `column`) of every row."""
    return list(zip(frame["path"], frame[column], strict=True))
