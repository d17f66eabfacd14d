"""Checks of a project: parameters, folders of images, disk space."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.commands.checks import Line
from pipeline.commands.image_health import sentences, unhealthy
from pipeline.commands.part_hints import suggest_parts
from pipeline.config.params import Params
from pipeline.config.reading import load_params
from pipeline.config.section import ConfigError
from pipeline.demo.camera import NORMAL, PRODUCTS
from pipeline.errors import AnomalyNCDError
from pipeline.io.dataset_formats import DatasetError, Scan, scan_folder
from pipeline.io.datasets import unused_bits
from pipeline.io.demo_files import foreign_file
from pipeline.io.inventory import INVENTORY, difference, holds_files, source_of
from pipeline.io.map_files import MapFileError, find_maps
from pipeline.io.parts import parts_of
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.schemas import IMAGES, REJECTED
from pipeline.io.storage import Place, StorageError, place_of
from pipeline.io.tables import read_metadata, read_parquet

_DEMO = "data/raw/demo"
_FEW = 20


def check_params(path: Path) -> tuple[Params | None, Line]:
    """Return the parameters, if valid, and the line about them."""
    try:
        params = load_params(path)
        for category in params.dataset.categories:
            params.classes.n_classes(category)
    except ConfigError as error:
        return None, Line("error", "params", str(error), f"correct {path}")
    shown = ", ".join(params.dataset.categories)
    return params, Line("ok", "params", f"{path} is valid; categories: {shown}")


def check_data(params: Params, paths: ArtifactPaths, project: Path) -> tuple[int, list[Line]]:
    """Return the number of images without a finished run, and the lines about the data.

    Images are counted by file name; a sample is opened to see whether it looks healthy.
    """
    total, lines = 0, []
    for category in params.dataset.categories:
        n_images, line = _category(category, params, paths, project)
        finished = (paths.merge(category) / "images.parquet").is_file()
        total += 0 if finished else n_images
        lines.append(line)
        lines += _parts(category, params, project)
        lines += _health(category, params, project)
    return total, [
        *lines,
        *_demo(paths),
        *_demo_root(params, project),
        *_base(params, project),
    ]


def _health(category: str, params: Params, project: Path) -> Iterator[Line]:
    """Name images that look dark, overexposed, blurred or the same again; they are used."""
    try:
        scan = _scan(category, params, project)
        root = source_of(_root(params, project) / category)
    except (AnomalyNCDError, OSError):
        return
    if not isinstance(root, Path):
        return  # a bucket: nothing is fetched for this
    paths = [entry.path for entry in scan.entries if entry.split == "query"]
    for sentence in sentences(unhealthy(root, paths, params.manifest.bits), len(paths)):
        yield Line("warning", f"health {category}", sentence, "look at them; they are used as is")


def _demo(paths: ArtifactPaths) -> Iterator[Line]:
    """Report files in the demo's folders that the demo did not make: DVC may delete them."""
    for product in PRODUCTS:
        file = foreign_file(paths.raw_demo() / product)
        if file is not None:
            finding = f"{file} is not part of the demo; `dvc` may delete it"
            yield Line("error", "demo", finding, "move it to a folder of its own: data/raw/NAME")


def _demo_root(params: Params, project: Path) -> Iterator[Line]:
    """Warn if dataset.root is the demo's folder for a category that is not of the demo."""
    root, demo = _root(params, project), project / _DEMO
    own = [name for name in params.dataset.categories if name not in PRODUCTS]
    if own and isinstance(root, Path) and root.resolve().is_relative_to(demo.resolve()):
        finding = f"{root} is the demo's folder, which has no {', '.join(own)}"
        todo = f"keep your images outside {_DEMO} and set dataset.root"
        yield Line("warning", "dataset.root", finding, todo)


