"""Stage `demo`: write the generated images in the layout of MVTec AD."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.config.params import Demo
from pipeline.config.section import ConfigError
from pipeline.demo.camera import PRODUCTS
from pipeline.demo.generate import DemoSample, generate
from pipeline.io.demo_files import foreign_file
from pipeline.io.files import replacing_folder
from pipeline.io.images import write_png
from pipeline.io.paths import ArtifactPaths
from pipeline.progress import track


def run(options: Demo, paths: ArtifactPaths) -> None:
    """Write each product of the demo to its folder in `raw/demo`, in place of an earlier demo's.

    Other folders there are left alone. Raises `ConfigError`, before anything is written, where the
    folder of a product holds a file that the demo did not make.
    """
    for product in PRODUCTS:
        _refuse_foreign(paths.raw_demo() / product)
    for product in PRODUCTS:
        with replacing_folder(paths.raw_demo() / product) as root:
            root.mkdir()
            with track(f"demo {product}") as progress:
                samples = generate(
                    product,
                    good=options.good,
                    per_defect={defect: options.n_images(defect) for defect in PRODUCTS[product]},
                    normals=options.normals,
                    seed=options.seed,
                    progress=progress,
                )
                for sample in samples:
                    _write(root, sample)


def _refuse_foreign(folder: Path) -> None:
    file = foreign_file(folder)
    if file is not None:
        raise ConfigError(
            f"{file} is not of the demo, whose images replace all of {folder}: move it to a folder "
            "of its own, such as data/raw/NAME; nothing was changed"
        )


def _write(root: Path, sample: DemoSample) -> None:
    """Write an image to `<split>/<label>` and, if it has a defect, its mask to `ground_truth`."""
    _write_png(root / sample.split / sample.label / f"{sample.name}.png", sample.image)
    if sample.mask.any():
        mask = sample.mask.astype(np.uint8) * 255
        _write_png(root / "ground_truth" / sample.label / f"{sample.name}_mask.png", mask)


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, pixels)
