"""Stage `train`: the last block, the projector and the heads learn from pairs of views.

Only where they decide: with `predict.classifier: mixture` nothing is trained. model.json says so,
and model.safetensors and history.csv are empty.
"""

from __future__ import annotations

from typing import Annotated

from pipeline.config.params import Compute, Train, Views
from pipeline.config.section import Classifier, Key
from pipeline.inference.training_run import (
    checkpoints_of,
    describe_run,
    describe_training,
    train_category,
)
from pipeline.io.files import replacing_folder
from pipeline.io.history import write_history
from pipeline.io.networks import load_vit, save_network, save_no_network
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import BASE_CROPS, CROPS
from pipeline.io.stored import read_object
from pipeline.io.tables import read_parquet
from pipeline.mgvit.ranks import current_ranks


def run(
    category: str,
    options: Train,
    views: Views,
    classifier: Annotated[Classifier, Key("predict.classifier")],
    compute: Compute,
    paths: ArtifactPaths,
) -> None:
    """Train a category and write model.safetensors, model.json and history.csv.

    With `train.ranks` rank 0 alone writes.
    """
    path = paths.classes(category) / "classes.json"
    n_classes: int = read_object(path, {"n_classes": (int,)})["n_classes"]
    description = describe_run(category, n_classes, views, compute, paths)
    if classifier == "mixture":
        with replacing_folder(paths.train(category)) as folder:
            folder.mkdir()
            save_no_network(folder, description)
            write_history(folder / "history.csv", ())
        return
    crops = read_parquet(paths.crops(category) / "crops.parquet", CROPS)
    base = read_parquet(paths.base() / "crops.parquet", BASE_CROPS)
    vit = load_vit(paths, image_size=views.image_size)
    checkpoints = checkpoints_of(category, n_classes, options, views, compute, paths)
    result = train_category(
        category, vit, crops, base, n_classes, options, views, compute, paths, checkpoints
    )
    if current_ranks().rank > 0:
        return
    with replacing_folder(paths.train(category)) as folder:  # at once: all are of one run
        folder.mkdir()
        save_network(folder, result.network, describe_training(description, result, base, options))
        write_history(folder / "history.csv", result.history)
    checkpoints.remove()
