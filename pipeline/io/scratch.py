"""Scratch arrays: in memory up to a limit, then memory-mapped files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

from pipeline.detectors.features import Array


class Scratch:
    """An allocator: in memory up to `memory_mb` in all, memory-mapped files in `folder` beyond."""

    def __init__(self, folder: Path, memory_mb: float) -> None:
        self.folder, self.left = folder, memory_mb * 2**20

    def __call__(
        self, shape: tuple[int, ...], dtype: np.dtype[np.float16] | np.dtype[np.float32]
    ) -> Array:
        size = int(np.prod(shape)) * dtype.itemsize
        if size <= self.left:
            self.left -= size
            return np.empty(shape, dtype)
        handle, name = tempfile.mkstemp(suffix=".bin", dir=self.folder)
        os.close(handle)
        return np.memmap(name, dtype, "w+", shape=shape)
