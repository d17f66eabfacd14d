"""Stage `predict`: the class of every sub-image, without augmentation."""

from __future__ import annotations

import pandas as pd

from pipeline.artifacts import CROPS, REGIONS, Layout, read_json, read_parquet, write_parquet
from pipeline.config import Params, Train
from pipeline.inference import predict
from pipeline.merging import class_probabilities
from pipeline.model_store import crop_arrays, load_blocks, load_classifier
from pipeline.progress import track
from pipeline.tokens import iter_plain


def run(category: str, params: Params, layout: Layout) -> None:
    """Write regions.parquet of a category; the network's settings come from model.json."""
    del params
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
    probabilities = class_probabilities(
        result.logits,
        int(description["n_base_classes"]),
        temperature=section.student_temperature,
    )
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
    write_parquet(path, frame, REGIONS, {"head": description["head"]})


def trained_section(layout: Layout, category: str) -> Train:
    """Return section `train` as it was when the model was trained."""
    description = read_json(layout.train(category) / "model.json")
    return Train.model_validate(description["params"]["train"])
