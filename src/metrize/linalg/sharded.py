"""Tensors of which every process holds a part."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor; the module of those is loaded only by who makes one, and it is slow to load."""
    module: Any = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def is_flat_piece(tensor: Tensor) -> bool:
    """Whether an engine that knows nothing of dimensions made a flat piece of what was a tensor."""
    flattened = getattr(tensor, "_fsdp_flattened", False)  # by FullyShardedDataParallel, the older of torch's two
    return flattened or len(getattr(tensor, "ds_shape", ())) > tensor.ndim  # by DeepSpeed's third stage


def whole(tensor: Tensor) -> Tensor:
    """The tensor with all its parts, on every process: a collective where it is sharded."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def held(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds; all of it, where it is not sharded."""
    module: Any = sys.modules.get("torch.distributed.tensor")
    return tensor._local_tensor if module is not None and isinstance(tensor, module.DTensor) else tensor
