"""The eigenbasis of Kronecker factors, in which SOAP keeps its averages."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor

from metrize.frames.base import Carry, Frame
from metrize.frames.eigenbasis_modes import Modes
from metrize.frames.refresh import FrameError
from metrize.linalg import newton_schulz_polish
from metrize.linalg.eigenbasis import Method, eigenvectors, renewed
from metrize.linalg.modes import mode_gram_, mode_product
from metrize.linalg.polar import residual
from metrize.part import Spec, choice

_PATIENCE = 3  # refreshes in a row that may fail


@dataclasses.dataclass(frozen=True)
class Eigenbasis(Frame):
    """The eigenbasis of one Kronecker factor for each mode of the gradient (arXiv:2409.11321).

    Of a matrix: ``L <- b L + (1 - b) G G^T``, ``R <- b R + (1 - b) G^T G``, ``G' = Q_L^T G Q_R`` with the eigenvectors
    of L and R. A tensor with more dimensions has a factor of the unfolding along each of them. Every `period` steps the
    bases are renewed; an average of gradients is rotated then, one of their squares stays with the ranks. Adam in this
    frame is SOAP. The first basis is that of the first gradient; after that a basis never knows the gradient it is
    applied to. Factors and bases have the dtype of the arithmetic, whatever the parameter's.

    Args:
        period: f, steps between two refreshes of a parameter.
        shampoo_beta: b, the decay of the factors.
        max_precond_dim: a longer mode has no basis.
        one_sided: the longest mode has none either (the columns of a square matrix).
        merge_dims: take neighbouring dimensions together, from left to right, as long as their product is at most
            `max_precond_dim`.
        precondition_1d: vectors have a basis too.
        data_format: order of the dimensions of a 4-D tensor that are merged: ``"channels_first"`` as they are,
            ``"channels_last"`` the last one before the two in the middle.
        refresh: ``"qr"``, one step of orthogonal iteration; ``"eigh"``, the eigenvectors themselves; ``"thin"``, a
            cheaper iteration that turns the leading quarter only; ``"auto"``, eigh for short modes on the CPU and qr
            elsewhere.
        transport: of averages of squares at a refresh: ``"permutation"`` leaves each with its rank; ``"hadamard"``
            multiplies them by ``(Q_old^T Q_new)^2``, which is right if rotated coordinates are uncorrelated.
        tolerance: tau; a factor with ``||offdiag(Q^T L Q)|| <= tau ||L||`` is not refreshed (arXiv:2506.03595).
        faithful: as in the authors' code: the first step only looks at the gradient, and all parameters are refreshed
            in the same step instead of in turn.

    Raises:
        ValueError: an unknown option or a number out of range.
        FrameError: (when used) a factor could not be decomposed in three refreshes in a row, by name.
    """

    period: int = 10
    shampoo_beta: float = 0.95
    max_precond_dim: int = 10000
    one_sided: bool = False
    merge_dims: bool = False
    precondition_1d: bool = False
    data_format: Literal["channels_first", "channels_last"] = "channels_first"
    refresh: Literal["auto", "qr", "eigh", "thin"] = "auto"
    transport: Literal["permutation", "hadamard"] = "permutation"
    tolerance: float = 0.0
    faithful: bool = False

    flat_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        choice(self, "data_format", ("channels_first", "channels_last"))
        choice(self, "refresh", ("auto", "qr", "eigh", "thin"))
        choice(self, "transport", ("permutation", "hadamard"))
        if self.period < 1:
            raise ValueError(f"Eigenbasis(period={self.period}): steps between two refreshes, at least 1")
        if not 0 <= self.shampoo_beta < 1:
            raise ValueError(f"Eigenbasis(shampoo_beta={self.shampoo_beta}): a number from 0 to less than 1")
        if self.max_precond_dim < 0:
            raise ValueError(f"Eigenbasis(max_precond_dim={self.max_precond_dim}): a size, or 0 for no basis at all")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"Eigenbasis(tolerance={self.tolerance}): a number from 0 to less than 1")