def _category(
    category: str, params: Params, paths: ArtifactPaths, project: Path
) -> tuple[int, Line]:
    what = f"images {category}"
    root = _root(params, project) / category
    if params.dataset.root == _DEMO and category in PRODUCTS and not holds_files(root):
        n_images = params.demo.good + sum(
            params.demo.n_images(label) for label in PRODUCTS[category] if label != NORMAL
        )
        return n_images, Line("ok", what, f"the demo: `dvc repro` makes {n_images}")
    try:
        scan = _scan(category, params, project)
    except StorageError as error:
        return 0, Line("error", what, str(error), "docs/scale.md")
    except (DatasetError, ArtifactError, OSError) as error:
        return 0, Line("error", what, str(error), "anomalyncd init FOLDER writes params.yaml")
    queries = [entry for entry in scan.entries if entry.split == "query"]
    n_normals = len(scan.entries) - len(queries)
    counts = (
        f"{len(queries)} images, {n_normals} references, {len(scan.rejected)} files skipped "
        f"(layout {scan.layout})"
    )
    if not queries:
        return 0, Line("error", what, f"{root}: {counts}", "put images there")
    problem = _method(params, scan) or _maps(category, params, paths, project)
    if problem is not None:
        return len(queries), Line("error", what, f"{counts}; {problem[0]}", problem[1])
    old = _inventory(root)
    if old is not None:
        return len(queries), Line("warning", what, *old)
    hint = _bits(category, params, paths)
    if hint is not None:
        return len(queries), Line("warning", what, counts, hint)
    if len(queries) < _FEW:
        todo = "add images: about ten of each kind of defect are needed"
        return len(queries), Line("warning", what, counts, todo)
    return len(queries), Line("ok", what, counts)


def _scan(category: str, params: Params, project: Path) -> Scan:
    """Sort the files of a category by their names, as the stage `manifest` will."""
    options = params.manifest
    references = _place(options.normal_root, project) / category
    return scan_folder(
        _root(params, project) / category,
        layout=options.layout,
        normal_label=options.normal_label,
        exclude_labels=options.exclude_labels,
        normal_list=options.normal_list,
        normal_root=references if holds_files(references) else None,
    )


def _root(params: Params, project: Path) -> Place:
    return _place(params.dataset.root, project)


def _place(text: str, project: Path) -> Place:
    place = place_of(text)
    return project / place if isinstance(place, Path) else place


def _inventory(folder: Place) -> tuple[str, str] | None:
    """Say how an inventory differs from the images that it lists, and what to do, or None."""
    if not isinstance(folder, Path) or not (folder / INVENTORY).is_file():
        return None
    new, gone, changed = difference(folder)
    if not new + gone + changed:
        return None
    finding = f"the inventory is old: {new} files are new, {gone} gone, {changed} changed since"
    return finding, "anomalyncd inventory, then dvc repro"


def _parts(category: str, params: Params, project: Path) -> Iterator[Line]:
    """Say what manifest.part groups; if it is not set, what names suggest."""
    what, rule = f"parts {category}", params.manifest.part
    try:
        scan = _scan(category, params, project)
        paths = [entry.path for entry in scan.entries]
        if rule is None:
            hint = suggest_parts(paths, label_folders=scan.layout != "folder")
            if hint is not None:
                yield Line("ok", what, hint.sentence(), hint.todo())
            return
        known = [*paths, *(path for path, _ in scan.rejected)]
        root = source_of(_root(params, project) / category)
        found = parts_of(root, paths, known, rule)
    except DatasetError as error:
        if str(error).startswith("manifest.part"):
            yield Line("error", what, str(error), "correct it, or set manifest.part to null")
        return
    except (StorageError, ArtifactError, OSError):
        return  # the line about the images says so
    n_parts = len({found.get(path, path) for path in paths})
    finding = f"{n_parts} parts of {len(paths)} images by manifest.part"
    if any(path in found for path in paths):
        yield Line("ok", what, finding)
    else:
        yield Line("warning", what, finding, "it fits no image: paths look like " + paths[0])


