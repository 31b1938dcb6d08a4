"""Norms of linear maps that ask for no singular values."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from metrize.linalg import unit
from metrize.norms.base import MatrixNorm, check_eps, damped
from metrize.part import choice


@dataclasses.dataclass(frozen=True)
class SignHead(MatrixNorm):
    """``n max |a_ij|`` for n inputs; direction ``sign(G) / n``, dual norm ``sum |g_ij| / n``.

    For the last layer of a classifier or language model: logits change by at most 1 each for inputs of size 1.

    Args:
        layout: which matrices the parameter holds.

    Source: arXiv:2502.07529.
    """

    def factor(self, outputs: int, inputs: int, kernel: int) -> float:
        return 1 / inputs

    def _dual(self, matrices: Tensor) -> tuple[Tensor, Tensor]:
        return matrices.sign(), torch.linalg.vector_norm(matrices, 1, (-2, -1))

    def _norm(self, matrices: Tensor) -> Tensor:
        return torch.linalg.vector_norm(matrices, torch.inf, (-2, -1))


@dataclasses.dataclass(frozen=True)
class ColumnNorm(MatrixNorm):
    """Largest column, ``max_j ||a_j||_2`` (l1 -> l2); direction: each column of unit length; dual ``sum_j ||g_j||_2``.

    For maps whose input is one-hot. An embedding stores its columns as rows, so that it asks for
    ``Layout(transposed=True)``.

    Args:
        scale: ``"unit"``, or ``"rms"`` for columns of root mean square 1: f = sqrt(m) for m outputs (l1 -> RMS).
        eps: added to the root mean square that a column is divided by; above 0, tiny gradients make shorter steps.
        layout: which matrices the parameter holds.

    Raises:
        ValueError: an unknown scale or a negative eps.

    Source: arXiv:2410.21265.
    """

    scale: Literal["unit", "rms"] = "unit"
    eps: float = 0.0

    def __post_init__(self) -> None:
        choice(self, "scale", ("unit", "rms"))
        check_eps(self)

    def factor(self, outputs: int, inputs: int, kernel: int) -> float:
        return math.sqrt(outputs) if self.scale == "rms" else 1.0

    def _dual(self, matrices: Tensor) -> tuple[Tensor, Tensor]:
        direction, lengths = unit(matrices, -2)
        return damped(direction, lengths, self.eps, matrices.shape[-2]), lengths.sum((-2, -1))

    def _norm(self, matrices: Tensor) -> Tensor:
        return unit(matrices, -2)[1].amax((-2, -1))


@dataclasses.dataclass(frozen=True)
class RowNorm(MatrixNorm):
    """Largest row, ``max_i ||a_i||_2`` (l2 -> linf); direction: each row of unit length; dual ``sum_i ||g_i||_2``.

    For the last layer of a classifier or language model, as an alternative to `SignHead`.

    Args:
        scale: ``"unit"``, or ``"rms"`` for n inputs measured by root mean square: f = 1 / sqrt(n) (RMS -> linf).
        eps: added to the root mean square that a row is divided by; above 0, tiny gradients make shorter steps.
        layout: which matrices the parameter holds.

    Raises:
        ValueError: an unknown scale or a negative eps.

    Source: arXiv:2502.07529.
    """

    scale: Literal["unit", "rms"] = "unit"
    eps: float = 0.0

    def __post_init__(self) -> None:
        choice(self, "scale", ("unit", "rms"))
        check_eps(self)

    def factor(self, outputs: int, inputs: int, kernel: int) -> float:
        return 1 / math.sqrt(inputs) if self.scale == "rms" else 1.0

    def _dual(self, matrices: Tensor) -> tuple[Tensor, Tensor]:
        direction, lengths = unit(matrices, -1)
        return damped(direction, lengths, self.eps, matrices.shape[-1]), lengths.sum((-2, -1))

    def _norm(self, matrices: Tensor) -> Tensor:
        return unit(matrices, -1)[1].amax((-2, -1))
