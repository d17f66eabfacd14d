"""Check parameters against the backbones: patch size and number of blocks."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.params import Params
from pipeline.config.section import ConfigError
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.stored import read_object

Facts = tuple[int, int]
"""Patch side in pixels, and number of blocks."""

_FACTS = {"patch_size": (int,), "depth": (int,)}


def architecture(name: str, key: str = "backbone") -> Facts:
    """Return the patch side in pixels and the number of blocks of the timm model `name`.

    Allocates no weights. Raises ConfigError, naming `key`, for a model that cannot be used.
    """
    import torch

    from pipeline.mgvit.backbone import create_vit

    try:
        with torch.device("meta"):
            vit = create_vit(name, None)
    except ValueError as error:
        raise ConfigError(f"{key}.name: {error}") from error
    return int(vit.patch_embed.patch_size[0]), len(vit.blocks)


def check_fit(params: Params, stage: str, paths: ArtifactPaths) -> None:
    """Raise ConfigError if the parameters of `stage` do not fit the backbones.

    The stages `backbone` and `maps_backbone` are checked before there are weights, by the names.
    The others are as far as the weights that params.yaml names are in data/.
    """
    problems: list[str] = []
    own = params.maps.backbone
    if stage == "backbone":
        pipeline: Facts | None = architecture(params.backbone.name)
    else:
        pipeline = _facts(paths.backbone(), params.backbone.name)
    if pipeline is not None:
        problems += misfits(params, *pipeline)
    maps = pipeline
    if own is not None and stage == "maps_backbone":
        maps = architecture(own.name, "maps.backbone")
    elif own is not None:
        maps = _facts(paths.maps_backbone(), own.name)
    if maps is not None:
        problems += map_misfits(params, *maps)
    if problems:
        raise ConfigError("; ".join(problems))


def _facts(folder: Path, name: str) -> Facts | None:
    """Return the facts of the weights in `folder`; None: there are none, or not those of `name`."""
    try:
        info = read_object(folder / "backbone.json", _FACTS)
    except ArtifactError:  # the stages that need the weights say so
        return None
    return (info["patch_size"], info["depth"]) if info.get("timm_name") == name else None


def misfits(params: Params, patch: int, depth: int) -> list[str]:
    """Return what does not fit a backbone with `depth` blocks and square patches of `patch` pixels.

    Each problem names its key and says what to do. Parameters that the chosen method ignores are
    not checked. Section `maps` has `map_misfits`.
    """
    views, predict, count = params.views, params.predict, params.classes.count
    classes = count.values() if isinstance(count, dict) else [count]
    problems = [_size("views.image_size", views.image_size, patch)]
    if predict.classifier == "mixture" or "auto" in classes:
        problems += [_layers("predict.layers", predict.layers, depth)]
    if views.mask_on != "none" and views.mask_layers > depth:
        problems += [
            f"views.mask_layers: {views.mask_layers} of the backbone's {depth} blocks: use {depth} "
            "at most"
        ]
    return [problem for problem in problems if problem is not None]


def map_misfits(params: Params, patch: int, depth: int) -> list[str]:
    """Return what of section `maps` does not fit the backbone of the maps, as `misfits` does."""
    maps, predict = params.maps, params.predict
    problems: list[str | None] = []
    if maps.detects and maps.resolution != "auto":
        problems += [_size("maps.resolution", maps.resolution, patch)]
    if maps.image_score == "published" and predict.normal == "scores":
        problems += [
            "maps.image_score: published scores of a set are on another scale than those of "
            "references and new images: use contrast or maximum, or set predict.normal to regions"
        ]
    if maps.method in ("auto", "nearest"):
        problems += [_layers("maps.runs", [block for block, _ in maps.runs], depth)]
    if maps.method in ("auto", "musc", "patchcore"):
        problems += [_layers("maps.layers", maps.layers, depth)]
    return [problem for problem in problems if problem is not None]


def _size(key: str, size: int, patch: int) -> str | None:
    if size % patch == 0:
        return None
    nearest = max(1, round(size / patch)) * patch
    return f"{key}: {size} is no multiple of the backbone's patches, {patch} pixels: use {nearest}"


def _layers(key: str, layers: list[int], depth: int) -> str | None:
    if max(layers) < depth:
        return None
    return f"{key}: {layers}, but the backbone has the blocks 0 to {depth - 1}: use some of these"
