"""From images to anomaly maps, regions and classes: for stages, commands and other programs.

from pipeline.inference import load_classifier
classifier = load_classifier("data", "metal")
result = classifier(images)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.inference.classification import Classification
    from pipeline.inference.load_run import load_classifier
    from pipeline.inference.new_images import ImageClassifier

__all__ = ["Classification", "ImageClassifier", "load_classifier"]


def __getattr__(name: str) -> object:
    """Import what is exported when it is asked for: torch would make commands start slowly."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline.inference import classification, load_run, new_images

    homes = {"Classification": classification, "ImageClassifier": new_images}
    return getattr(homes.get(name, load_run), name)
