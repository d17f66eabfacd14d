"""Check parameters against the backbone: patch size and number of blocks."""

from __future__ import annotations

from pipeline.config.params import ConfigError, Params
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.stored import read_object

_FACTS = {"patch_size": (int,), "depth": (int,)}


def architecture(name: str) -> tuple[int, int]:
    """Return the patch side in pixels and the number of blocks of the timm model `name`.

    Allocates no weights. Raises ConfigError for a model that cannot be used.
    """
    import torch

    from pipeline.mgvit.backbone import create_vit

    try:
        with torch.device("meta"):
            vit = create_vit(name, None)
    except ValueError as error:
        raise ConfigError(f"backbone.name: {error}") from error
    return int(vit.patch_embed.patch_size[0]), len(vit.blocks)


def check_fit(params: Params, stage: str, paths: ArtifactPaths) -> None:
    """Raise ConfigError if the parameters of `stage` do not fit the backbone.

    Without the weights of `backbone.name` in data/backbone, only the stage `backbone` is checked.
    """
    if stage == "backbone":
        patch, depth = architecture(params.backbone.name)
    else:
        try:
            info = read_object(paths.backbone() / "backbone.json", _FACTS)
        except ArtifactError:  # the stages that need the weights say so
            return
        patch, depth = info["patch_size"], info["depth"]
        if info.get("timm_name") != params.backbone.name:
            return
    problems = misfits(params, patch, depth)
    if problems:
        raise ConfigError("; ".join(problems))


def misfits(params: Params, patch: int, depth: int) -> list[str]:
    """Return what does not fit a backbone with `depth` blocks and square patches of `patch` pixels.

    Each problem names its key and says what to do. Parameters that the chosen method ignores are
    not checked.
    """
    maps, views, predict, count = params.maps, params.views, params.predict, params.classes.count
    classes = count.values() if isinstance(count, dict) else [count]
    problems = [_size("views.image_size", views.image_size, patch)]
    if maps.method in ("auto", "nearest", "musc", "patchcore"):
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
    if predict.classifier == "mixture" or "auto" in classes:
        problems += [_layers("predict.layers", predict.layers, depth)]
    if views.mask_on != "none" and views.mask_layers > depth:
        problems += [
            f"views.mask_layers: {views.mask_layers} of the backbone's {depth} blocks: use {depth} "
            "at most"
        ]
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
