"""Checks of a project's own: parameters, folders of images, disk space."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.commands.checks import Line
from pipeline.config.params import ConfigError, Params, load_params
from pipeline.demo.camera import PRODUCTS
from pipeline.io.dataset_formats import DatasetError, Scan, scan_folder
from pipeline.io.datasets import unused_bits
from pipeline.io.demo_files import foreign_file
from pipeline.io.map_files import MapFileError, find_maps
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.schemas import IMAGES, REJECTED
from pipeline.io.tables import read_metadata, read_parquet

_DEMO = "data/raw/demo"
_FEW = 20
_DEMO_DEFECTS = 4
_SUBIMAGES = 1.3
"""Sub-images an image, as found on the demo and on real data."""

_COMPRESSED, _VISIBLE = 0.8, 0.35
"""What compression leaves of maps and sub-images, and which part of the tokens is kept."""

_TOKENS, _WIDTH = 257, 384
_BASICS = 400 * 2**20
"""Backbone, models and report, with their copies in DVC's cache."""


def check_params(path: Path) -> tuple[Params | None, Line]:
    """Return the parameters, if they are valid, and the line about them."""
    try:
        params = load_params(path)
        for category in params.dataset.categories:
            params.classes.n_classes(category)
    except ConfigError as error:
        return None, Line("error", "params", str(error), f"correct {path}")
    shown = ", ".join(params.dataset.categories)
    return params, Line("ok", "params", f"{path} is valid; categories: {shown}")


def check_data(params: Params, paths: ArtifactPaths, project: Path) -> tuple[int, list[Line]]:
    """Return the number of images that no run has sorted yet, and a line for each category.

    Images are counted by their names alone.
    """
    total, lines = 0, []
    for category in params.dataset.categories:
        n_images, line = _category(category, params, paths, project)
        finished = (paths.merge(category) / "images.parquet").is_file()
        total += 0 if finished else n_images
        lines.append(line)
    return total, [
        *lines,
        *_demo(paths),
        *_demo_root(params, project),
        *_base(params, project),
    ]


def _demo(paths: ArtifactPaths) -> Iterator[Line]:
    """Find a file of the user's where DVC or the stage `demo` replaces all there is."""
    for product in PRODUCTS:
        file = foreign_file(paths.raw_demo() / product)
        if file is not None:
            said = f"{file} is not of the demo, and `dvc` may delete what lies beside its images"
            yield Line("error", "demo", said, "move it to a folder of its own: data/raw/NAME")


def _demo_root(params: Params, project: Path) -> Iterator[Line]:
    """Warn of images of one's own in the folder where the stage `demo` writes."""
    root, demo = project / params.dataset.root, project / _DEMO
    own = [name for name in params.dataset.categories if name not in PRODUCTS]
    if own and root.resolve().is_relative_to(demo.resolve()):
        said = f"{root} is the demo's folder, which has no {', '.join(own)}"
        todo = f"keep images outside of {_DEMO}, where the demo is made, and set dataset.root"
        yield Line("warning", "dataset.root", said, todo)


def _category(
    category: str, params: Params, paths: ArtifactPaths, project: Path
) -> tuple[int, Line]:
    what, options = f"images {category}", params.manifest
    root = project / params.dataset.root / category
    references = project / options.normal_root / category
    if params.dataset.root == _DEMO and category in PRODUCTS and not root.is_dir():
        n_images = params.demo.good + _DEMO_DEFECTS * params.demo.per_defect
        return n_images, Line("ok", what, f"the demo: `dvc repro` makes {n_images}")
    try:
        scan = scan_folder(
            root,
            layout=options.layout,
            normal_label=options.normal_label,
            exclude_labels=options.exclude_labels,
            normal_list=options.normal_list,
            normal_root=references if references.is_dir() else None,
        )
    except (DatasetError, OSError) as error:
        return 0, Line("error", what, str(error), "anomalyncd init FOLDER writes params.yaml")
    queries = [entry for entry in scan.entries if entry.split == "query"]
    n_normals = len(scan.entries) - len(queries)
    said = (
        f"{len(queries)} to sort, {n_normals} references, {len(scan.rejected)} files of no use "
        f"(layout {scan.layout})"
    )
    if not queries:
        return 0, Line("error", what, f"{root}: {said}", "put images there")
    problem = _method(params, scan) or _maps(category, params, paths, project)
    if problem is not None:
        return len(queries), Line("error", what, f"{said}; {problem[0]}", problem[1])
    hint = _bits(category, params, paths)
    if hint is not None:
        return len(queries), Line("warning", what, said, hint)
    if len(queries) < _FEW:
        todo = "classes need examples: some ten of each kind of defect"
        return len(queries), Line("warning", what, said, todo)
    return len(queries), Line("ok", what, said)


