"""Files in the demo's folders that the demo did not make."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.demo.camera import PRODUCTS

_OF_DESKTOPS = {".DS_Store", "Thumbs.db", "desktop.ini"}
_NAME = re.compile(r"\d{3,}(_mask)?\.png")


def foreign_file(folder: Path) -> Path | None:
    """Return a file below the folder of a product that the demo cannot have made, or None.

    The demo makes ``train/good``, ``test/<label>`` and ``ground_truth/<label>`` with numbered
    files. A link or file in place of the folder is itself foreign.
    """
    if folder.is_symlink() or folder.is_file():
        return folder
    labels = PRODUCTS.get(folder.name, ())
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        if (file.is_dir() and not file.is_symlink()) or file.name in _OF_DESKTOPS:
            continue
        expected = len(parts) == 3 and parts[0] in ("train", "test", "ground_truth")
        if not (expected and parts[1] in labels and _NAME.fullmatch(parts[2])):
            return file
    return None
