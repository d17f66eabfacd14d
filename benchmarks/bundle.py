"""A bundle beside `classify`: python -m benchmarks.bundle BUNDLE FOLDER CATEGORY

Runs both over the same images and prints the largest difference in maps and scores, the pixels of
masks and the classes that differ, and the time of the bundle.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from pipeline.exports.bundle_program import Bundle
from pipeline.inference import load_classifier
from pipeline.inference.map_masks import Binarizer
from pipeline.io.images import is_image_name, read_image


def differences(
    bundle: Bundle, data: Path, category: str, files: list[Path]
) -> tuple[dict[str, float], list[float]]:
    """Return what differs, at most or in number, and the CPU seconds of the bundle an image."""
    classifier = load_classifier(data, category, names=data / "no names.yaml")
    binarize = Binarizer(classifier.options.mebin, classifier._score_range)
    rows: list[dict[str, Any]] = []
    seconds = []
    for file in files:
        image = read_image(file, classifier.options.bits)
        ours = classifier([image])
        start = time.process_time()
        found = bundle(image)
        seconds.append(time.process_time() - start)
        mask = binarize(ours.maps[0]).mask
        rows.append(
            {
                "map": float(np.abs(found["map"] - ours.maps[0]).max()),
                "image score": abs(found["image_score"] - float(ours.image_scores[0])),
                "mask pixels": int((found["mask"] != mask).sum()),
                "squares": int(
                    not np.array_equal(found["squares"], ours.regions[["x0", "y0", "side"]])
                ),
                "probabilities": float(
                    np.abs(found["probabilities"] - ours.probabilities[0]).max()
                ),
                "classes": int(found["class"] != ours.classes[0]),
            }
        )
    summed = ("mask pixels", "squares", "classes")
    found_ = {k: float((sum if k in summed else max)(r[k] for r in rows)) for k in rows[0]}
    return found_, seconds


def main(
    bundle: Annotated[Path, typer.Argument(help="Folder of `export bundle`.")],
    folder: Annotated[Path, typer.Argument(help="Images.")],
    category: Annotated[str, typer.Argument(help="The run that was exported.")],
    data: Annotated[Path, typer.Option("--data", help="Folder of the artifacts.")] = Path("data"),
    most: Annotated[int, typer.Option("--most", help="Images at most.")] = 100,
) -> None:
    """Print the differences."""
    files = sorted(path for path in folder.rglob("*") if is_image_name(path))
    files = files[:: max(1, len(files) // most)][:most]
    found, seconds = differences(Bundle(bundle), data, category, files)
    for name, value in found.items():
        typer.echo(f"{name}: {value:.3g}")
    typer.echo(f"{len(files)} images; CPU s an image: p50 {np.median(seconds):.2f}")


if __name__ == "__main__":
    typer.run(main)
