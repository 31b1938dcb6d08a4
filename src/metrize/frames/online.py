"""Online Subspace Descent: a basis that takes a small step toward every gradient."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from metrize.frames.base import Carry
from metrize.frames.bases import sketched
from metrize.frames.galore import SIDES, check_rank, starting
from metrize.frames.refresh import due, without_basis
from metrize.frames.subspace import Subspace, matrix_sides
from metrize.linalg.polar import newton_schulz_polish
from metrize.part import choice


@dataclasses.dataclass(frozen=True)
class OnlineSubspace(Subspace):
    """A subspace that follows the gradient by online principal component analysis, without decompositions.

    After a step, ``Q <- orth(Q + rate (I - Q Q^T) C Q / tr C)`` with ``C = G^T G``: the gradient step on
    ``||G - G Q Q^T||^2 / ||G||^2`` along the Stiefel manifold, orthonormal again by one Newton-Schulz step. The paper's
    penalty ``||Q^T Q - I||^2`` is exact here, and the step does not depend on the unit of the gradient. The first basis
    is a sketch of the first gradient. Averages stay as they are unless carried: their axes turn slowly.

    Args:
        rank: r; a matrix with ``min(m, n) < r`` and a tensor that is no matrix keep their own coordinates.
        period: steps between two steps of the basis.
        rate: of the basis, from 0 to 1.
        scale: factor on the step of projected parameters.
        side: which dimension is projected, see `GaLore`.
        carry: the averages at a step of the basis, see `GaLore`.
        stagger: spread the steps of a model's bases over the period. False: all at once.
        dtype: of the stored basis; None: that of the arithmetic.

    Raises:
        ValueError: a number out of range or an unknown option.
        FrameError: (in a step) three gradients in a row that no first basis could be made of, by the parameter's name.

    Source: arXiv:2408.12857.
    """

    rank: int = 128
    period: int = 1
    rate: float = 0.1
    scale: float = 0.25
    side: Literal["std", "reverse_std", "left", "right", "full"] = "std"
    carry: Literal["root", "squares", "linear"] | None = None
    stagger: bool = True
    dtype: Literal["bfloat16", "float32", "float64"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rank(self, self.rank)
        choice(self, "side", SIDES)
        if not 0 <= self.rate <= 1:
            raise ValueError(f"OnlineSubspace(rate={self.rate}): from 0 to 1")

    def ranks(self, shape: torch.Size) -> dict[int, int]:
        return matrix_sides(shape, self.rank, self.side)

    def members(self, state: dict[str, Tensor]) -> list[int]:
        return without_basis(state)

    def find(self, grad: Tensor, state: dict[str, Tensor]) -> dict[int, Tensor]:
        return {dim: sketched(grad, dim, starting(basis)) for dim, basis in self.member_bases(grad, state).items()}

    def close(self, coords: Tensor, state: dict[str, Tensor], carry: Carry) -> None:
        members = due(state, self.period) if self.ranks(coords.shape[1:]) else []
        if members:
            before = self.bases(coords, state, members)
            after = {dim: self._moved(coords[members], dim, basis) for dim, basis in before.items()}
            self.keep(members, after, state)
            if self.carry:
                self.take_along(members, before, after, carry)

    def _moved(self, grads: Tensor, dim: int, basis: Tensor) -> Tensor:
        wide = grads if dim == 1 else grads.mT
        norm = wide.flatten(1).norm(dim=1).clamp(min=torch.finfo(wide.dtype).tiny).view(-1, 1, 1)
        pull = wide.mT @ (wide @ (basis / norm)) / norm
        across = pull - basis @ (basis.mT @ pull)
        return newton_schulz_polish(torch.add(basis, across, alpha=self.rate))
