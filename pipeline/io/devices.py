"""Where networks run, and in which dtype: section `compute` of params.yaml."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from pipeline.config.section import ConfigError
from pipeline.mgvit.precision import Dtype, autocast_for


def choose_device(name: str) -> torch.device:
    """Return the device of `compute.device`: 'auto' is CUDA where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"compute.device: {name!r} cannot be used here ({error})") from error
    return device


@dataclass(frozen=True)
class Autocast:
    """Enter the autocast of a device and dtype; can be entered again and again."""

    device: torch.device
    dtype: Dtype

    def __call__(self) -> AbstractContextManager[object]:
        """Return a new context manager."""
        return autocast_for(self.device, self.dtype)