def _bits(category: str, params: Params, paths: ArtifactPaths) -> str | None:
    """Say that 16-bit images leave bits unused, once the manifest knows their values."""
    try:
        largest = read_metadata(paths.manifest(category) / "images.parquet").get("largest")
    except (ArtifactError, OSError):
        return None
    return unused_bits(largest, params.manifest.bits)


def _method(params: Params, scan: Scan) -> tuple[str, str] | None:
    """Say what `maps.method` lacks, and what to do; None if nothing."""
    method, queries = params.maps.method, [e for e in scan.entries if e.split == "query"]
    if method == "patchcore" and len(queries) == len(scan.entries):
        return "maps.method patchcore needs normal references", "add some, or set musc"
    if method == "ground_truth" and not any(entry.mask for entry in queries):
        return "maps.method ground_truth finds no mask", "set musc or patchcore"
    return None


def _maps(
    category: str, params: Params, paths: ArtifactPaths, project: Path
) -> tuple[str, str] | None:
    """Say which precomputed maps are missing, once the manifest says which images are used."""
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
        return str(error), "docs/detectors.md tells how to write them"
    return None


def _base(params: Params, project: Path) -> Iterator[Line]:
    root, options = project / params.base.root, params.base
    try:
        scan = scan_folder(root, layout=options.layout, normal_label=options.normal_label)
    except (DatasetError, OSError) as error:
        yield Line("error", "base set", str(error), "an empty folder will do: it is optional")
        return
    normal = (None, *options.normal_label)
    labelled = [e for e in scan.entries if e.label not in normal and e.mask is not None]
    if labelled:
        n_labels = len({entry.label for entry in labelled})
        yield Line("ok", "base set", f"{len(labelled)} masked defects of {n_labels} classes")
    elif scan.entries:
        said = f"{root} holds {len(scan.entries)} images, but no labelled defect with a mask"
        yield Line("warning", "base set", said, "they will not be used: see base.layout")
    else:
        yield Line("ok", "base set", "none; it is optional")


def check_disk(params: Params, paths: ArtifactPaths, n_images: int) -> Line:
    """Hold the free space against what the artifacts and their copies in DVC's cache take."""
    folder = paths.root.resolve()
    while not folder.exists():
        folder = folder.parent
    free, needed = shutil.disk_usage(folder).free, estimate(params, n_images)
    said = f"{_gigabytes(free)} free, about {_gigabytes(needed)} needed"
    said += f" for {n_images} images that were not sorted yet" if n_images else ""
    if free < needed:
        return Line("error", "disk", said, "free some, or take a smaller maps.map_size")
    if free < 2 * needed:
        return Line(
            "warning", "disk", said, "each change of parameters adds to DVC's cache: dvc gc"
        )
    return Line("ok", "disk", said)


def estimate(params: Params, n_images: int) -> int:
    """Return roughly how many bytes all artifacts of a first run take, cache included."""
    crop = _COMPRESSED * 4 * params.crops.size**2
    views = params.views.count * _VISIBLE * _TOKENS * _WIDTH * 2
    kept = _COMPRESSED * 4 * params.maps.map_size**2 + _SUBIMAGES * crop
    return int(_BASICS * (n_images > 0) + n_images * (2 * kept + _SUBIMAGES * views))


def _gigabytes(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
