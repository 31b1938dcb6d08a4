"""H-Fac: momentum and squares as rows and columns."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from metrize.moments import Averages, Kind
from metrize.norms import MaxEntry, Norm
from metrize.part import Spec
from metrize.rules.adam import Adam
from metrize.rules.base import Metric, Rule, number, per_point


@dataclasses.dataclass(frozen=True)
class HFac(Rule):
    """Factored Hamiltonian descent (arXiv:2406.09958), on the matrix ``m x n`` of the first dimension and all others.

    With ``b_t = b (1 - b^(t-1)) / (1 - b^t)`` for both betas, averages u and v of the row and column means of g, and r
    and s of the row and column sums of ``g^2 + eps``:
    ``D = b1_t (u - rowmean(g)) / (2 sqrt(r / n)) + b1_t (v - colmean(g)) / (2 sqrt(s / m)) + U``, where U is
    ``g / sqrt(r s^T / sum(r))`` clipped to the root mean square `clip`. Points with fewer than two dimensions take the
    direction of Adam. Numbers of the group: ``betas``, ``eps``, ``clip`` (None: not clipped).

    No code of the authors is public; this follows the matrix update of the paper.

    Args:
        sign: signs take the place of the divisions: ``D = b1_t (sign(u - rowmean(g)) + sign(v - colmean(g))) / 2 +
            sign(g)``, which needs no r and no s. Our own reading of the paper's sign variant.

    Raises:
        ValueError: a number of the group out of range.
    """

    sign: bool = False

    matrices: ClassVar[bool] = True
    flat_only: ClassVar[bool] = True

    def in_norm(self) -> Norm:
        return MaxEntry()

    def hyper(self) -> dict[str, Any]:
        return {"betas": (0.9, 0.999), "eps": 1e-30, "clip": 1.0}

    def check_hyper(self, hyper: dict[str, Any]) -> None:
        Adam().check_hyper(hyper)
        if hyper["clip"] is not None and not number(hyper["clip"]) > 0:
            raise ValueError(f"clip={hyper['clip']}: a number above 0, or None")

    def averages_of(self, shape: torch.Size, hyper: dict[str, Any]) -> dict[str, Kind]:
        return Adam().averages(hyper) if len(shape) < 2 else {}

    def small_spec(self, shape: torch.Size, batch: tuple[int, ...], dtype: torch.dtype, hyper: dict[str, Any]) -> Spec:
        if len(shape) < 2:
            return {}
        first, *others = shape[len(batch) :]
        sizes = {"row": (*batch, first), "col": (*batch, math.prod(others))}
        names = ("exp_avg",) if self.sign else ("exp_avg", "exp_avg_sq")
        return {f"{name}.{side}": (size, dtype) for name in names for side, size in sizes.items()}

    def direction(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        if averages.slots:
            return Adam().direction(coords, averages, hyper, metric)
        grad = coords.reshape(*averages.small("exp_avg.row").shape, -1)
        first, second = (self._decays(number(beta), averages.step) for beta in hyper["betas"])
        ahead = [self._blend(averages, "exp_avg", grad.mean(dim), dim, first) - grad.mean(dim) for dim in (-1, -2)]
        if self.sign:
            whole, sides = grad.sign(), [side.sign() for side in ahead]
        else:
            whole, sides = self._scaled(grad, ahead, averages, hyper, second)
        half = per_point(first / 2, sides[0])
        return whole.add_((half * sides[0]).unsqueeze(-1)).add_((half * sides[1]).unsqueeze(-2)).view(coords.shape)

    def _scaled(
        self, grad: Tensor, ahead: list[Tensor], averages: Averages, hyper: dict[str, Any], decay: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """U, clipped, and the differences of row and column means over the roots of the mean squares."""
        square = grad.square().add_(number(hyper["eps"]))
        rows, cols = (self._blend(averages, "exp_avg_sq", square.sum(dim), dim, decay) for dim in (-1, -2))
        del square
        scale = rows.sum(-1, keepdim=True).sqrt()
        update = grad * (scale * rows.rsqrt()).unsqueeze(-1) * cols.rsqrt().unsqueeze(-2)
        if hyper["clip"] is not None:
            rms = update.square().mean((-1, -2), keepdim=True).sqrt()
            update.div_((rms / number(hyper["clip"])).clamp(min=1))
        m, n = grad.shape[-2:]
        return update, [ahead[0] / (rows / n).sqrt(), ahead[1] / (cols / m).sqrt()]

    def _blend(self, averages: Averages, name: str, value: Tensor, dim: int, decay: Tensor) -> Tensor:
        average = averages.small(f"{name}.{'row' if dim == -1 else 'col'}")
        return average.lerp_(value, per_point(1 - decay, value))

    def _decays(self, beta: float, step: Tensor) -> Tensor:
        """``b (1 - b^(t-1)) / (1 - b^t)``: the weights of a mean whose start is corrected."""
        return beta * (1 - beta ** (step - 1)) / (1 - beta**step)
