"""The parts of the report of a category."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.binarization.thresholds import binarize_fixed, binarize_otsu
from pipeline.config.detection import Mebin
from pipeline.io.arrays import open_arrays
from pipeline.io.images import ImageError, read_image, read_mask
from pipeline.io.paths import ArtifactError
from pipeline.io.provenance import last_run
from pipeline.io.schemas import MEBIN_IMAGES
from pipeline.io.tables import read_metadata, read_parquet
from pipeline.mgvit.augmentation import plain_view
from pipeline.report.category import Category, class_label
from pipeline.report.charts import scatter
from pipeline.report.label_numbers import label_numbers
from pipeline.report.page import (
    ClassGallery,
    ClassPictures,
    Confusion,
    Panel,
    PanelRow,
    PanelTable,
    Scatters,
    Thumbnail,
    confusion,
)
from pipeline.report.pictures import attention_thumbnail, crop_thumbnail, panels
from pipeline.report.projection import subsample, tsne
from pipeline.report.timing import IN_TOTAL, PER_IMAGE, TimeRow, time_row

ATTENDED = 4
"""Crops per class whose attention is shown."""

MOST_POINTS = 3000
"""Largest number of regions for t-SNE; more are subsampled."""

_METHODS = {"mebin": "MEBin", "otsu": "chosen: Otsu", "fixed": "chosen: fixed"}


def most_confident(regions: pd.DataFrame, number: int, limit: int) -> pd.DataFrame:
    """Return up to `limit` rows of class `number`, the most confident first, ties in file order."""
    members = regions[regions["class"] == number]
    return members.sort_values("confidence", ascending=False, kind="stable").head(limit)


def times(category: Category) -> TimeRow | None:
    """Return the times of the stages' last runs; None without records."""
    records = {
        stage: last_run(stage, category.name, category.artifacts)
        for stage in (*PER_IMAGE, *IN_TOTAL)
    }
    return time_row(category.name, len(category.merged), records)


def galleries(category: Category, limit: int) -> list[ClassGallery]:
    """Return the `limit` most confident crops of each class of a region or image."""
    regions, merged = category.regions, category.merged
    group = open_arrays(category.artifacts.crops(category.name) / "crops.zarr")
    classes = []
    for number in sorted({*regions["class"].tolist(), *merged["class"].tolist()}):
        shown = most_confident(regions, number, limit)
        thumbnails = [
            Thumbnail(
                uri=crop_thumbnail(np.asarray(group["images"][i]), np.asarray(group["masks"][i])),
                caption=category.paths[sample_id],
                note=f"{confidence:.2f}",
            )
            for i, sample_id, confidence in zip(
                shown.index.tolist(),
                shown["sample_id"].tolist(),
                shown["confidence"].tolist(),
                strict=True,
            )
        ]
        n_regions = int((regions["class"] == number).sum())
        n_images = int((merged["class"] == number).sum())
        classes.append(ClassGallery(int(number), n_regions, n_images, thumbnails))
    return classes


def attended(category: Category) -> list[ClassPictures]:
    """Return the attention of the class token in the most confident crops of each class.

    Each picture is the view of the network beside the weights of the last block, mean over heads
    (AnomalyNCD section 3.3.1), and those of the backbone as it came, without a mask. Crops without
    a patch under their mask are left out: there the class token sees only itself. There are none
    where no network was trained. Raises `ArtifactError` if attention.zarr is of other regions.
    """
    folder = category.artifacts.predict(category.name)
    if read_metadata(folder / "regions.parquet").get("classifier") == "mixture":
        return []
    group = open_arrays(folder / "attention.zarr")
    attention = np.asarray(group["attention"], np.float32)
    if len(attention) != len(category.regions):
        raise ArtifactError(f"{folder}: attention.zarr is of other regions; run `predict` again")
    size = int(str(group.attrs["image_size"]))
    crops = open_arrays(category.artifacts.crops(category.name) / "crops.zarr")
    visible = category.regions[attention.sum((1, 2)) > 0]
    plain = _plain_attention(category)
    classes = []
    for number in sorted(set(visible["class"].tolist())):
        shown = most_confident(visible, number, ATTENDED)
        thumbnails = []
        for i, sample_id in zip(shown.index.tolist(), shown["sample_id"].tolist(), strict=True):
            image, mask = plain_view(
                np.asarray(crops["images"][i]), np.asarray(crops["masks"][i]), size=size
            )
            uri = attention_thumbnail(image, mask >= 0.5, attention[i], plain.get(i))
            share = f"{attention[i].sum():.0%} on the patches"
            thumbnails.append(Thumbnail(uri, category.paths[sample_id], share))
        classes.append(ClassPictures(int(number), thumbnails))
    return classes


def _plain_attention(category: Category) -> dict[int, NDArray[np.float32]]:
    """Return the attention without a mask, of the regions that have it."""
    group = open_arrays(category.artifacts.predict(category.name) / "plain_attention.zarr")
    maps = np.asarray(group["attention"], np.float32)
    return dict(zip(np.asarray(group["rows"]).tolist(), maps, strict=True))


