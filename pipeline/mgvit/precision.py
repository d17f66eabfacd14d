"""The dtypes that frozen blocks and losses compute in, and that patch tokens are kept in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

Dtype = Literal["auto", "float32", "bfloat16"]


def autocast_for(device: torch.device, dtype: Dtype) -> AbstractContextManager[object]:
    """Return the autocast context for a device: bfloat16 products, or nothing for float32.

    'auto' is bfloat16 where it is faster: CUDA since Ampere and CPUs with AMX, else float32 (with
    AVX512-BF16 alone a ViT-S ran at 12.5 images/s instead of 18). Weights and the residual stream
    stay float32: bfloat16 weights gained 5 % and cost accuracy.
    """
    if uses_bfloat16(device, dtype):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def uses_bfloat16(device: torch.device, dtype: Dtype) -> bool:
    """Tell whether `autocast_for` computes products in bfloat16."""
    return dtype == "bfloat16" or (dtype == "auto" and _has_bfloat16(device))


def stores_half(device: torch.device, dtype: Dtype) -> bool:
    """Tell whether patch tokens are kept in float16.

    They are where products are in bfloat16, but for 'auto' on a CPU, where float32 costs no time.
    """
    return uses_bfloat16(device, dtype) and (dtype == "bfloat16" or device.type != "cpu")


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    # Private in torch, so it may be missing.
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())


def full(x: Tensor) -> Tensor:
    """Return half-precision tensors as float32, others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
