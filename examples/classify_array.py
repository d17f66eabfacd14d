"""Classify images that are in memory, as a camera gives them.

    python examples/classify_array.py data metal new/0001.png new/0002.png

needs a finished run (`dvc repro`) of the category.
"""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image

from pipeline.inference import load_classifier


def main(data: str, category: str, *files: str) -> None:
    """Print the class of each image, and its regions."""
    classifier = load_classifier(data, category)
    images = [np.asarray(Image.open(file).convert("RGB")) for file in files]  # (H, W, 3) uint8
    result = classifier(images)
    for i, file in enumerate(files):
        print(f"{file}: {result.names[i]}, confidence {result.confidence[i]:.2f}")
        print(result.regions[result.regions["image"] == i].to_string(index=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
