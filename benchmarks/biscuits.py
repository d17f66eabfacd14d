"""Draw a product that no default was chosen on: python -m benchmarks.biscuits data/raw/own

Biscuits on a belt, 900 x 600 pixels, each turned and moved anyhow: <folder>/biscuits gets MVTec
AD's layout, with masks. Then, with no parameter but the number of classes (4 defects and normal):

    dvc exp run -S dataset.root=data/raw/own -S 'dataset.categories=[biscuits]' -S classes.count=5
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from scipy.special import expit

from pipeline.io.images import write_png

HEIGHT, WIDTH = 600, 900
_RADIUS = 190.0
_KINDS = ("good", "broken", "burnt", "crack", "closed_hole")

Field = NDArray[np.float64]
Drawn = tuple[NDArray[np.uint8], NDArray[np.bool_]]


def noise(rng: np.random.Generator, cells: int) -> Field:
    """Return smooth noise (H, W) of about unit deviation, `cells` bumps to the height."""
    coarse = rng.standard_normal((cells, round(cells * WIDTH / HEIGHT)))
    return np.asarray(cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC))


@dataclass(frozen=True)
class _Pose:
    """Each pixel in the biscuit's own frame, in pixels, and the radius of its edge there."""

    x: Field
    y: Field
    edge: Field
    radius: float


def draw(kind: str, rng: np.random.Generator) -> Drawn:
    """Draw a biscuit of a kind: the image (H, W, 3) uint8 RGB and the mask (H, W) of its defect."""
    pose = _pose(rng)
    inside = np.hypot(pose.x, pose.y) < pose.edge
    crust = 0.62 - 0.16 * np.clip(np.hypot(pose.x, pose.y) / pose.edge, 0, 1) ** 6
    crust = crust + 0.03 * noise(rng, 14) + 0.012 * noise(rng, 120)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    if kind == "broken":
        side = rng.uniform(0, 2 * np.pi)
        reach = pose.x * np.cos(side) + pose.y * np.sin(side) + 12 * noise(rng, 12)
        mask = inside & (reach > pose.radius * rng.uniform(0.6, 0.85))
        inside = inside & ~mask
    elif kind == "burnt":
        depth = _burn(pose, rng)
        crust, mask = crust - 0.3 * depth, inside & (depth > 0.4)
    elif kind == "crack":
        depth = _crack(pose, rng)
        crust, mask = crust - 0.34 * depth, inside & (depth > 0.05)
    holes = _holes(pose)
    closed = int(rng.integers(len(holes))) if kind == "closed_hole" else -1
    for number, away in enumerate(holes):
        if number == closed:
            mask = away < 14
        else:
            crust = crust - 0.3 * expit((8 - away) / 1.5)
    return _photograph(crust, inside, rng), mask


def _pose(rng: np.random.Generator) -> _Pose:
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    centre, turn = rng.uniform((240, 300), (360, 600)), rng.uniform(0, 2 * np.pi)
    row, column = rows - centre[0], columns - centre[1]
    x = column * np.cos(turn) + row * np.sin(turn)
    y = row * np.cos(turn) - column * np.sin(turn)
    radius = _RADIUS * rng.uniform(0.97, 1.03)
    return _Pose(x, y, radius * (1 + 0.025 * np.cos(24 * np.arctan2(y, x))), radius)


def _holes(pose: _Pose) -> list[Field]:
    """Return the distance of each pixel to each of the nine holes."""
    ring = [(0.55 * pose.radius, k * np.pi / 4) for k in range(8)]
    centres = [(0.0, 0.0)] + [(r * np.cos(a), r * np.sin(a)) for r, a in ring]
    return [np.hypot(pose.x - x, pose.y - y) for x, y in centres]


def _burn(pose: _Pose, rng: np.random.Generator) -> Field:
    angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.75) * pose.radius
    away = np.hypot(pose.x - far * np.cos(angle), pose.y - far * np.sin(angle))
    rough = (1 + 0.4 * noise(rng, 16)).clip(0.4)
    return np.asarray(np.exp(-((away / rng.uniform(28, 60)) ** 4) * rough))


def _crack(pose: _Pose, rng: np.random.Generator) -> Field:
    angle, offset = rng.uniform(0, np.pi), rng.uniform(-0.5, 0.5) * pose.radius
    along = pose.x * np.cos(angle) + pose.y * np.sin(angle)
    beside = pose.y * np.cos(angle) - pose.x * np.sin(angle) - offset + 14 * noise(rng, 10)
    within = np.abs(along) < pose.radius * rng.uniform(0.4, 0.8)
    return np.asarray(within * np.exp(-((beside / rng.uniform(1.5, 4.0)) ** 2)))


def _photograph(
    crust: Field, inside: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Lay the biscuit on the belt, under a lamp of uneven light, with noise of the sensor."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    belt = 0.32 + 0.02 * noise(rng, 150) + 0.02 * np.sin(2 * np.pi * (columns / 14 + rng.random()))
    shadow = cv2.GaussianBlur(np.roll(inside, (10, 8), (0, 1)).astype(float), (0, 0), 8)
    soft = cv2.GaussianBlur(inside.astype(float), (0, 0), 1.0)
    ground = (belt * (1 - 0.5 * shadow))[..., None] * np.array([0.9, 1.0, 1.1])
    biscuit = crust[..., None] * np.array([1.25, 0.98, 0.62])
    image = soft[..., None] * biscuit + (1 - soft[..., None]) * ground
    lamp = 1 + 0.1 * (rng.normal() * (columns / WIDTH - 0.5) + rng.normal() * (rows / HEIGHT - 0.5))
    image = image * lamp[..., None] * rng.uniform(0.94, 1.06)
    image = image + 0.012 * rng.standard_normal(image.shape)
    return np.asarray((image.clip(0, 1) * 255).astype(np.uint8))


def main(
    folder: Annotated[Path, typer.Argument(help="Gets the folder 'biscuits'.")],
    references: Annotated[int, typer.Option(help="Normal references.")] = 40,
    per_kind: Annotated[int, typer.Option(help="Test images of each kind.")] = 15,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Write the images and masks of the product."""
    splits = [("train", "good", references)] + [("test", kind, per_kind) for kind in _KINDS]
    for split, kind, count in splits:
        for index in range(count):
            stream = zlib.crc32(f"{split}/{kind}".encode())
            image, mask = draw(kind, np.random.default_rng([seed, stream, index]))
            path = folder / "biscuits" / split / kind / f"{index:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, image)
            if mask.any():
                truth = folder / "biscuits" / "ground_truth" / kind / f"{index:03d}_mask.png"
                truth.parent.mkdir(parents=True, exist_ok=True)
                write_png(truth, mask.astype(np.uint8) * 255)


if __name__ == "__main__":
    typer.run(main)