def _bits(category: str, params: Params, paths: ArtifactPaths) -> str | None:
    """Return a hint if 16-bit images leave bits unused, according to the manifest."""
    try:
        largest = read_metadata(paths.manifest(category) / "images.parquet").get("largest")
    except (ArtifactError, OSError):
        return None
    return unused_bits(largest, params.manifest.bits)


def _method(params: Params, scan: Scan) -> tuple[str, str] | None:
    """Return what `maps.method` lacks and what to do, or None."""
    method, queries = params.maps.method, [e for e in scan.entries if e.split == "query"]
    if method in ("nearest", "patchcore") and len(queries) == len(scan.entries):
        return f"maps.method {method} needs normal references", "add some, or set auto"
    if method == "ground_truth" and not any(entry.mask for entry in queries):
        return "maps.method ground_truth finds no mask", "set auto"
    return None


def _maps(
    category: str, params: Params, paths: ArtifactPaths, project: Path
) -> tuple[str, str] | None:
    """Return which precomputed maps are missing and what to do, or None before `manifest`."""
    if params.maps.method != "precomputed":
        return None
    root = project / params.maps.precomputed_root
    if not root.is_dir():
        return f"maps.precomputed_root: {root} is not a folder", "docs/detectors.md"
    try:
        images = read_parquet(paths.manifest(category) / "images.parquet", IMAGES)
        rejected = read_parquet(paths.manifest(category) / "rejected.parquet", REJECTED)
    except ArtifactError:
        return None
    queries = images["split"] == "query"
    others = [*images.loc[~queries, "path"], *rejected["path"]]
    try:
        find_maps(root, category, images.loc[queries, "path"].tolist(), others)
    except MapFileError as error:
        return str(error), "see docs/detectors.md"
    return None


def _base(params: Params, project: Path) -> Iterator[Line]:
    root, options = project / params.base.root, params.base
    try:
        scan = scan_folder(root, layout=options.layout, normal_label=options.normal_label)
    except (DatasetError, OSError) as error:
        yield Line("error", "base set", str(error), "create the folder; it may stay empty")
        return
    normal = (None, *options.normal_label)
    labelled = [e for e in scan.entries if e.label not in normal and e.mask is not None]
    if labelled:
        n_labels = len({entry.label for entry in labelled})
        yield Line("ok", "base set", f"{len(labelled)} masked defects of {n_labels} classes")
    elif scan.entries:
        finding = f"{root} holds {len(scan.entries)} images, but no labelled defect with a mask"
        yield Line("warning", "base set", finding, "they will not be used: see base.layout")
    else:
        yield Line("ok", "base set", "none; it is optional")


def check_disk(params: Params, paths: ArtifactPaths, n_images: int) -> Line:
    """Compare the free space with what a first run writes at least, and what the last one wrote."""
    folder = paths.root.resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    new, last = array_bytes(params, n_images), _size(paths)
    line = f"{_gigabytes(free)} free"
    if n_images:
        line += f", {_gigabytes(new)} for maps and crops of {n_images} new images"
    if last:
        line += f", {_gigabytes(last)} in {paths.root} without raw images"
    if free < new:
        return Line("error", "disk", line, "free some space, or reduce maps.map_size")
    if free < new + last:
        return Line("warning", "disk", line, "a changed parameter may write all again: dvc gc")
    return Line("ok", "disk", line)


def array_bytes(params: Params, n_images: int) -> int:
    """Return the bytes of maps (float32), masks (bool) and one crop an image (RGB and mask).

    Uncompressed, and twice: DVC keeps a copy in its cache.
    """
    return 2 * n_images * (5 * params.maps.map_size**2 + 4 * params.crops.size**2)


def _size(paths: ArtifactPaths) -> int:
    """Return the bytes of all artifacts there are."""
    folders = [child for child in paths.root.glob("*") if child.name != "raw"]
    files = [file for folder in folders for file in folder.rglob("*")]
    return sum(file.stat().st_size for file in files if file.is_file())


def _gigabytes(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
