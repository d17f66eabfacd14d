"""Classify images with the files beside this program: python run.py IMAGE [IMAGE ...]

Needs numpy, opencv-python-headless and onnxruntime, and nothing else. From Python:

    from run import Bundle
    found = Bundle(".")(image)  # (H, W, 3) uint8 RGB
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

Array = np.ndarray[Any, np.dtype[Any]]
_COLUMNS = 4096


class Bundle:
    """A finished run: maps, masks, regions and classes of new images."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.about = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
        with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
            self.arrays = {name: arrays[name] for name in arrays.files}
        self._banks = [
            self.arrays[f"bank_{k}"].astype(np.float32) for k in range(len(self.about["runs"]))
        ]
        known = _unit(self.arrays["known"].astype(np.float32))
        self._known = _unit(known.reshape(len(known), -1))
        self._patches, self._regions = (
            onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
            for name in ("patches.onnx", "regions.onnx")
        )

    def __call__(self, image: Array) -> dict[str, Any]:
        """Classify an image (H, W, 3) uint8 RGB.

        Returns class (0 normal, -1 unknown), name, confidence, nearest_class, probabilities, score,
        image_score, region_classes, squares (K, 3) of x0, y0, side, `map` (S, S) float32 in [0, 1]
        and `mask` (S, S) bool.
        """
        about = self.about
        amap, image_score = self.anomaly_map(image)
        mask, n_stable = self.binarize(amap)
        height, width = image.shape[:2]
        large = _resize_nearest(mask.astype(np.uint8), (height, width)).astype(bool)
        keep = n_stable + 1 if about["keep"] is None else about["keep"] or None
        squares = region_squares(large, **about["squares"])[:keep]
        low, high = about["s_min"], about["s_max"]
        shown = cv2.resize(amap, (width, height), interpolation=cv2.INTER_LINEAR)
        weights = _weights(shown, large, low, high)
        areas = np.array([int(large[_inside(s, large.shape)].sum()) for s in squares])
        scores = np.zeros(len(squares))
        if high > low:
            maxima = [shown[_inside(s, large.shape)].max(initial=0) for s in squares]
            scores = np.clip((np.array(maxima, np.float64) - low) / (high - low), 0, 1)
        pooled = self._pooled(image, weights, squares)
        p, unknown = self.region_classes(pooled, areas, image_score)
        alpha = self._region_weights(areas, scores)
        merged = (alpha[:, None] * p.astype(np.float32).astype(np.float64)).sum(0)
        nearest = int(merged.argmax())
        number = -1 if float((alpha * unknown).sum()) > 0.5 else nearest
        return {
            "class": number,
            "name": "unknown" if number < 0 else about["classes"][number],
            "confidence": float(merged.max()),
            "nearest_class": nearest,
            "probabilities": merged,
            "score": float(amap.max()),
            "image_score": image_score,
            "region_classes": sorted({int(k) for k in p.argmax(1)}),
            "squares": squares,
            "map": amap,
            "mask": mask,
        }

    def anomaly_map(self, image: Array) -> tuple[Array, float]:
        """Return the map (S, S) float32 in [0, 1], and the image score."""
        about = self.about
        height, width = about["input"]
        shrinks = image.shape[0] * image.shape[1] > height * width
        if image.shape[:2] != (height, width):
            method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
            image = cv2.resize(image, (width, height), interpolation=method)
        pixels = image.transpose(2, 0, 1)[None].astype(np.float32)
        layers = self._patches.run(None, {"image": pixels})
        if about["half"]:
            layers = [layer.astype(np.float16).astype(np.float32) for layer in layers]
        rows, columns = about["grid"]
        by_size: dict[int, list[Array]] = {}
        for (layer, size), bank, scale in zip(
            about["runs"], self._banks, self.arrays["run_scales"].astype(np.float64), strict=True
        ):
            vectors = _neighbourhoods(layers[layer][0], rows, columns, size)
            distances = _nearest(vectors, bank).astype(np.float64)
            by_size.setdefault(size, []).append((distances - scale[0]) / scale[1])
        maps = [np.mean(by_size[size], axis=0).astype(np.float32) for size in sorted(by_size)]
        contrasts = np.array([_contrast(one) for one in maps], np.float64)
        scales = self.arrays["score_scales"].astype(np.float64)
        image_score = float(np.float32(((contrasts - scales[:, 0]) / scales[:, 1]).max()))
        joint = np.mean(np.array(maps, np.float64), axis=0).astype(np.float32)
        size = about["map_size"]
        raw = cv2.resize(joint.reshape(rows, columns), (size, size), interpolation=cv2.INTER_LINEAR)
        low, high = about["raw_min"], about["raw_max"]
        if not high > low:
            return np.zeros((size, size), np.float32), image_score
        scaled = np.clip((raw.astype(np.float64) - low) / (high - low), 0, 1)
        return scaled.astype(np.float32) ** np.float32(about["gamma"]), image_score

    def binarize(self, amap: Array) -> tuple[Array, int]:
        """Return the mask (S, S) at the most stable threshold (MEBin), and the stable count."""
        about = self.about
        k = about["erode_px"]
        if k > 1:
            amap = cv2.erode(
                amap, np.ones((k, k), np.uint8), anchor=(k // 2, k // 2),
                borderType=cv2.BORDER_CONSTANT, borderValue=(float("inf"),) * 4,
            )  # fmt: skip
        low, high, n = about["s_min"], about["s_max"], about["n_thresholds"]
        levels = 255.0 - np.arange(n) * 256.0 / n
        levels = levels[levels > 0]
        cuts = (low + levels * (high - low) / 255).astype(np.float32)
        counts = [cv2.connectedComponents((amap > cut).astype(np.uint8))[0] - 1 for cut in cuts]
        index, count = _stable_run(counts, about["tau"])
        if index < 0:
            return np.zeros(amap.shape, bool), 0
        return amap > cuts[index], count

    def _pooled(self, image: Array, weights: Array, squares: Array) -> Array:
        size, side = self.about["crop_size"], self.about["view_size"]
        resized = round(side * 256 / 224)
        start = (resized - side) // 2
        window = slice(start, start + side)
        views, masks = [], []
        for square in squares:
            pixels, inside = _padded(image, square), _padded(weights, square)
            method = cv2.INTER_AREA if size < len(pixels) else cv2.INTER_LINEAR
            pixels = cv2.resize(pixels, (size, size), interpolation=method)
            grey = _resize_nearest(inside, (size, size)).astype(np.float32)
            if size != resized:
                method = cv2.INTER_AREA if size > resized else cv2.INTER_LINEAR
                pixels = cv2.resize(pixels, (resized, resized), interpolation=method)
                grey = cv2.resize(grey, (resized, resized), interpolation=method)
            views.append(pixels[window, window].transpose(2, 0, 1))
            masks.append(grey[window, window] / np.float32(255))
        given = {"image": np.array(views, np.float32), "mask": np.array(masks, np.float32)}
        return np.asarray(self._regions.run(None, given)[0])

    def region_classes(
        self, pooled: Array, areas: Array, image_score: float
    ) -> tuple[Array, Array]:
        """Return probabilities (K, C), and which of the K regions are unlike all of the run."""
        about, arrays = self.about, self.arrays
        x = _unit(pooled.astype(np.float64) - arrays["space_mean"])
        x = x / arrays["space_spread"][:, None]
        parts = []
        for i, layer in enumerate(about["mixture_layers"]):
            mean, axes, centres, cholesky, log_weights = (
                arrays[f"mixture_{i}_{name}"]
                for name in ("mean", "axes", "centres", "precision_cholesky", "log_weights")
            )
            points = (x[:, layer] - mean) @ axes.T @ cholesky
            gaps = points[:, None] - centres @ cholesky
            logits = log_weights - (gaps**2).sum(2) / 2
            e = np.exp(logits - logits.max(1, keepdims=True))
            parts.append(e / e.sum(1, keepdims=True))
        votes = arrays["votes"]
        p = np.concatenate(parts, 1) @ votes if parts else np.repeat(votes, len(x), 0)
        p = p / p.sum(1, keepdims=True)
        normal = np.zeros(len(x), bool)
        if about["normal"] != "none":
            normal = areas == 0
        limit = about["score_limit"]
        if about["normal"] == "scores" and limit is not None and image_score <= limit:
            normal[:] = True
        p[normal] = np.eye(p.shape[1])[0]
        if about["known_limit"] is None:
            return p, np.zeros(len(x), bool)
        unit = _unit(x.astype(np.float32))
        cosines = _unit(unit.reshape(len(unit), -1)) @ self._known.T
        k = min(3, len(self._known))
        nearest = np.sort(1 - cosines, axis=1)[:, :k].mean(1)
        return p, (nearest > about["known_limit"]) & ~normal

    def _region_weights(self, areas: Array, scores: Array) -> Array:
        rule = self.about["weights"]
        if rule == "area":
            value = np.sqrt(areas) / self.about["temperature"]
            value = np.exp(value - value.max())
        elif rule == "score" and scores.max() > 0:
            value = scores / scores.max()
        else:
            value = np.ones(len(areas))
        return np.asarray(value / value.sum())


def region_squares(
    mask: Array, *, padding: float, smallest_side: float, merge_distance: float
) -> Array:
    """Return the squares (K, 3) around the regions of a mask (H, W), the largest first."""
    height, width = mask.shape
    longer = max(height, width)
    background = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    _, labels = cv2.connectedComponents(background, connectivity=4)
    filled = (labels != labels[0, 0])[1:-1, 1:-1].astype(np.uint8)
    n, labels, stats, _ = cv2.connectedComponentsWithStats(filled, connectivity=8)
    if n == 1:
        return np.array([[(width - longer) // 2, (height - longer) // 2, longer]], np.int64)
    x0, y0, w, h = stats[1:, :4].astype(np.int64).T
    areas = np.bincount(labels[mask], minlength=n)[1:]
    order = np.lexsort((x0, y0))
    x0, y0, w, h, areas = (value[order] for value in (x0, y0, w, h, areas))
    radii = ((1 + padding) / 2 * np.maximum(w, h)).astype(np.int64)
    radii = np.maximum(radii, int(smallest_side / 2 * longer))
    radii = np.maximum(np.minimum(radii, longer // 2), 1)
    corners = ((x0 + x0 + w) // 2 - radii, (y0 + y0 + h) // 2 - radii)
    squares = _shifted(np.stack([*corners, 2 * radii], 1), height, width)
    groups = _groups(squares, merge_distance * longer)
    merged, sums = [], []
    for group in range(int(groups.max()) + 1):
        own = squares[groups == group]
        sums.append(int(areas[groups == group].sum()))
        if len(own) == 1:
            merged.append(own[0])
            continue
        low, high = own[:, :2].min(0), (own[:, :2] + own[:, 2:]).max(0)
        side = int((high - low).max())
        corner = low + (high - low - side) // 2
        merged.append(_shifted(np.array([[*corner, side]], np.int64), height, width)[0])
    found = np.array(merged)
    return found[np.lexsort((found[:, 0], found[:, 1], -np.array(sums)))]


def _groups(squares: Array, limit: float) -> Array:
    """Number the connected groups (K,) of squares whose gaps are below `limit`."""
    low, high = squares[:, :2], squares[:, :2] + squares[:, 2:]
    groups = np.full(len(squares), -1)
    for seed in range(len(squares)):
        if groups[seed] >= 0:
            continue
        groups[seed] = groups.max() + 1
        frontier = [seed]
        while frontier:
            i = frontier.pop()
            free = np.flatnonzero(groups < 0)
            gaps = np.maximum(np.maximum(low[free] - high[i], low[i] - high[free]), 0)
            near = free[np.hypot(gaps[:, 0], gaps[:, 1]) < limit]
            groups[near] = groups[seed]
            frontier += near.tolist()
    return groups


def _shifted(squares: Array, height: int, width: int) -> Array:
    x0, y0, side = squares.T
    x0 = np.where(x0 < 0, 0, np.minimum(x0, width - side))
    y0 = np.where(y0 < 0, 0, np.minimum(y0, height - side))
    return np.stack([x0, y0, side], axis=1)


def _stable_run(counts: list[int], tau: int) -> tuple[int, int]:
    """Return the lowest threshold of the longest run of the most frequent count, and that count."""
    runs: list[tuple[int, int, int]] = []  # count, length, index of the last
    for i, count in enumerate(counts):
        if runs and runs[-1][0] == count:
            runs[-1] = (count, runs[-1][1] + 1, i)
        else:
            runs.append((count, 1, i))
    marks: dict[int, int] = {}
    for count, length, _ in runs:
        if count > 0:
            marks[count] = marks.get(count, 0) + length
    if not marks:
        return -1, 0
    stable = max(marks, key=marks.__getitem__)
    _, length, index = max((r for r in runs if r[0] == stable), key=lambda r: (r[1], r[2]))
    return (index, stable) if length >= tau else (-1, 0)


def _neighbourhoods(tokens: Array, rows: int, columns: int, size: int) -> Array:
    """Return unit vectors (P, D) of tokens (P, D) averaged over size x size patches."""
    if size > 1:
        half = size // 2
        grid = np.pad(tokens.reshape(rows, columns, -1), ((half, half), (half, half), (0, 0)))
        tokens = sum(  # type: ignore[assignment]
            grid[y : y + rows, x : x + columns] for y in range(size) for x in range(size)
        )
        tokens = tokens.reshape(rows * columns, -1) / np.float32(size * size)
    return _unit(tokens)


def _nearest(queries: Array, bank: Array) -> Array:
    """Return the distances (Q,) of unit vectors (Q, D) to the nearest of a bank (M, D)."""
    best = np.full(len(queries), np.inf, np.float32)
    for start in range(0, len(bank), _COLUMNS):
        some = bank[start : start + _COLUMNS]
        index = (queries @ some.T).argmax(1)
        best = np.minimum(best, np.linalg.norm(queries - some[index], axis=1))
    return best


def _contrast(patches: Array) -> float:
    """Return the mean of the top .5 % of patches less half of the 95 % quantile."""
    keep = int(np.ceil(0.005 * len(patches) - 1e-9))
    top = np.sort(patches)[-keep:].mean(dtype=np.float64)
    return float(np.float32(np.float32(top) - 0.5 * np.quantile(patches, 0.95)))


def _weights(shown: Array, mask: Array, low: float, high: float) -> Array:
    if not high > low:
        return np.where(mask, 255, 0).astype(np.uint8)
    above = np.rint((shown.astype(np.float64) - low) * (255 / (high - low)))
    return np.where(mask, np.clip(above, 1, 255), 0).astype(np.uint8)


def _unit(x: Array) -> Array:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-9), x.dtype)


def _inside(square: Array, shape: tuple[int, ...]) -> tuple[slice, slice]:
    x0, y0, side = (int(value) for value in square)
    height, width = shape[:2]
    rows = slice(min(max(y0, 0), height), min(max(y0 + side, 0), height))
    return rows, slice(min(max(x0, 0), width), min(max(x0 + side, 0), width))


def _padded(image: Array, square: Array) -> Array:
    x0, y0, side = (int(value) for value in square)
    rows, columns = _inside(square, image.shape)
    result = np.zeros((side, side, *image.shape[2:]), np.uint8)
    top, left = rows.start - y0, columns.start - x0
    part = image[rows, columns]
    result[top : top + part.shape[0], left : left + part.shape[1]] = part
    return result


def _resize_nearest(mask: Array, shape: tuple[int, int]) -> Array:
    return np.asarray(cv2.resize(mask, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST_EXACT))


def main(files: list[str]) -> int:
    """Print a line of JSON an image; return 1 if one is not normal or cannot be read."""
    if not files:
        print(__doc__, file=sys.stderr)
        return 2
    bundle, status = Bundle(Path(__file__).parent), 0
    for file in files:
        pixels = cv2.imread(file, cv2.IMREAD_COLOR)
        if pixels is None:
            print(json.dumps({"path": file, "reason": "no image that OpenCV can read"}))
            status = 1
            continue
        found = bundle(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
        shown = {k: v for k, v in found.items() if k not in ("map", "mask")}
        shown |= {k: shown[k].tolist() for k in ("probabilities", "squares")}
        print(json.dumps({"path": file, **shown}))
        status = status if found["class"] == 0 else 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