def embeddings(category: Category) -> Scatters:
    """Return t-SNE plots of the regions' embeddings: by discovered class and by true label.

    Without labels there is no second plot. A region has the label of its image; a label has the
    colour of the class it is matched with.
    """
    rows = subsample(len(category.regions), MOST_POINTS)
    regions = category.regions.iloc[rows]
    points = None
    if len(regions):
        points = tsne(np.stack([np.asarray(e, np.float32) for e in regions["embedding"]]))
    if points is None:
        return Scatters("There are too few different regions for a map of their embeddings.")
    note = f"Each point is one of {len(category.regions)} regions"
    if len(rows) < len(category.regions):
        note = f"Each point is one of {len(rows)} regions, drawn from {len(category.regions)}"
    note += (
        ", in the space in which they were told apart. Nearby points are alike; the axes have no "
        "meaning."
    )
    classes = regions["class"].tolist()
    names = {k: class_label(category.names, k) for k in sorted(set(classes))}
    charts = [scatter(points, classes, names, title=f"{category.name}: discovered classes")]
    labelled = regions["sample_id"].isin(category.labels.keys()).to_numpy()
    if labelled.any():
        labels = [category.labels[s] for s in regions["sample_id"][labelled]]
        numbers = label_numbers(category, labels)
        charts.append(
            scatter(
                points[labelled],
                [numbers[label] for label in labels],
                {number: label for label, number in sorted(numbers.items())},
                title=f"{category.name}: true labels",
            )
        )
    return Scatters(note, charts)


def binarized(category: Category, options: Mebin, limit: int) -> PanelTable:
    """Return `limit` images, evenly spread over the scores, under several binarizations.

    Otsu's threshold and fixed ones, `mebin.fixed_threshold` and .2 below and above it, are applied
    to the stored map; the masks of the last column are those of the run (AnomalyNCD section 3.2).
    Unreadable images are left out.
    """
    name, artifacts = category.name, category.artifacts
    table = artifacts.mebin(name) / "images.parquet"
    frame = read_parquet(table, MEBIN_IMAGES)
    method = str(read_metadata(table).get("method"))
    fixed = _fixed_thresholds(options)
    columns = ["image", "anomaly map", "Otsu", *(f"fixed {threshold:g}" for threshold in fixed)]
    columns.append(_METHODS.get(method, method.replace("_", " ")))
    maps = open_arrays(artifacts.maps(name) / "maps.zarr")["maps"]
    masks = open_arrays(artifacts.mebin(name) / "masks.zarr")["masks"]
    rows = []
    for i in _spread(category.scores["score"].to_numpy(), limit):
        sample_id = str(category.scores["sample_id"][i])
        try:
            image = read_image(category.folder / category.paths[sample_id], category.bits)
        except ImageError:
            continue
        cuts = _cuts(np.asarray(maps[i]), fixed, options.erode_px)
        chosen = np.asarray(masks[i], np.bool_)
        cuts.append((chosen, float(frame["threshold"][i]), int(frame["n_regions"][i])))
        uris = panels(
            image, np.asarray(maps[i]), [mask for mask, _, _ in cuts], truth=_truth(category, i)
        )
        notes = ["", "", *(_note(threshold, n) for _, threshold, n in cuts)]
        rows.append(
            PanelRow(
                category.paths[sample_id],
                f"{category.scores['score'][i]:.3f}",
                [Panel(*cell) for cell in zip(uris, columns, notes, strict=True)],
            )
        )
    return PanelTable(columns, rows)


def _spread(scores: NDArray[np.float64], limit: int) -> list[int]:
    """Return up to `limit` rows from the highest to the lowest score, evenly spaced in rank."""
    n = min(limit, len(scores))
    order = scores.argsort(kind="stable")[::-1]
    chosen: list[int] = order[np.linspace(0, len(order) - 1, n).round().astype(int)].tolist()
    return chosen


_Cut = tuple[NDArray[np.bool_], float, int]
"""A mask, its threshold (NaN: none) and its number of regions."""


def _fixed_thresholds(options: Mebin) -> list[float]:
    around = (options.fixed_threshold + step for step in (-0.2, 0.0, 0.2))
    return sorted({round(min(max(threshold, 0.0), 1.0), 3) for threshold in around})


def _cuts(amap: NDArray[np.float32], fixed: Sequence[float], erode_px: int) -> list[_Cut]:
    cuts = [binarize_otsu(amap, erode_px=erode_px)]
    cuts += [binarize_fixed(amap, threshold=t, erode_px=erode_px) for t in fixed]
    return [(cut.mask, cut.threshold, cut.n_regions) for cut in cuts]


def _note(threshold: float, n_regions: int) -> str:
    if np.isnan(threshold) and n_regions == 0:
        return "no region"
    cut = "" if np.isnan(threshold) else f"above {threshold:.3f}: "
    return f"{cut}{n_regions} region{'' if n_regions == 1 else 's'}"


def _truth(category: Category, row: int) -> NDArray[np.bool_] | None:
    path = category.masks.get(str(category.scores["sample_id"][row]))
    if path is None:
        return None
    try:
        return read_mask(category.folder / path)
    except ImageError:
        return None


def confusion_table(category: Category) -> Confusion | None:
    """Return the labels of the images against their classes; None without labels."""
    labels, merged = category.labels, category.merged
    labelled = merged[merged["sample_id"].isin(labels.keys())]
    if len(labelled) == 0:
        return None
    return confusion([labels[s] for s in labelled["sample_id"]], labelled["class"].tolist())
