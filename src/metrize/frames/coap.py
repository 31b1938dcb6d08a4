"""COAP: a subspace that follows the gradient's correlation with its average."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from metrize.frames.base import Carry
from metrize.frames.bases import aligned, sketched, tucker
from metrize.frames.correlation import Correlation
from metrize.frames.galore import check_rank, starting
from metrize.frames.subspace import Subspace, matrix_sides

_RATE = 0.1  # of the gradient step on a basis, whose gradient is clipped to norm 1
_MOMENT = "moment"  # the average of gradients, among the state that `find` is handed


@dataclasses.dataclass(frozen=True)
class COAP(Subspace):
    """COAP: every `period` steps the basis takes a gradient step; every `reproject`-th time it is computed afresh.

    The gradient step lowers ``mean((G^ - G)^2) (1 - mean cos(M^, G))``, where ``G^`` is the gradient as the subspace
    keeps it and ``M^`` the average of gradients. Computed from scratch, the basis of a matrix comes from a sketch that
    starts from the basis before; that of a convolution ``[O, I, k, k]`` from its Tucker-2 decomposition, in both
    channel dimensions (Tucker-1, of the output channels, where the last dimension is 1).

    A matrix is projected on its shorter side, if the rank is below it. Tensors of other dimensions and small
    convolutions keep their own coordinates.

    Args:
        rank: r of every matrix; None: its shorter side divided by `ratio`.
        ratio: see `rank`, rounded down, at least 1.
        conv_ratio: a convolution keeps ``d / sqrt(conv_ratio)`` of each d channels (``O / conv_ratio`` under Tucker-1).
            None: convolutions keep their own coordinates.
        conv_above: convolutions of at most so many numbers keep their own coordinates.
        period: steps between two changes of the basis.
        reproject: recompute the basis from scratch at every `reproject`-th change.
        scale: factor on the step of projected parameters.
        normalize: divide the squared error by ``mean(G^2)``. False is the published form, whose gradient is
            proportional to ``G^2``, so that the step is lost in rounding for gradients well below 1.
        carry: the averages at a change of the basis, see `GaLore`; ``"root"`` is the published "restore_state", which
            with factored squares (Adafactor) is ``"linear"``.
        stagger: spread the changes of a model's parameters over the period. False: all at once.
        dtype: of the stored basis; None: that of the arithmetic.

    Raises:
        ValueError: a number out of range or an unknown option.
        FrameError: (in a step) three gradients in a row that no basis could be made of, by the parameter's name.

    Source: arXiv:2412.00071.
    """

    rank: int | None = None
    ratio: float = 2.0
    conv_ratio: float | None = 2.0
    conv_above: float = 9216
    period: int = 32
    reproject: int = 5
    scale: float = 1.0
    normalize: bool = True
    carry: Literal["root", "squares", "linear"] | None = None
    stagger: bool = True
    dtype: Literal["bfloat16", "float32", "float64"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank is not None:
            check_rank(self, self.rank)
        if not self.ratio >= 1 or not (self.conv_ratio is None or self.conv_ratio >= 1):
            raise ValueError(f"COAP(ratio={self.ratio}, conv_ratio={self.conv_ratio}): at least 1")
        if self.reproject < 1:
            raise ValueError(f"COAP(reproject={self.reproject}): changes of a basis between two new ones, at least 1")

    def ranks(self, shape: torch.Size) -> dict[int, int]:
        if 0 in shape:
            return {}
        if len(shape) == 4 and self.conv_ratio is not None and math.prod(shape) > self.conv_above:
            return self._channels(shape, self.conv_ratio)
        if len(shape) != 2 or (self.rank is not None and self.rank >= min(shape)):
            return {}
        return matrix_sides(shape, self.rank or max(1, int(min(shape) // self.ratio)), "std")

    def _channels(self, shape: torch.Size, ratio: float) -> dict[int, int]:
        if shape[-1] == 1:
            return {0: max(1, int(shape[0] // ratio))}
        return {dim: max(1, int(shape[dim] / math.sqrt(ratio))) for dim in (0, 1)}

    def refresh(self, members: list[int], coords: Tensor, state: dict[str, Tensor], carry: Carry) -> None:
        averages: list[Tensor] = []
        carry("linear", lambda average: averages.append(average.clone()))
        known = {_MOMENT: averages[0]} if averages else {}
        super().refresh(members, coords, state | known, carry)

    def find(self, grad: Tensor, state: dict[str, Tensor]) -> dict[int, Tensor]:
        before = self.member_bases(grad, state)
        if _MOMENT in state and not self._from_scratch(state):
            return self._nudged(grad, state[_MOMENT].to(grad.dtype), before)
        if grad.ndim > 2:
            found = tucker(grad, self.ranks(grad.shape))
        else:
            found = {dim: sketched(grad, dim, starting(basis)) for dim, basis in before.items()}
        return {dim: aligned(basis, before[dim]) for dim, basis in found.items()}

    def _from_scratch(self, state: dict[str, Tensor]) -> bool:
        done, phase = int(state["step"]) - 1, int(state["phase"]) if self.stagger else 0
        # the phase decides which of the changes is a new basis as well: else all of them would fall into one period
        return done == 0 or int(state["failures"]) > 0 or ((done + phase) // self.period + phase) % self.reproject == 0

    def _nudged(self, grad: Tensor, moment: Tensor, before: dict[int, Tensor]) -> dict[int, Tensor]:
        slopes = Correlation(grad, moment, before, self.normalize).gradient()
        lengths = {dim: slope.norm() + 1e-6 for dim, slope in slopes.items()}
        return {dim: before[dim] - slope * (_RATE / lengths[dim].clamp(min=1)) for dim, slope in slopes.items()}
