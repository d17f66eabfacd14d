"""Nearest patches between pairs of images: the matrix products that MuSc consists of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.detectors.features import Array

_SIDE = {"cpu": 1024, "cuda": 16384}
"""Patches on a side of one product: its cosines should stay in the processor's cache."""
_TOGETHER = 16
"""So many images are held against an image each time that it is read."""


@dataclass(frozen=True)
class Pairs:
    """How pairs of images are compared.

    `half` takes cosines in bfloat16: several times as fast with AMX, and each may err by 0.002.
    `map` works on blocks in threads.
    """

    device: torch.device | str
    half: bool
    _threads: Executor

    @property
    def dtype(self) -> np.dtype[np.float16] | np.dtype[np.float32]:
        """Return the dtype for squared distances: float16 holds all that bfloat16 gives."""
        return np.dtype(np.float16) if self.half else np.dtype(np.float32)

    def step(self, patches: int) -> int:
        """Return the number of images on a side of one product."""
        return max(1, _SIDE[torch.device(self.device).type] // patches)

    def group(self, patches: int) -> int:
        """Return the number of images that are best compared at a time: a multiple of `step`."""
        step = self.step(patches)
        return step * max(1, _TOGETHER // step)

    def load(self, images: Array) -> Tensor:
        """Return images (n, P, D) on the device."""
        values = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        return values.bfloat16() if self.half else values.float()

    def map(self, function: Callable[[slice], None], items: Sequence[slice]) -> None:
        """Call a function on each block, in threads; raise what it raises."""
        for _ in self._threads.map(torch.inference_mode()(function), items):
            pass


@contextmanager
def comparing(device: torch.device | str, *, half: bool) -> Iterator[Pairs]:
    """Yield what compares images: as many threads as torch has, each of which computes alone.

    Products of two images are too short to be shared out: beside other programs, threads that wait
    for each other at each product take many times as long.
    """
    threads = torch.get_num_threads()
    workers = threads if torch.device(device).type == "cpu" else 1
    torch.set_num_threads(1)  # for this thread, which reads the images
    try:
        with ThreadPoolExecutor(workers, "pairs", torch.set_num_threads, (1,)) as pool:
            yield Pairs(device, half, pool)
    finally:
        torch.set_num_threads(threads)  # for threads to come, which take the last number set


def fill_distances(
    table: Array, images: Array, others: Array, numbers: NDArray[np.int64], pairs: Pairs
) -> None:
    """Compare images (n, P, D) of unit patches with `others` (M, P, D), as far as in `numbers`.

    Writes into `table` (n, len(numbers), P) the squared distance of each patch to the nearest patch
    of each of the others.
    """
    p = images.shape[1]
    here = blocks(0, len(images), pairs.step(p))
    for group in _groups(here, pairs.group(p) // pairs.step(p)):
        left = [pairs.load(images[block]) for block in group]

        def compare(there: slice, group: list[slice] = group, left: list[Tensor] = left) -> None:
            right = pairs.load(others[numbers[there]])
            room = right.new_empty(left[0].shape[:2].numel() * right.shape[:2].numel())
            for block, one in zip(group, left, strict=True):
                table[block, there] = _nearest_right(_cosines(one, right, room))

        pairs.map(compare, blocks(0, len(numbers), pairs.step(p)))


def fill_mutual(table: Array, images: Array, pairs: Pairs) -> Iterator[int]:
    """Compare images (n, P, D) with each other; yield how many rows of `table` are done.

    As `fill_distances`, but one product serves both directions. `table` is (n, n, P); on its
    diagonal it may hold anything.
    """
    n, p, _ = images.shape
    parts = blocks(0, n, pairs.step(p))
    for group in _groups(parts, pairs.group(p) // pairs.step(p)):
        left = [pairs.load(images[block]) for block in group]

        def compare(there: slice, group: list[slice] = group, left: list[Tensor] = left) -> None:
            right = pairs.load(images[there])
            room = right.new_empty(left[0].shape[:2].numel() * right.shape[:2].numel())
            for block, one in zip(group, left, strict=True):
                if block.start <= there.start:
                    cosines = _cosines(one, right, room)
                    table[block, there] = _nearest_right(cosines)
                    table[there, block] = _nearest_left(cosines)

        pairs.map(compare, [part for part in parts if part.start >= group[0].start])
        yield group[-1].stop


def blocks(start: int, stop: int, step: int) -> list[slice]:
    """Return slices of `step` from start to stop; the last may be shorter."""
    return [slice(a, min(a + step, stop)) for a in range(start, stop, step)]


def _groups(parts: list[slice], size: int) -> list[list[slice]]:
    return [parts[a : a + size] for a in range(0, len(parts), size)]


def _cosines(left: Tensor, right: Tensor, room: Tensor) -> Tensor:
    """Return all cosines between the unit patches of two blocks of images, (a, P, b, P), in `room`.

    New memory for each product would take as long as the product.
    """
    a, b = left.flatten(0, 1), right.flatten(0, 1)
    products = room[: len(a) * len(b)].view(len(a), len(b))
    torch.mm(a, b.T, out=products)
    return products.view(*left.shape[:2], *right.shape[:2])


def _nearest_right(cosines: Tensor) -> Array:
    """Return the squared distances (a, b, P) of left patches to the nearest right ones."""
    return _squared(_largest(cosines, 3).transpose(1, 2))


def _nearest_left(cosines: Tensor) -> Array:
    """Return the squared distances (b, a, P) of right patches to the nearest left ones."""
    return _squared(_largest(cosines, 1).transpose(0, 1))


def _squared(cosines: Tensor) -> NDArray[np.float32]:
    """Return the squared distance between unit vectors from their cosine."""
    distances = (2 - 2 * cosines.float()).clamp_min(0)
    return np.asarray(distances.cpu().numpy(), np.float32)


def _largest(values: Tensor, dim: int) -> Tensor:
    """Return the largest values along `dim`.

    Those of bfloat16 are compared by their bits, as integers, four times as fast on a CPU. Integers
    have the order of the numbers from 0 upwards; a negative result says that there were none.
    """
    if values.dtype != torch.bfloat16:
        return values.amax(dim)
    largest = values.view(torch.int16).amax(dim).view(torch.bfloat16)
    return largest if bool((largest >= 0).all()) else values.amax(dim)
