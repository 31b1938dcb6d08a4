"""APOLLO: the gradient itself, scaled as an optimizer in a random subspace would."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from metrize.frames.bases import aligned, leading
from metrize.frames.galore import check_rank
from metrize.frames.subspace import Subspace, matrix_sides, project
from metrize.linalg.seeds import gaussian, next_seed
from metrize.part import Spec, choice

_EPS = 1e-8


@dataclasses.dataclass(frozen=True)
class APOLLO(Subspace):
    """The gradient, each channel scaled as the rule would in a subspace: ``D = sqrt(scale) c G``, ``c = |D_A| / |A|``.

    ``A = G Q`` is the gradient in the subspace and ``D_A`` the direction the rule makes of it. With `growth`, ``|D|``
    is at most `growth` times what it was in the step before. APOLLO-Mini is ``rank=1, granularity="tensor",
    scale=128``. Tensors that are no matrix, or one with ``min(m, n) < r``, keep their own coordinates and step as the
    rule says.

    Args:
        rank: r.
        period: steps between two draws of the basis.
        scale: the step is multiplied by its root.
        granularity: one ratio of norms for each ``"channel"`` of the longer side, or one for the ``"tensor"``.
        projection: ``"random"``: entries of Q are normal numbers of variance ``1 / r``, drawn with the parameter's own
            ``seed``, which starts as its place in the optimizer, counted from 1; ``"svd"``: singular vectors.
        growth: largest growth of the length of the step; None: any.
        carry: the averages at a change of the basis, see `GaLore`.
        stagger: spread the draws of a model's parameters over the period. False: all at once.
        dtype: of the stored basis; None: that of the arithmetic.

    Raises:
        ValueError: a number out of range or an unknown option.
        FrameError: (in a step) three gradients in a row that no basis could be made of, by the parameter's name.

    Source: arXiv:2412.05270.
    """

    rank: int = 256
    period: int = 200
    scale: float = 1.0
    granularity: Literal["channel", "tensor"] = "channel"
    projection: Literal["random", "svd"] = "random"
    growth: float | None = 1.01
    carry: Literal["root", "squares", "linear"] | None = None
    stagger: bool = True
    dtype: Literal["bfloat16", "float32", "float64"] | None = None

    moves: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rank(self, self.rank)
        choice(self, "granularity", ("channel", "tensor"))
        choice(self, "projection", ("random", "svd"))
        if self.growth is not None and not self.growth > 1:
            raise ValueError(f"APOLLO(growth={self.growth}): a factor above 1, or None")

    def ranks(self, shape: torch.Size) -> dict[int, int]:
        return matrix_sides(shape, self.rank, "std")

    def state_spec(self, shape: torch.Size, dtype: torch.dtype) -> Spec:
        spec = super().state_spec(shape, dtype)
        if spec and self.projection == "random":
            spec["seed"] = ((), torch.int64)
        if spec and self.growth is not None:
            spec["update_norm"] = ((), dtype)
        return spec

    def find(self, grad: Tensor, state: dict[str, Tensor]) -> dict[int, Tensor]:
        ((dim, before),) = self.member_bases(grad, state).items()
        if self.projection == "svd":
            return {dim: aligned(leading(grad, self.rank, [dim])[dim], before)}
        seed = int(state["seed"])
        state["seed"].fill_(next_seed(seed))
        # drawn on the host, as a model's bases are drawn now and then only: the same on every device
        shape = tuple(before.shape) if dim == 0 else tuple(before.mT.shape)
        drawn = gaussian(shape, seed, grad.dtype, torch.device("cpu")).to(grad.device) / math.sqrt(self.rank)
        return {dim: drawn if dim == 0 else drawn.mT}

    def leave(self, direction: Tensor, state: dict[str, Tensor], coords: Tensor) -> Tensor:
        bases = self.bases(coords, state)
        if not bases:
            return direction
        over = tuple(dim + 1 for dim in bases) if self.granularity == "channel" else (1, 2)
        seen = project(coords, bases)
        ratio = direction.norm(dim=over, keepdim=True) / (seen.norm(dim=over, keepdim=True) + _EPS)
        update = coords * ratio
        if self.growth is not None:
            update *= self._limit(update.flatten(1).norm(dim=1), state["update_norm"]).view(-1, 1, 1)
        return update if self.scale == 1 else update.mul_(math.sqrt(self.scale))

    def _limit(self, norm: Tensor, before: Tensor) -> Tensor:
        """The factor that holds the growth of the norm, which is kept for the next step; after a zero any is fine."""
        assert self.growth is not None
        grown = torch.where(before > 0, norm / (before + _EPS), 1.0)
        factor = self.growth / grown.clamp(min=self.growth)
        before.copy_(norm * factor)
        return factor
