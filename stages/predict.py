"""Stage `predict`: the class of every sub-image, without augmentation.

By the trained heads, as in the paper, or by a vote of mixtures over descriptors of the regions of
this very set. Embeddings are the trained network's either way.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.artifacts import (
    CROPS,
    MAP_SCORES,
    REGIONS,
    ArraySpec,
    Layout,
    create_arrays,
    read_json,
    read_parquet,
    write_parquet,
)
from pipeline.config import Params, Train
from pipeline.descriptors import PooledTokens, region_descriptors
from pipeline.inference import predict
from pipeline.merging import class_probabilities
from pipeline.mixture import mixture_probabilities
from pipeline.model_store import (
    Autocast,
    choose_device,
    crop_arrays,
    load_blocks,
    load_classifier,
    load_vit,
)
from pipeline.normality import known_normal
from pipeline.progress import track
from pipeline.tokens import FrozenBlocks, iter_plain


def run(category: str, params: Params, layout: Layout) -> None:
    """Write regions.parquet and attention.zarr; the network's settings come from model.json."""
    crops = read_parquet(layout.crops(category) / "crops.parquet", CROPS)
    section = trained_section(layout, category)
    blocks = load_blocks(layout, section)
    block, heads, description = load_classifier(
        layout.train(category), blocks.vit, fold_layerscale=section.fold_layerscale
    )
    images, masks = crop_arrays(layout.crops(category))
    with track(f"predicting {category}") as progress:
        result = predict(
            iter_plain(blocks, images, masks, progress=progress),
            block,
            heads,
            head=int(description["head"]),
            device=blocks.device,
        )
    scores = read_parquet(layout.maps(category) / "scores.parquet", MAP_SCORES)
    normal = known_normal(
        params.predict.normal,
        crops["area_px"],
        pd.Index(scores["sample_id"]).get_indexer(crops["sample_id"]),
        scores["score"],
    )
    if params.predict.classifier == "heads":
        probabilities = class_probabilities(
            result.logits,
            int(description["n_base_classes"]),
            temperature=section.student_temperature,
        )
        probabilities[normal] = np.eye(probabilities.shape[1])[0]
    else:
        probabilities = _by_mixture(category, params, layout, normal, int(description["n_classes"]))
    frame = pd.DataFrame(
        {
            "crop_id": crops["crop_id"],
            "sample_id": crops["sample_id"],
            "class": probabilities.argmax(1),
            "confidence": probabilities.max(1, initial=0.0),
            "probabilities": list(probabilities),
            "embedding": list(result.embeddings),
        }
    )
    path = layout.predict(category) / "regions.parquet"
    metadata = {"head": description["head"], "classifier": params.predict.classifier}
    write_parquet(path, frame, REGIONS, metadata)
    _write_attention(layout.predict(category), result.attention, blocks)


def _write_attention(
    folder: Path, attention: NDArray[np.float32] | None, blocks: FrozenBlocks
) -> None:
    """Write the class token's attention to the patches, (M, h, w), without the prefix tokens'."""
    vit = blocks.vit
    grid = tuple(int(n) for n in vit.patch_embed.grid_size)
    patches = np.zeros((0, *grid), np.float16)
    if attention is not None:
        patches = attention[:, int(vit.num_prefix_tokens) :].astype(np.float16).reshape(-1, *grid)
    specs = {"attention": ArraySpec(patches.shape, "float16")}
    attributes = {"image_size": blocks.masking.image_size}
    with create_arrays(folder / "attention.zarr", specs, attributes) as arrays:
        arrays["attention"][:] = patches


def _by_mixture(
    category: str,
    params: Params,
    layout: Layout,
    normal: NDArray[np.bool_],
    n_classes: int,
) -> NDArray[np.float64]:
    crops = read_parquet(layout.crops(category) / "crops.parquet", CROPS)
    section, train = params.predict, trained_section(layout, category)
    device = choose_device(train.device)
    pooling = PooledTokens(
        load_vit(layout, image_size=train.image_size),
        section.layers,
        device=device,
        autocast=Autocast(device, train.precision),
    )
    with track(f"describing {category}") as progress:
        pooled = pooling.over(
            *crop_arrays(layout.crops(category)), size=train.image_size, progress=progress
        )
    descriptors = np.zeros(pooled.shape)
    descriptors[~normal] = region_descriptors(pooled[~normal])
    return mixture_probabilities(
        descriptors,
        crops["score"],
        normal,
        n_classes,
        dimensions=section.dimensions,
        extra_components=section.extra_components,
        seed=section.seed,
    )


def trained_section(layout: Layout, category: str) -> Train:
    """Return section `train` as it was when the model was trained."""
    description = read_json(layout.train(category) / "model.json")
    return Train.model_validate(description["params"]["train"])
