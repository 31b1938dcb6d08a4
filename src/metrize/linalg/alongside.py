"""Numbers of the host that meet tensors of a device."""

from __future__ import annotations

from torch import Tensor


def alongside(value: Tensor, like: Tensor) -> Tensor:
    """A tensor in the dtype and on the device of another one; one of the host is sent there without waiting for it.

    Args:
        value: of the host, or already there.
        like: where it is needed.
    """
    return value.to(like.device, like.dtype, non_blocking=True)
