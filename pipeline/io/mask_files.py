"""Find the mask of an image by name."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath


def same_text(text: str) -> str:
    """Return a name in Unicode NFC; some systems store an accent as a separate character."""
    return unicodedata.normalize("NFC", text)


class MaskIndex:
    """Mask files by folder and stem; remembers which images have claimed them."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._all = sorted(paths)
        self._exact = {str(PurePosixPath(path).with_suffix("")): path for path in self._all}
        self._composed = {same_text(stem): path for stem, path in self._exact.items()}
        self._images: dict[str, list[str]] = {}

    def claim(self, image: str, twin: PurePosixPath) -> str | None:
        """Return the mask in the twin's folder called ``<stem>_mask.*`` or ``<stem>.*``."""
        for name in (f"{twin.stem}_mask", twin.stem):
            stem = str(twin.with_name(name))
            mask = self._exact.get(stem) or self._composed.get(same_text(stem))
            if mask is not None:
                self._images.setdefault(mask, []).append(image)
                return mask
        return None

    def shared(self) -> set[str]:
        """Return the masks that several images have claimed."""
        return {mask for mask, images in self._images.items() if len(images) > 1}

    def left_over(self) -> list[tuple[str, str]]:
        """Return (path, reason) of the unused masks."""
        rows = [(p, "a mask that belongs to no image") for p in self._all if p not in self._images]
        for mask in sorted(self.shared()):
            names = ", ".join(PurePosixPath(image).name for image in self._images[mask])
            rows.append((mask, f"a mask that fits several images ({names}); rename them"))
        return rows
