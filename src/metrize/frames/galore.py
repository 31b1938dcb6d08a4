"""GaLore: averages in the leading singular subspace of the gradient."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from metrize.frames.bases import aligned, leading, sketched
from metrize.frames.subspace import Subspace, matrix_sides
from metrize.linalg.seeds import gaussian
from metrize.part import choice

SIDES = ("std", "reverse_std", "left", "right", "full")
_SEED = 3407  # of the first sketch of every tensor, which has no basis to start from


@dataclasses.dataclass(frozen=True)
class GaLore(Subspace):
    """The first r singular vectors of the gradient, refreshed every `period` steps: ``A = G Q``, ``D = scale D_A Q^T``.

    G ``[m, n]`` is a gradient, Q ``[n, r]`` its right singular vectors (on the left, ``A = Q^T G``). A matrix with
    ``min(m, n) < r`` and a tensor that is no matrix keep their own coordinates.

    Args:
        rank: r.
        period: steps between two refreshes. The first one is at a parameter's first step.
        scale: factor on the step of projected parameters.
        side: which dimension is projected: ``"std"`` the shorter one, ``"reverse_std"`` the longer one, ``"left"`` the
            rows, ``"right"`` the columns, ``"full"`` both.
        method: ``"svd"``, a full decomposition; ``"sketch"``, one pass that starts from the basis before.
        carry: None leaves the averages as they are at a refresh, though their axes mean something else then. Else they
            are taken along, ``M <- M R`` with ``R = Q_old^T Q_new``: ``"squares"`` with ``V <- V R^2`` (entrywise),
            which is right for uncorrelated coordinates; ``"root"`` with ``sqrt(V) <- sqrt(V) R``, which depends on the
            arbitrary signs of singular vectors; ``"linear"`` M alone, and V stays.
        stagger: spread the refreshes of a model's parameters over the period. False refreshes all at once.
        dtype: of the stored basis; None: that of the arithmetic.

    Raises:
        ValueError: a number out of range or an unknown option.
        FrameError: (in a step) three gradients in a row that no basis could be made of, by the parameter's name.

    Source: arXiv:2403.03507.
    """

    rank: int = 128
    period: int = 200
    scale: float = 0.25
    side: Literal["std", "reverse_std", "left", "right", "full"] = "std"
    method: Literal["svd", "sketch"] = "svd"
    carry: Literal["root", "squares", "linear"] | None = None
    stagger: bool = True
    dtype: Literal["bfloat16", "float32", "float64"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rank(self, self.rank)
        choice(self, "side", SIDES)
        choice(self, "method", ("svd", "sketch"))

    def ranks(self, shape: torch.Size) -> dict[int, int]:
        return matrix_sides(shape, self.rank, self.side)

    def find(self, grad: Tensor, state: dict[str, Tensor]) -> dict[int, Tensor]:
        before = self.member_bases(grad, state)
        if self.method == "sketch":
            found = {dim: sketched(grad, dim, starting(basis)) for dim, basis in before.items()}
        else:
            found = leading(grad, self.rank, list(before))
        return {dim: aligned(basis, before[dim]) for dim, basis in found.items()}


def starting(basis: Tensor) -> Tensor:
    """What a sketch starts from: the basis there is, else random directions."""
    if basis.any():
        return basis
    # drawn on the host in float32: the same on every device and in every precision
    return gaussian(tuple(basis.shape), _SEED, torch.float32, torch.device("cpu")).to(basis)


def check_rank(part: Subspace, rank: int) -> None:
    """Refuse a rank that is none.

    Raises:
        ValueError: naming the part and the value.
    """
    if rank < 1:
        raise ValueError(f"{type(part).__name__}(rank={rank}): at least 1")
