"""`anomalyncd init`: write params.yaml for a folder of images."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.commands import params_file
from pipeline.commands.errors import reported
from pipeline.commands.options import PARAMS, ParamsOption
from pipeline.commands.survey import Place, describe, describe_base, locate, survey
from pipeline.config.params import Manifest
from pipeline.config.section import MOST_CLASSES, ConfigError
from pipeline.io.dataset_formats import detect_layout
from pipeline.io.files import replacing, replacing_folder
from pipeline.io.images import is_image_name
from pipeline.terminal import say

LINKED, NORMAL = Path("data/raw/linked"), Path("data/raw/normal")


def init(
    images: Annotated[Path, typer.Argument(help="Folder of images, flat or nested.")],
    normal: Annotated[
        Path | None, typer.Option("--normal", help="Folder of defect-free images.")
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option("--base", help="Folder of labelled defects of other products, with masks."),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option("--classes", help="Number of classes, normal included (default: estimate)."),
    ] = None,
    category: Annotated[
        str | None,
        typer.Option("--category", help="Name of the product (default: the folder's)."),
    ] = None,
    params: ParamsOption = PARAMS,
) -> None:
    """Write params.yaml for a folder of images, print what was found and what to run next."""
    with reported("init"):
        project = params.parent
        if not (project / "dvc.yaml").is_file():
            raise ConfigError(f"there is no dvc.yaml beside {params}: run in the project folder")
        if classes is not None and not 2 <= classes <= MOST_CLASSES:
            raise ConfigError(f"--classes: give 2 to {MOST_CLASSES}, not {classes}")
        text = params_file.template(params)
        place = locate(images, category, Path(os.path.abspath(project / LINKED)))
        values = _values(place, normal, base, classes, params)
        new = params_file.changed(text, values)
        _look(place, normal, base, Manifest(layout=values["manifest.layout"]))
        _place(place, normal, project)
        kept = params_file.write_params(params, new)
        _say(params, kept, values, place)


def _values(
    place: Place, normal: Path | None, base: Path | None, classes: int | None, params: Path
) -> dict[str, Any]:
    """Return the keys to set; folders inside the project are relative to it."""
    layouts = {detect_layout(folder) for folder in _folders(place).values()}
    layout = layouts.pop() if len(layouts) == 1 else "auto"
    values: dict[str, Any] = {
        "dataset.root": _shown(place.root, params),
        "dataset.categories": list(place.categories),
        # class_folders has no value of its own; auto finds it
        "manifest.layout": layout if layout in ("mvtec", "mtd", "folder") else "auto",
    }
    if normal is not None:
        inside = any(_is_inside(normal, folder) for folder in _folders(place).values())
        if inside:
            raise ConfigError(f"--normal: {normal} lies inside the images; move it out of them")
        several = _per_category(place, normal)
        values["manifest.normal_root"] = _shown(normal, params) if several else NORMAL.as_posix()
    if base is not None:
        if not base.is_dir():
            raise ConfigError(f"--base: {base} is not a folder")
        values["base.root"] = _shown(base, params)
    values["classes.count"] = "auto" if classes is None else classes
    return values


def _folders(place: Place) -> dict[str, Path]:
    return {name: place.link or place.root / name for name in place.categories}


def _shown(folder: Path, params: Path) -> str:
    """Return a folder relative to the project if it lies inside, else absolute."""
    whole, project = Path(os.path.abspath(folder)), Path(os.path.abspath(params)).parent
    inside = whole.is_relative_to(project) and whole != project
    shown = whole.relative_to(project) if inside else whole
    if "${" in str(shown):
        raise ConfigError(f"{folder}: DVC takes '${{' in a path for a template; rename the folder")
    return shown.as_posix()


def _is_inside(folder: Path, outer: Path) -> bool:
    return folder.resolve().is_relative_to(outer.resolve())


def _per_category(place: Place, normal: Path) -> bool:
    """Tell whether `normal` holds a folder per category rather than the images of one."""
    if not normal.is_dir():
        raise ConfigError(f"--normal: {normal} is not a folder")
    if any((normal / name).is_dir() for name in place.categories):
        return True
    if len(place.categories) > 1:
        names = ", ".join(place.categories)
        raise ConfigError(f"--normal: {normal} has no folder for any of the categories {names}")
    if not _images_below(normal):
        raise ConfigError(f"--normal: {normal} holds no image file (.png, .jpg, ...)")
    return False


def _images_below(folder: Path) -> list[Path]:
    files = (Path(at, name) for at, _, names in os.walk(folder, followlinks=True) for name in names)
    return sorted(f for f in files if is_image_name(f) and f.name[0] != "." and f.is_file())


def _look(place: Place, normal: Path | None, base: Path | None, manifest: Manifest) -> None:
    """Print what the folders hold; raise if there is no usable image."""
    for name, folder in _folders(place).items():
        references = None
        if normal is not None:
            references = normal / name if _per_category(place, normal) else normal
            references = references if references.is_dir() else None
        for line in describe(name, folder, survey(folder, name, manifest, references)):
            say(line)
    if place.skipped:
        say(f"folders skipped: {', '.join(place.skipped)}")
    if base is not None:
        say(describe_base(base))


def _place(place: Place, normal: Path | None, project: Path) -> None:
    """Link images under their category's name, and put references below data/raw/normal.

    Images are linked as a folder, which DVC follows. It would not follow links inside the folder of
    references, so those are hard links, or copies across file systems.
    """
    if place.link is not None:
        target = place.root / place.categories[0]
        if target.exists() and not target.is_symlink():
            raise ConfigError(f"{target} exists: remove it or choose another --category")
        with replacing(target) as temporary:
            temporary.symlink_to(place.link)
        say(f"linked {target} to {place.link}")
    if normal is None or _per_category(place, normal):
        return
    target = project / NORMAL / place.categories[0]
    files = _images_below(normal)
    if target.resolve() == normal.resolve():
        return
    wanted = {file.relative_to(normal) for file in files}
    there = {file.relative_to(target) for file in target.rglob("*") if not file.is_dir()}
    if there - wanted:
        raise ConfigError(f"{target} holds other files: remove it, or give it as --normal")
    with replacing_folder(target) as temporary:
        for file in files:
            copy = temporary / file.relative_to(normal)
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file.resolve(), copy)
            except OSError:
                shutil.copyfile(file, copy)
    say(f"{len(files)} references are in {target} (hard links or copies): add others there")


def _say(params: Path, kept: Path | None, values: dict[str, Any], place: Place) -> None:
    say(f"wrote {params}" + (f"; kept the old file as {kept}" if kept else "") + ":")
    for key, value in values.items():
        say(f"  {key}: {value}")
    say("next:")
    say("  anomalyncd doctor            checks everything that a run needs")
    say("  dvc repro                    runs all stages that changed")
    say("  data/report/index.html       shows the classes; then `anomalyncd name`, docs/start.md")
