"""MEBin of anomalib and of this project on the same maps: equal masks, and time.

    pip install 'anomalyncd[anomalib]'       # in an environment of its own
    python -m benchmarks.anomalib_mebin metal --maps 6 --size 128

anomalib follows the published code, as our rule "reference" does. Its masks are not eroded at the
end and its range is that of one batch; so both get all maps as one batch, and our masks are
compared before the last erosion too.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from pipeline.binarization.mebin import binarize_map, score_range
from pipeline.io.arrays import open_arrays
from pipeline.io.paths import ArtifactPaths

T, TAU, ERODE = 64, 4, 6


def main(
    category: str,
    data: Annotated[Path, typer.Option(help="A run with maps.")] = Path("data"),
    maps: Annotated[
        int, typer.Option(help="So many maps, from the lowest score to the highest.")
    ] = 6,
    size: Annotated[int, typer.Option(help="Side of the maps in pixels.")] = 128,
) -> None:
    """Print a row a comparison."""
    import torch
    from anomalib.post_processing.mebin import mebin_binarize

    stored = open_arrays(ArtifactPaths(data).maps(category) / "maps.zarr")["maps"]
    by_score = np.argsort([stored[i].max() for i in range(stored.shape[0])])
    chosen = by_score[np.linspace(0, len(by_score) - 1, maps).round().astype(int)]
    values = np.stack([_resized(stored[int(i)], size) for i in chosen])
    scores = score_range(values.max(axis=(1, 2)), rule="reference", floor=None)

    def ours(amap: NDArray[np.float32]) -> tuple[NDArray[np.bool_], float]:
        found = binarize_map(amap, scores, thresholds=T, tau=TAU, erode_px=ERODE, rule="reference")
        return found.mask, found.threshold

    ours(values[0])  # compiles
    start = time.perf_counter()
    found = [ours(amap) for amap in values]
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    masks, thresholds = mebin_binarize(
        torch.from_numpy(values)[:, None], 256 // T, TAU, True, ERODE
    )
    theirs = masks[:, 0].numpy() > 0.5
    their_seconds = time.perf_counter() - start

    print(f"{maps} maps of {size} x {size} px, T = {T}, tau = {TAU}, {ERODE} px eroded")
    print(f"ms a map: ours {1000 * seconds / maps:.2f}, anomalib {1000 * their_seconds / maps:.0f}")
    print("map | threshold ours / anomalib | pixels ours / ours before erosion / anomalib | IoU")
    for i, (amap, (mask, threshold)) in enumerate(zip(values, found, strict=True)):
        whole = amap > threshold  # NaN: nothing
        both, either = (whole & theirs[i]).sum(), (whole | theirs[i]).sum()
        iou = both / either if either else 1.0
        print(
            f"{chosen[i]} | {threshold:.4f} / {float(thresholds[i]):.4f} | "
            f"{mask.sum()} / {whole.sum()} / {theirs[i].sum()} | {iou:.3f}"
        )


def _resized(amap: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    small = cv2.resize(amap, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(np.clip(small, 0, 1), np.float32)


if __name__ == "__main__":
    typer.run(main)
