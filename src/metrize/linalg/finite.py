"""Can every number be worked with? One read of the data, no temporary."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_HEADROOM = 22  # bits: for sums over a tensor and over steps, and for divisions by 1 - beta


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no tensor holds a NaN or an infinity."""
    return _bounded(tensors, lambda dtype: math.inf)


def all_usable(tensors: Sequence[Tensor], factor: float = 1.0) -> bool:
    """Whether no gradient holds a NaN, or a number whose square is too large to be summed up (`largest_usable`).

    Entry by entry, so that the answer does not depend on how a tensor is cut.

    Args:
        tensors: of any dtype.
        factor: by which they are multiplied first.
    """
    return _bounded(tensors, lambda dtype: largest_usable(dtype) / factor)


@functools.lru_cache
def largest_usable(dtype: torch.dtype) -> float:
    """The largest entry of a gradient that averages of squares can take: 2^53 in 32 bits and less, 2^501 in 64."""
    wide = torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32
    return 2.0 ** ((math.frexp(torch.finfo(wide).max)[1] - _HEADROOM) // 2)


def fault_of(tensor: Tensor, factor: float = 1.0) -> str:
    """What is wrong with a gradient that is not usable, as a clause; `factor` as of `all_usable`."""
    if not all_finite([tensor]):
        return "is not finite"
    kind = "float64" if tensor.dtype in (torch.float64, torch.complex128) else "float32"
    limit = largest_usable(tensor.dtype) / factor
    return f"is too large: sums of its squares overflow {kind} (entries up to {limit:.2g} are taken)"


def _bounded(tensors: Sequence[Tensor], bound: Callable[[torch.dtype], float]) -> bool:
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        if tensor.numel() and tensor.device.type != "meta":
            alike.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    elsewhere: dict[torch.device, list[Tensor]] = {}
    for (device, dtype), each in alike.items():
        if device.type != "cpu":
            elsewhere.setdefault(device, []).append(_largest(each) <= _limit(bound(dtype), dtype))
        elif not _quiet(each, bound(dtype)):
            return False
    return all(bool(torch.stack(answers).all()) for answers in elsewhere.values())


def _largest(tensors: list[Tensor]) -> Tensor:
    """The largest entry of tensors of one dtype, NaN where one is; a number on their device."""
    return torch.stack(torch._foreach_norm([_as_real(t) for t in tensors], math.inf)).amax()


def _limit(bound: float, dtype: torch.dtype) -> float:
    return min(bound, torch.finfo(dtype).max)


def _quiet(tensors: list[Tensor], limit: float) -> bool:
    """Whether all entries of tensors of one dtype are at most this large.

    No entry is larger than the root of a sum of squares, and the matrix library reads memory faster than any
    elementwise test. It may be large for many small numbers, so that its alarm is checked entry by entry.
    """
    if tensors[0].dtype == torch.float32 and all(t.is_contiguous() for t in tensors):
        flat = [t.view(-1) for t in tensors]
        if math.sqrt(float(torch.stack([torch.dot(t, t) for t in flat]).sum())) <= min(limit, 1e18):
            return True
    extremes = [torch.stack(torch.aminmax(_as_real(t))) for t in tensors]  # a NaN is both
    return float(torch.stack(extremes).abs().amax()) <= _limit(limit, tensors[0].dtype)


def _as_real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
