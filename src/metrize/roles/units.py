"""Learning rates tuned under one convention of step length, in the units of another."""

from __future__ import annotations

from collections.abc import Sequence

from metrize.norms import Layout, Spectral

UNITS = ("rms", "muon", "adam", "unit")
"""Conventions of step length that `convert_lr` knows: the scales of `Spectral`."""


def convert_lr(lr: float, shape: Sequence[int], from_: str = "muon", to: str = "rms") -> float:
    """The learning rate that takes the same step of a matrix under another scale: ``lr * f_from / f_to``.

    | scale | f for m outputs and n inputs |
    |---|---|
    | ``"rms"`` | sqrt(m / n) |
    | ``"muon"`` | sqrt(max(1, m / n)) |
    | ``"adam"`` | 0.2 sqrt(max(m, n)) |
    | ``"unit"`` | 1 |

    Args:
        lr: tuned under the scale `from_`.
        shape: ``(m, n)`` of the matrix, or of one block where blocks are orthogonalized one by one.
        from_: one of these scales.
        to: one of these scales.

    Raises:
        ValueError: an unknown scale, or a shape that is no matrix.

    Source: arXiv:2310.17813, 2502.16982.
    """
    for scale in (from_, to):
        if scale not in UNITS:
            raise ValueError(f"scale {scale!r}: one of {', '.join(map(repr, UNITS))}")
    ((_, outputs, inputs),) = Layout().matrix_shapes(shape) if len(shape) == 2 else [(0, 0, 0)]
    if not outputs:
        raise ValueError(f"shape {tuple(shape)}: (m, n) of one matrix")
    before, after = (Spectral(scale).factor(outputs, inputs, 1) for scale in (from_, to))  # type: ignore[arg-type]
    return lr * before / after
