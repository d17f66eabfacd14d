"""The features of a category as each input of the comparison sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clustering.descriptors import l2_normalise
from pipeline.io.peer_files import open_array, read_description
from pipeline.peers.base import Input, PeerData

_LAYERS = 2


def load_peer_data(folder: Path, given: Input) -> PeerData:
    """Return what rows with input `given` see of the features in `folder`, memory-mapped.

    The base set is that of labelled crops for every input.
    """
    about = read_description(folder)
    base: dict[str, Any] = {
        name: open_array(folder, name, required=False)
        for name in ("base_tokens", "base_view_tokens", "base_labels")
    }
    if given == "crop":
        pooled = _array(folder, "crop_pooled")  # (M, L, D)
        return PeerData(
            class_tokens=_array(folder, "crop_class_tokens"),
            view_tokens=_views(folder, "crop"),
            pooled=l2_normalise(np.asarray(pooled, np.float32)).reshape(len(pooled), -1),
            sample_ids=about["crop_ids"],
            **base,
        )
    whole = PeerData(
        class_tokens=_array(folder, "whole_class_tokens"),
        view_tokens=_views(folder, "whole"),
        sample_ids=about["sample_ids"],
        **base,
    )
    if given == "whole":
        return whole
    normal = open_array(folder, "normal_attention", required=False)
    rows, columns = about["grid"]
    return PeerData(
        class_tokens=whole.class_tokens,
        view_tokens=whole.view_tokens,
        patch_tokens=_several(folder, "patch"),
        grid=(int(rows), int(columns)),
        scores=_array(folder, "map_scores"),
        masks=_array(folder, "mask_shares"),
        means=_several(folder, "means"),
        attention=_array(folder, "attention"),
        normals=None if normal is None else _several(folder, "normal_patch"),
        normal_means=None if normal is None else _several(folder, "normal_means"),
        normal_attention=normal,
        sample_ids=about["sample_ids"],
        **base,
    )


def _array(folder: Path, name: str) -> NDArray[Any]:
    array = open_array(folder, name)
    assert array is not None
    return array


def _views(folder: Path, what: str) -> NDArray[Any] | None:
    views = _array(folder, f"{what}_view_tokens")
    return views if len(views) else None


def _several(folder: Path, what: str) -> list[NDArray[Any]]:
    arrays = (open_array(folder, f"{what}_{k}", required=False) for k in range(_LAYERS))
    return [array for array in arrays if array is not None]
