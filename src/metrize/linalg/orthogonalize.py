"""Orthogonalization by matrix products: every singular value to 1, without computing any."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from metrize.ambient import users_precision
from metrize.linalg.polar import polar
from metrize.linalg.polar_express import Coefficients, polar_express, shrunk
from metrize.linalg.unit import unit

Accuracy = Literal["fast", "tight", "exact", "muon", "cans"]

MUON: tuple[Coefficients, ...] = ((3.4445, -4.7750, 2.0315),) * 5
"""Muon's polynomial, whose slope at zero is the aim and whose values near 1 scatter between 0.7 and 1.2."""

CANS: tuple[Coefficients, ...] = (
    (8.4703, -25.1081, 18.6293), (4.1828, -3.1087, 0.5806), (3.9619, -2.9541, 0.5630),
    (3.2866, -2.4647, 0.5074), (2.2737, -1.6447, 0.4162),
)  # fmt: skip
"""Best odd polynomials on intervals that shrink around 1, found by Remez' exchange."""

_SAFETY = 0.02
_SMALL = 32  # rows up to which 16-bit products gain nothing
_WIDE = 2  # aspect from which carrying the Gram matrix along is cheaper, see benchmarks/polar_quality.py


@functools.lru_cache
def _safe_polar_express(steps: int) -> tuple[Coefficients, ...]:
    """Read at ``x / (1 + safety)`` from the first step on, for an input of norm 1."""
    first, *rest = polar_express(steps, safety=_SAFETY)
    return (shrunk(first, 1 + _SAFETY), *rest)


_SCHEDULES: dict[str, Callable[[], Sequence[Coefficients]]] = {
    "fast": functools.partial(_safe_polar_express, 5),
    "tight": functools.partial(_safe_polar_express, 6),
    "muon": lambda: MUON,
    "cans": lambda: (*(shrunk(step, 1 + _SAFETY) for step in CANS[:-1]), CANS[-1]),  # else 16 bits leave the intervals
}

ACCURACIES = (*_SCHEDULES, "exact")


def orthogonalize(x: Tensor, accuracy: Accuracy = "tight", dtype: torch.dtype | None = None) -> Tensor:
    """About ``U V^T`` for ``X = U diag(s) V^T``, with zero where s is: the direction of spectral steepest descent.

    | accuracy | method | singular values end in |
    |---|---|---|
    | ``"fast"`` | Polar Express, 5 steps | 0.86 to 1.14 |
    | ``"tight"`` | Polar Express, 6 steps | 0.99 to 1.01 |
    | ``"exact"`` | singular value decomposition | 0 or 1 |
    | ``"muon"`` | the fixed polynomial of Muon, 5 times | 0.68 to 1.21 |
    | ``"cans"`` | accelerated Newton-Schulz, 5 steps, with a safety of 2% | 0.83 to 1.12 |

    All that are at least 1e-3 of the Frobenius norm do so; smaller ones are raised as far as the slope at zero allows.
    Matrices are scaled to norm 1 in float32 before anything else, so that no size of the entries matters, and the
    orthogonal factor of a single row or column is its unit vector, without iteration. In 16 bits, directions that are
    missing from x are filled with its rounding errors, magnified: the price of speed for matrices of very low rank.

    Args:
        x: ``[..., m, n]``, real.
        accuracy: see the table.
        dtype: of the products. None: float64 where x is; else bfloat16 where the device multiplies it fast and the
            matrix is not small, and float32 elsewhere. ``"exact"`` has no choice: float64 where x is, else float32.

    Returns:
        A new tensor shaped as x, in float32, or float64 where x is.

    Raises:
        TypeError: complex matrices.

    Source: arXiv:2505.16932 (Polar Express), arXiv:2506.10935 (CANS), https://kellerjordan.github.io/posts/muon (Muon).
    """
    if x.is_complex():
        raise TypeError(f"orthogonalize takes real matrices, and this one is {x.dtype}")
    start = unit(x.to(torch.promote_types(x.dtype, torch.float32)), (-2, -1))[0]
    m, n = x.shape[-2:]
    if min(m, n) == 1:
        return start
    if accuracy == "exact":
        return polar(start, rtol=max(m, n) * torch.finfo(start.dtype).eps)
    flat = start.reshape(-1, m, n)
    rows = flat.mT if m > n else flat
    products = rows.to(dtype or _fast_dtype(start, min(m, n)))
    with users_precision():
        found = newton_schulz(products, _SCHEDULES[accuracy]()).to(start.dtype)
    return (found.mT if m > n else found).view(x.shape)


def newton_schulz(x: Tensor, schedule: Sequence[Coefficients]) -> Tensor:
    """``X <- (a I + b X X^T + c (X X^T)^2) X`` for each (a, b, c) of the schedule.

    For wide matrices in full precision, ``X X^T`` is carried along for half of the steps instead of X, which needs
    fewer products of the long side. Rounding would spoil that in 16 bits, or over all of the steps.

    Args:
        x: ``[B, r, q]`` with r <= q and singular values up to 1.
        schedule: coefficients of one odd polynomial for each step.
    """
    carried = torch.finfo(x.dtype).bits > 16 and x.shape[-1] >= _WIDE * x.shape[-2]
    stride = (len(schedule) + 1) // 2 if carried else 1
    for step in range(0, len(schedule), stride):
        x = torch.bmm(_composed(torch.bmm(x, x.mT), schedule[step : step + stride]), x)
    return x


def _composed(gram: Tensor, schedule: Sequence[Coefficients]) -> Tensor:
    """The polynomials' matrices for ``X X^T``, multiplied: what X is multiplied by.

    In bmm throughout: for one matrix in 16 bits, torch's matmul takes twice the time on the CPU.
    """
    factor = total = _polynomial(gram, schedule[0])
    for coefficients in schedule[1:]:
        gram = torch.bmm(factor, torch.bmm(gram, factor))
        factor = _polynomial(gram, coefficients)
        total = torch.bmm(factor, total)
    return total


def _polynomial(gram: Tensor, coefficients: Coefficients) -> Tensor:
    a, b, c = coefficients
    factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal(dim1=-2, dim2=-1).add_(a)  # cheaper than a X, one more pass over the long side
    return factor


def _fast_dtype(x: Tensor, rows: int) -> torch.dtype:
    fast = x.dtype != torch.float64 and rows > _SMALL and _fast_bfloat16(x.device)
    return torch.bfloat16 if fast else x.dtype


@functools.lru_cache
def _fast_bfloat16(device: torch.device) -> bool:
    """Whether the device has matrix units for bfloat16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()
