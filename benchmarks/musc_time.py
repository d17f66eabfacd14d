"""How long MuSc takes, part by part, and what its shortcuts cost in AUPRO.

python -m benchmarks.musc_time transistor --count 211 --layers 5,8 --sizes 1,3,5

Needs `dvc repro backbone manifest@<category>`. Takes queries, evenly spread, and normal references
where there are too few. With --exact all pairs are also compared in float32, and AUPRO is that of
the same images; with --references 64,128 samples of the images are compared with, too.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmarks.speed.detectors import MAP_SIZE, Patches
from benchmarks.speed.inputs import spread
from pipeline.config.params import Params
from pipeline.config.reading import load_params
from pipeline.detectors import musc
from pipeline.detectors.base import Images
from pipeline.detectors.calibration import contrast
from pipeline.detectors.features import allocate_memory
from pipeline.inference.patch_features import PatchFeatures, Resources
from pipeline.io.images import read_image, read_mask
from pipeline.io.map_files import mask_to_map
from pipeline.io.paths import ArtifactPaths
from pipeline.io.provenance import environment
from pipeline.io.schemas import IMAGES, MASKS
from pipeline.io.tables import read_parquet
from pipeline.mgvit.precision import uses_bfloat16


@contextmanager
def measured(what: str) -> Iterator[None]:
    """Print a row: CPU seconds of all threads, wall seconds, and the process's peak memory."""
    before, start = os.times(), time.perf_counter()
    yield
    after, wall = os.times(), time.perf_counter() - start
    cpu = after.user - before.user + after.system - before.system
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    typer.echo(f"| {what} | {cpu:.1f} | {wall:.1f} | {peak:.0f} |")


def chosen_images(folder: Path, count: int) -> pd.DataFrame:
    """Return the rows of at most `count` images: queries first."""
    images = read_parquet(folder / "images.parquet", IMAGES)
    queries, normals = (images[images["split"] == split] for split in ("query", "normal"))
    left = max(0, count - len(queries))
    some = normals.iloc[spread(len(normals), left)] if left and len(normals) else normals.iloc[:0]
    return pd.concat([queries.iloc[spread(len(queries), count)], some])


def masks_of(folder: Path, root: Path, names: list[str]) -> list[NDArray[np.float32]]:
    """Return the masks (S, S) of images; zeros where there is none."""
    table = read_parquet(folder / "masks.parquet", MASKS)
    files = dict(zip(table["sample_id"], table["mask_path"], strict=True))
    empty = np.zeros((MAP_SIZE, MAP_SIZE), np.float32)
    return [
        mask_to_map(read_mask(root / files[name]), MAP_SIZE) if name in files else empty
        for name in names
    ]


def quality(patches: Patches, scores: NDArray[np.float32]) -> str:
    """Return AUPRO, and the image AUROC of `contrast`."""
    defective = np.array([mask.any() for mask in patches.masks])
    found = float(roc_auc_score(defective, contrast(scores)))
    return f"AUPRO {patches.aupro(scores):.4f}, image AUROC {found:.4f}"


def numbers(text: str) -> list[int]:
    """Read numbers with commas between them."""
    return [int(number) for number in text.split(",") if number]


def extracted(
    category: str, params: Params, paths: ArtifactPaths, count: int
) -> tuple[Patches, list[str]]:
    """Run the backbone over the images; return their tokens and names."""
    folder, root = paths.manifest(category), Path(params.dataset.root) / category
    table = chosen_images(folder, count)
    names, files = table["sample_id"].tolist(), [root / path for path in table["path"]]
    images = Images(names, lambda i: read_image(files[i]))
    resources = Resources(paths.backbone(), params.compute, category)
    with measured(f"backbone, {len(names)} images at {params.maps.resolution} px"):
        features = PatchFeatures(params.maps, resources, params.maps.layers)(
            images, "images", allocate_memory
        )
    return Patches(features.layers, features.grid, masks_of(folder, root, names)), names


def main(
    category: Annotated[str, typer.Argument(help="product")],
    count: Annotated[int, typer.Option(help="at most so many images")] = 211,
    layers: Annotated[str, typer.Option(help="0-based blocks")] = "5,8",
    sizes: Annotated[str, typer.Option(help="neighbourhoods")] = "1,3,5",
    references: Annotated[str, typer.Option(help="numbers of images to compare with")] = "",
    exact: Annotated[bool, typer.Option(help="all pairs in float32, too")] = False,
    params: Annotated[Path, typer.Option(help="parameters")] = Path("params.yaml"),
    data: Annotated[Path, typer.Option(help="artifacts")] = Path("data"),
) -> None:
    """Print time, memory and quality of MuSc on a product."""
    settings = load_params(params)
    options = settings.maps.model_copy(update={"layers": numbers(layers)})
    settings = settings.model_copy(update={"maps": options})
    half = uses_bfloat16(torch.device("cpu"), settings.compute.dtype)
    typer.echo(f"{environment()}, load {os.getloadavg()[0]:.1f}, {torch.get_num_threads()} threads")
    typer.echo("| part | CPU s | wall s | peak memory MB |\n|---|---|---|---|")
    patches, names = extracted(category, settings, ArtifactPaths(data), count)
    with measured("`maps.skip: auto`"):
        ratio = musc.pose_ratio(patches.layers[0], patches.grid, half=half)
    skip, fraction = musc.choose_ranks(ratio)
    runs = f"{len(patches.layers)} layers, sizes {sizes}"
    ways: list[tuple[str, int | None, bool]] = [(f"all pairs, half {half}", None, half)]
    ways += [(f"{n} references", n, half) for n in numbers(references)]
    ways += [("all pairs, float32", None, False)] if exact else []
    for what, most, halved in ways:
        with measured(f"{runs}: {what}"):
            scores = musc.patch_scores(
                patches.layers,
                patches.grid,
                neighbourhoods=numbers(sizes),
                skip=skip,
                fraction=fraction,
                references=musc.choose_references(names, most, options.seed),
                half=halved,
                memory_mb=settings.compute.memory_mb / 2,
            )
        typer.echo(f"  {quality(patches, scores)} (pose ratio {ratio:.2f})")


if __name__ == "__main__":
    typer.run(main)
