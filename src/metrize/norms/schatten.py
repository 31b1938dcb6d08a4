"""Norms of the singular values of linear maps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from metrize.linalg import orthogonalize, spectral_norm, unit
from metrize.linalg.orthogonalize import ACCURACIES
from metrize.norms.base import MatrixNorm
from metrize.part import choice

_SCALES: dict[str, Callable[[int, int, int], float]] = {
    "unit": lambda m, n, k: 1.0,
    "rms": lambda m, n, k: math.sqrt(m / n),
    "muon": lambda m, n, k: math.sqrt(max(1.0, m / n)),
    "adam": lambda m, n, k: 0.2 * math.sqrt(max(m, n)),
    "one-hot": lambda m, n, k: math.sqrt(m),
    "conv": lambda m, n, k: math.sqrt(m / n) / k,
}


@dataclasses.dataclass(frozen=True)
class Spectral(MatrixNorm):
    """Largest singular value ``s_1 / f``; direction ``f U V^T`` for ``G = U diag(s) V^T``; dual ``f sum s``.

    The factor f converts between conventions of step length, for m outputs and n inputs:

    | scale | f | used by |
    |---|---|---|
    | ``"rms"`` | sqrt(m / n) | RMS -> RMS: the same learning rate at every width (arXiv:2310.17813, 2409.20325) |
    | ``"unit"`` | 1 | l2 -> l2 |
    | ``"muon"`` | sqrt(max(1, m / n)) | Muon; Scion for inputs of real numbers (arXiv:2502.07529) |
    | ``"adam"`` | 0.2 sqrt(max(m, n)) | Moonlight: entries as large as those of AdamW's steps (arXiv:2502.16982) |
    | ``"one-hot"`` | sqrt(m) | Scion for one-hot inputs (2 -> RMS) |
    | ``"conv"`` | sqrt(m / c) / k | convolutions of Scion (unfolded) and modula (each offset): c channels, k entries |

    Args:
        scale: see the table.
        accuracy: how the direction is found, see `metrize.linalg.orthogonalize`. But for ``"exact"``, the dual norm is
            ``<G, direction>`` and `norm` comes from power iteration: both are estimates from below.
        layout: which matrices the parameter holds.

    Raises:
        ValueError: an unknown scale or accuracy.
    """

    scale: Literal["rms", "unit", "muon", "adam", "one-hot", "conv"] = "rms"
    accuracy: Literal["fast", "tight", "exact", "muon", "cans"] = "tight"

    def __post_init__(self) -> None:
        choice(self, "scale", tuple(_SCALES))
        choice(self, "accuracy", ACCURACIES)

    def factor(self, outputs: int, inputs: int, kernel: int) -> float:
        channels = inputs // kernel if self.scale == "conv" and self.layout.unfold else inputs
        return _SCALES[self.scale](outputs, channels, kernel)

    def _dual(self, matrices: Tensor) -> tuple[Tensor, Tensor]:
        direction = self._direction(matrices)
        return direction, (matrices * direction).sum((-2, -1))

    def _direction(self, matrices: Tensor) -> Tensor:
        return orthogonalize(matrices, self.accuracy)

    def _norm(self, matrices: Tensor) -> Tensor:
        return spectral_norm(matrices, exact=self.accuracy == "exact")


@dataclasses.dataclass(frozen=True)
class Nuclear(MatrixNorm):
    """Sum of the singular values; direction ``u_1 v_1^T``, dual norm ``s_1``: steps of rank one.

    It costs a singular value decomposition. Where the largest singular value is not alone, any of its vectors serve.

    Args:
        layout: which matrices the parameter holds.
    """

    def _dual(self, matrices: Tensor) -> tuple[Tensor, Tensor]:
        u, s, vh = _svd(matrices)
        return (u[..., :1] * s[..., None, :1].sign()) @ vh[..., :1, :], s[..., 0]

    def _norm(self, matrices: Tensor) -> Tensor:
        return _svd(matrices)[1].sum(-1)


@dataclasses.dataclass(frozen=True)
class Schatten(MatrixNorm):
    """``||s||_p`` of the singular values; direction ``U diag(s^(q-1)) V^T / ||s||_q^(q-1)``, dual norm ``||s||_q``.

    Here ``1/p + 1/q = 1``. Between `Nuclear` (p = 1), `Frobenius` (p = 2) and `Spectral` (p = infinity); it costs a
    singular value decomposition.

    Args:
        p: above 1.
        layout: which matrices the parameter holds.

    Raises:
        ValueError: p is not above 1, or infinite.
    """

    p: float = 4.0

    def __post_init__(self) -> None:
        if not 1 < self.p < math.inf:
            raise ValueError(f"Schatten(p={self.p}): p is above 1 and finite; the ends are Nuclear() and Spectral()")

    def _dual(self, matrices: Tensor) -> tuple[Tensor, Tensor]:
        u, s, vh = _svd(matrices)
        q = self.p / (self.p - 1)
        shares, length = _unit_lq(s, q)
        return (u * shares.pow(q - 1).unsqueeze(-2)) @ vh, length

    def _norm(self, matrices: Tensor) -> Tensor:
        return _unit_lq(_svd(matrices)[1], self.p)[1]


def _svd(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin singular value decomposition that no size of the entries can overflow."""
    scaled, length = unit(matrices, (-2, -1))
    u, s, vh = torch.linalg.svd(scaled, full_matrices=False)
    return u, s * length.squeeze(-1), vh


def _unit_lq(s: Tensor, q: float) -> tuple[Tensor, Tensor]:
    """``(s / ||s||_q, ||s||_q)`` of singular values, the largest first."""
    top = s[..., :1]
    scaled = s / top.where(top > 0, 1)
    length = torch.linalg.vector_norm(scaled, q, -1, keepdim=True)
    return scaled / length.clamp(min=1), (top * length).squeeze(-1)
