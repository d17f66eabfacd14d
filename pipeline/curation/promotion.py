"""Named classes as labelled base data for the next run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.config.section import ConfigError
from pipeline.curation.corrections import corrected_classes
from pipeline.curation.names import ClassNames
from pipeline.io.arrays import open_arrays
from pipeline.io.files import replacing
from pipeline.io.images import read_image, write_png
from pipeline.io.paths import ArtifactPaths
from pipeline.io.region_table import read_regions_and_crops
from pipeline.io.schemas import IMAGES
from pipeline.io.storage import Place
from pipeline.io.tables import image_bits, read_json, read_parquet, write_json
from pipeline.regions.crops import resize_mask

_FORBIDDEN = '<>:"/\\|?*'

_KINDS = ("images", "masks")

PROMOTED = "promoted.json"
"""Lists the files that promotions of each category wrote; no others are ever removed."""


@dataclass(frozen=True)
class Promoted:
    """Number of images of each name, and number of regions of named classes left out."""

    images: Mapping[str, int]
    left_out: int


def promote(
    category: str, images_root: Place, artifacts: ArtifactPaths, names: ClassNames, target: Path
) -> Promoted:
    """Write images and masks of the named defect classes, in the layout class_folders.

    An image is written once, to the class of its largest named region, with the mask of its regions
    of that class; its regions of other named classes are left out. Corrections are applied. Files
    are ``images/<category> <name>/<sample_id>.png`` and ``masks/<category> <name>/...``. Files of
    an earlier promotion of the category, listed in `promoted.json`, are replaced.

    Parameters
    ----------
    category
        A category with a finished run.
    images_root
        The folder of its images.
    artifacts, names
        The artifacts and the class names of the run.
    target
        The folder to write to; it may hold promotions of other categories.

    Raises
    ------
    ConfigError
        No defect class has a name, `target` holds anything but class folders, or a file that no
        promotion wrote would be overwritten.
    """
    _check_target(target)
    regions = _regions(category, artifacts, names)
    named = regions[regions["name"].notna() & (regions["area_px"] > 0)]
    if len(named) == 0:
        raise ConfigError(f"{category} has no named defect class; name one with `anomalyncd name`")
    largest = named.loc[named.groupby("sample_id")["area_px"].idxmax()]
    name_of = dict(zip(largest["sample_id"], largest["name"], strict=True))
    used = named[named["name"] == named["sample_id"].map(name_of)]
    counts = {name: 0 for name in sorted(set(named["name"]))}
    before = _listed(target)
    files = [_file(category, name, str(sample_id)) for sample_id, name in name_of.items()]
    mine = {f"{kind}/{file}" for kind in _KINDS for file in files}
    _refuse_foreign(target, mine - {file for listed in before.values() for file in listed})
    earlier = set(before.get(category, ()))
    _write_list(target, {**before, category: mine | earlier})  # first, in case of a crash
    for sample_id, group in used.groupby("sample_id", sort=True):
        name = name_of[str(sample_id)]
        counts[name] += 1
        _write(str(sample_id), group, category, name, images_root, artifacts, target)
    others = {file for other, listed in before.items() if other != category for file in listed}
    _remove(target, earlier - mine - others)
    _write_list(target, {**before, category: mine})
    return Promoted(counts, len(named) - len(used))


def _regions(category: str, artifacts: ArtifactPaths, names: ClassNames) -> pd.DataFrame:
    """Return the crops with the path and mask index of their image, and the class name or None."""
    regions, crops = read_regions_and_crops(artifacts, category)
    images = read_parquet(artifacts.manifest(category) / "images.parquet", IMAGES)
    queries = images[images["split"] == "query"]
    position = {sample_id: i for i, sample_id in enumerate(queries["sample_id"])}
    paths = dict(zip(queries["sample_id"], queries["path"], strict=True))
    corrected = corrected_classes(artifacts, category, regions, names)
    named = [k if isinstance(k, str) else names.names.get(k) if k > 0 else None for k in corrected]
    return crops.assign(
        name=pd.Series(named, index=crops.index, dtype=object),
        position=crops["sample_id"].map(position),
        path=crops["sample_id"].map(paths),
    )


def _write(
    sample_id: str,
    group: pd.DataFrame,
    category: str,
    name: str,
    images_root: Place,
    artifacts: ArtifactPaths,
    target: Path,
) -> None:
    first = group.iloc[0]
    pixels = read_image(images_root / str(first["path"]), image_bits(artifacts.manifest(category)))
    stored = open_arrays(artifacts.mebin(category) / "masks.zarr")["masks"][int(first["position"])]
    mask = resize_mask(np.asarray(stored, np.bool_), (pixels.shape[0], pixels.shape[1]))
    inside = np.zeros_like(mask)
    for x0, y0, side in group[["x0", "y0", "side"]].to_numpy():
        inside[max(y0, 0) : y0 + side, max(x0, 0) : x0 + side] = True
    file = _file(category, name, sample_id)
    _save(target / "images" / file, pixels)
    _save(target / "masks" / file, (mask & inside).astype(np.uint8) * 255)


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    with replacing(path) as temporary:
        write_png(temporary, pixels)


def _file(category: str, name: str, sample_id: str) -> str:
    return f"{folder_name(category, name)}/{sample_id}.png"


def _listed(target: Path) -> dict[str, list[str]]:
    """Return the files (relative, posix) that promotions of each category wrote to `target`."""
    path = target / PROMOTED
    content = read_json(path) if path.exists() else {}
    if not isinstance(content, dict) or not all(
        isinstance(files, list) and all(map(_is_listable, files)) for files in content.values()
    ):
        raise ConfigError(f"{path}: not a list of promoted files; give another folder (--to)")
    return content


def _is_listable(file: object) -> bool:
    """Tell whether an entry is a PNG file in a class folder below `images` or `masks`."""
    if not isinstance(file, str):
        return False
    parts = PurePosixPath(file).parts
    return len(parts) == 3 and parts[0] in _KINDS and ".." not in parts and file.endswith(".png")


def _write_list(target: Path, files: Mapping[str, Iterable[str]]) -> None:
    write_json(target / PROMOTED, {category: sorted(files[category]) for category in sorted(files)})


def _refuse_foreign(target: Path, files: Iterable[str]) -> None:
    for file in sorted(files):
        if (target / file).exists() or (target / file).is_symlink():
            raise ConfigError(
                f"{target / file} exists and is not listed in {target / PROMOTED}: move it, or "
                "give another folder (--to)"
            )


def _remove(target: Path, files: Iterable[str]) -> None:
    """Remove files of an earlier promotion, and folders that this leaves empty."""
    for file in sorted(files):
        path = target / file
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty, or gone
            path.parent.rmdir()


def folder_name(category: str, name: str) -> str:
    """Return the folder of a promoted class, which is also its label."""
    return f"{category} " + "".join("_" if c in _FORBIDDEN or c < " " else c for c in name)


def _check_target(target: Path) -> None:
    unexpected = [
        path.name
        for path in (target.iterdir() if target.is_dir() else [])
        if path.name not in (*_KINDS, PROMOTED, "README.md", ".gitignore", ".gitkeep")
    ]
    if unexpected:
        raise ConfigError(
            f"{target} holds {unexpected[0]!r}, so it is not a folder of promoted classes: give "
            "another folder (--to), and set base.root to it"
        )
