"""MuSc and PatchCore."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.plain import detectors as plain_detectors
from benchmarks.speed.features import Patches, real_patches, synthetic_patches
from benchmarks.speed.harness import Row, Timing, check, interleaved, peak_mb, seconds
from benchmarks.speed.inputs import Artifacts, Inputs
from pipeline.detectors import musc as our_musc
from pipeline.detectors import patchcore
from pipeline.io.provenance import last_run

_PROJECTED = 128
_KEEP = 10000
_PLAIN_CENTRES = 100
"""So many of the centres are chosen the plain way: each costs the same."""


def musc(inputs: Inputs, *, limit: int, repeats: int) -> list[Row]:
    """Time one layer and neighbourhood over `limit` images; scale to the set, N^2 as it is."""
    if isinstance(inputs, Artifacts):
        patches = real_patches(inputs, "query")
    else:
        patches = synthetic_patches(limit)
    total, p, _ = patches.layers[0].shape
    rows = np.linspace(0, total - 1, min(limit, total)).astype(int)
    features = np.empty((len(rows), *patches.layers[0].shape[1:]), np.float32)
    our_musc.unit_features(patches.layers[0][rows], patches.grid, 1, out=features)
    tensor = torch.from_numpy(features)
    some = Patches(patches.layers, patches.grid, [patches.masks[row] for row in rows])
    found: dict[str, NDArray[np.float32]] = {}

    def plain() -> None:
        found["plain"] = plain_detectors.mutual_scores(tensor).numpy()

    def ours() -> None:
        found["ours"] = our_musc.mutual_scores(features)

    timing = interleaved(plain, ours, repeats=repeats)
    a, b = (some.aupro(found[name]) for name in ("plain", "ours"))
    check(abs(a - b) < 0.002, f"MuSc: AUPRO {a:.4f} plain, {b:.4f} ours")
    difference = float(np.abs(found["plain"] - found["ours"]).max())
    check(difference < 2e-3, f"MuSc: scores differ by {difference:.1e}")
    compared = Row(
        f"MuSc, one layer and neighbourhood, {len(rows)} images x {p} patches of {inputs.name}",
        ">= 4x",
        "",
        timing.ratio,
        timing.plain_s,
        timing.ours_s,
        repeats,
        peak_mb(plain),
        peak_mb(ours),
        f"scores to {difference:.0e}, AUPRO {a:.4f} and {b:.4f}",
        ours_cpu_s=timing.ours_cpu_s,
    )
    recorded = _recorded(inputs) if isinstance(inputs, Artifacts) else []
    return [compared, *recorded, *_bounded(patches)]


def _recorded(inputs: Artifacts) -> list[Row]:
    """Return what the last run of the stage took, all layers and neighbourhoods of params.yaml."""
    record = last_run("maps", inputs.category, inputs.artifacts)
    maps = inputs.params.maps
    if record is None or maps.method != "musc":
        return []
    runs = f"{len(maps.layers)} layers x {len(maps.neighbourhoods)} neighbourhoods"
    return [
        Row(
            f"stage `maps`, MuSc, {runs}, {inputs.name}, as last run",
            "resident memory < 3 GiB",
            ours_s=record["wall_s"],
            ours_mb=record["peak_memory_mib"],
            repeats=1,
            note="whole process, features, maps and their writing included",
        )
    ]


def _bounded(patches: Patches) -> list[Row]:
    """Time an image as N grows with `maps.references` fixed."""
    n = len(patches.layers[0])
    references = max(2, n // 12)
    figures = {}
    for size in (n // 4, n // 2, n):
        wall = seconds(partial(_against, patches, size, references))
        figures[f"ms an image at N = {size}"] = round(wall / size * 1000, 2)
    return [
        Row(
            f"MuSc with `maps.references` {references}, one layer and neighbourhood",
            "cost per image stops growing with N",
            figures=figures,
        )
    ]


def _against(patches: Patches, size: int, references: int) -> None:
    """Score the first `size` images, one layer and neighbourhood, against some references."""
    layers = [layer[:size] for layer in patches.layers[:1]]
    our_musc.patch_scores(layers, patches.grid, neighbourhoods=(1,), references=references)


def coreset(inputs: Inputs, *, repeats: int, queries: int = 150, keep: int = _KEEP) -> Row:
    """Time the choice of a memory bank among the normal patches, and the search in it.

    The plain choice is timed over its first `_PLAIN_CENTRES` centres and scaled: each costs the
    same. It works on the same random projection, so the points are the same.
    """
    if isinstance(inputs, Artifacts):
        normal, query = real_patches(inputs, "normal"), real_patches(inputs, "query", queries)
    else:
        normal, query = synthetic_patches(12), synthetic_patches(4, seed=1)
    everything = slice(0, len(normal.layers[0]))
    wide = patchcore.patch_vectors(normal.layers, normal.grid, everything, (1,)).flatten(0, 1)
    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((wide.shape[1], _PROJECTED)) / _PROJECTED**0.5
    points = wide @ torch.from_numpy(matrix.astype(np.float32))
    keep = min(keep, len(points) // 4)
    centres = min(_PLAIN_CENTRES, keep)
    asked = patchcore.patch_vectors(query.layers, query.grid, slice(0, None), (1,)).flatten(0, 1)
    chosen: dict[str, list[int]] = {}

    def plain_choice() -> None:
        chosen["plain"] = plain_detectors.k_centre(points, centres)

    def our_choice() -> None:
        chosen["ours"] = patchcore.k_centre(points, keep).tolist()

    choice = interleaved(plain_choice, our_choice, repeats=repeats)
    same = sum(a == b for a, b in zip(chosen["plain"], chosen["ours"], strict=False)) / centres
    check(same > 0.9, f"coreset: only {same:.0%} of the first {centres} centres are the same")
    bank = wide[chosen["ours"]]
    found: dict[str, NDArray[np.float32]] = {}

    def plain_search() -> None:
        found["plain"] = plain_detectors.nearest_distances(asked, bank).numpy()

    def our_search() -> None:
        found["ours"] = patchcore.patch_distances(query.layers, query.grid, bank.numpy())[0]

    search = interleaved(plain_search, our_search, repeats=repeats)
    scores = {name: value.reshape(len(query.masks), -1) for name, value in found.items()}
    a, b = (query.aupro(scores[name]) for name in ("plain", "ours"))
    check(abs(a - b) < 0.002, f"coreset: AUPRO {a:.4f} plain, {b:.4f} ours")
    scale = len(points) / len(asked)  # the search is for as many patches as are chosen from
    both = Timing(
        tuple(
            c * keep / centres + s * scale for c, s in zip(choice.plain, search.plain, strict=True)
        ),
        tuple(c + s * scale for c, s in zip(choice.ours, search.ours, strict=True)),
        (choice.ours_cpu_s or 0.0) + (search.ours_cpu_s or 0.0) * scale,
    )
    return Row(
        f"PatchCore, {keep} of {len(points)} patches of {inputs.name}, and search for as many",
        ">= 5x",
        "",
        both.ratio,
        both.plain_s,
        both.ours_s,
        repeats,
        peak_mb(plain_choice),
        peak_mb(our_choice),
        f"{same:.0%} of the first {centres} centres, AUPRO of a search in one bank "
        f"{a:.4f} and {b:.4f}",
        f"plain: from {centres} centres; the search from {len(asked)} patches",
        {
            "s plain choice": round(choice.plain_s * keep / centres, 1),
            "s our choice": round(choice.ours_s, 2),
            "s plain search": round(search.plain_s * scale, 1),
            "s our search": round(search.ours_s * scale, 1),
        },
        ours_cpu_s=both.ours_cpu_s,
    )
