"""Adam."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection
from typing import Any, Literal

import torch
from torch import Tensor

from metrize.moments import Averages, Kind
from metrize.norms import MaxEntry, Norm
from metrize.part import Spec, choice
from metrize.rules.base import Kernel, Metric, Pass, Rule, at_least, number, per_point


@dataclasses.dataclass(frozen=True)
class Adam(Rule):
    """Adam (arXiv:1412.6980) on the coordinates of the space.

    ``m <- b1 m + (1 - b1) g``, ``v <- b2 v + (1 - b2) g^2``, ``D = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)``,
    with eps outside the root. Numbers of the group: ``betas``, ``eps``.

    Args:
        second_moment: ``"elementwise"``, or ``"scalar"``: one v for each point, the average of ``||g||^2 / dim`` in
            the metric of the space (as in arXiv:2002.01113, rescaled by the dimension so that both take the same
            learning rate). Under a transported section the scalar form does not depend on where that started.
            ``"none"`` keeps no v: ``D = m / (1 - b1^t)``.
        bias_correction: False leaves out the divisions by ``1 - b^t``. ``"step"`` does as well, and multiplies the step
            by ``sqrt(1 - b2^t) / (1 - b1^t)`` once the frame was left: ``D = m / (sqrt(v) + eps)``, with an eps that is
            not corrected, as in the papers' code of SOAP, GaLore and COAP.
        normalized: D has a root mean square of 1 in every point, before the bias correction of ``"step"``.
        nesterov: look ahead along m (NAdam, Dozat 2016): with ``mu_t = b1 (1 - 0.96^(t momentum_decay) / 2)``,
            ``mu_(t+1) m / (1 - mu_1 ... mu_(t+1)) + (1 - mu_t) g / (1 - mu_1 ... mu_t)`` takes the place of
            ``m / (1 - b1^t)``; without bias correction, ``mu_(t+1) m + (1 - mu_t) g`` that of m. The group has a number
            more, ``momentum_decay``; the default, infinity, is ``mu_t = b1``.
        amsgrad: the largest v so far takes the place of v (arXiv:1904.09237). With bias correction it is divided by
            ``1 - b2^t`` when it is used, as in torch; the paper corrects nothing.

    Raises:
        ValueError: an unknown option, or options without a meaning together; a number of the group out of range.
    """

    second_moment: Literal["elementwise", "scalar", "none"] = "elementwise"
    bias_correction: bool | Literal["step"] = True
    normalized: bool = False
    nesterov: bool = False
    amsgrad: bool = False

    def __post_init__(self) -> None:
        choice(self, "second_moment", ("elementwise", "scalar", "none"))
        if self.bias_correction not in (True, False, "step"):
            raise ValueError(f"{type(self).__name__}(bias_correction={self.bias_correction!r}): True, False or 'step'")
        if self.amsgrad and self.second_moment != "elementwise":
            raise ValueError(f"{self}: amsgrad=True is about the v of each entry; leave out second_moment")

    def in_norm(self) -> Norm:
        return MaxEntry()

    def hyper(self) -> dict[str, Any]:
        numbers: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8}
        return {**numbers, "momentum_decay": math.inf} if self.nesterov else numbers

    def check_hyper(self, hyper: dict[str, Any]) -> None:
        if len(hyper["betas"]) != 2 or not all(0 <= number(beta) < 1 for beta in hyper["betas"]):
            raise ValueError(f"betas={hyper['betas']}: two numbers from 0 to less than 1")
        if not number(hyper["eps"]) >= 0:
            raise ValueError(f"eps={hyper['eps']}: a number of at least 0")
        if self.nesterov and not number(hyper["momentum_decay"]) >= 0:
            raise ValueError(f"momentum_decay={hyper['momentum_decay']}: a number of at least 0")

    def averages(self, hyper: dict[str, Any]) -> dict[str, Kind]:
        kept: dict[str, Kind] = {"exp_avg": "linear"}
        if self.second_moment == "elementwise":
            kept["exp_avg_sq"] = "square"
        return {**kept, "max_exp_avg_sq": "square"} if self.amsgrad else kept

    def small_spec(self, shape: torch.Size, batch: tuple[int, ...], dtype: torch.dtype, hyper: dict[str, Any]) -> Spec:
        spec: Spec = {"exp_avg_sq": (batch, dtype)} if self.second_moment == "scalar" else {}
        return {**spec, "momentum_bias": ((), dtype)} if self.nesterov and self.bias_correction is True else spec

    def direction(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        beta1, beta2, bias1, bias2 = averages.once("decays", lambda: self._of_step(averages, hyper))
        exp_avg = coords if beta1 is None else averages.update("exp_avg", coords, beta1, 1 - beta1)
        if self.nesterov and beta1 is not None:
            exp_avg, bias1 = self._ahead(coords, exp_avg, beta1, averages, hyper)
        if self.second_moment == "none":
            direction = exp_avg / per_point(bias1, coords)
        else:
            # (sqrt(v / bias2) + eps) bias1, with every factor that is one number for each parameter taken together
            square = self._square(coords, averages, beta2, metric)
            denominator = averages.root("max_exp_avg_sq" if self.amsgrad else "exp_avg_sq", square)
            if self.bias_correction is True:
                denominator.mul_(per_point(bias1, coords) / per_point(bias2, coords) ** 0.5)
            # the diagonal of a skew block is 0, and 0 / 0 must stay 0 without an eps
            eps = at_least(per_point(bias1, coords) * hyper["eps"], torch.finfo(coords.dtype).tiny)
            denominator.add_(eps)
            direction = torch.div(exp_avg, denominator, out=denominator if denominator.shape == coords.shape else None)
        if self.normalized:
            direction.div_(per_point((metric.sq_norm(direction) / metric.dim).sqrt() + 1e-30, coords))
        return direction

    def _of_step(self, averages: Averages, hyper: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
        """Both decays and what both averages have to be divided by, alike for all pieces of a tensor."""
        decays = self._decays(averages, hyper)
        return *decays, *self._biases(averages, *decays)

    def _biases(self, averages: Averages, beta1: Any, beta2: Any) -> tuple[Any, Any]:
        """``1 - b^t`` of both averages where that is corrected, numbers or ``[B]``."""
        if self.bias_correction is not True:
            return 1.0, 1.0
        return 1 - beta1**averages.count, 1 - beta2**averages.count

    def _square(self, coords: Tensor, averages: Averages, beta2: Any, metric: Metric) -> Tensor:
        """v, not to be changed in place."""
        if self.second_moment == "scalar":
            mean_square = averages.small("exp_avg_sq")
            mean_square.lerp_(metric.sq_norm(coords) / metric.dim, per_point(1 - beta2, mean_square))
            return per_point(mean_square, coords)
        exp_avg_sq = averages.update("exp_avg_sq", coords, beta2, 1 - beta2)
        return averages.raise_("max_exp_avg_sq", exp_avg_sq) if self.amsgrad else exp_avg_sq

    def turning(
        self, turn: Callable[[Tensor], Tensor], averages: Averages, hyper: dict[str, Any]
    ) -> Callable[[Tensor], Tensor]:
        """No entry that was turned may exceed ``c sqrt(v)``, as none does that was not, by Cauchy and Schwarz.

        ``c = (1 - b1) / sqrt((1 - b2) (1 - b1^2 / b2))``: m mixes the axes and v does not, so that a coordinate with
        large m may meet one with v near 0.
        """
        decays = self._decays(averages, hyper)
        if self.second_moment != "elementwise" or decays[0] is None:
            return turn
        beta1, beta2 = (torch.as_tensor(beta, dtype=torch.float64) for beta in decays)
        bound = (1 - beta1) / ((1 - beta2) * (1 - beta1**2 / beta2)).clamp(min=1e-12).sqrt()

        square = "max_exp_avg_sq" if self.amsgrad else "exp_avg_sq"

        def bounded(average: Tensor) -> Tensor:
            turned, most = turn(average), averages.read(square).sqrt() * per_point(bound, average)
            return torch.where(turned == average, average, turned.clamp(-most, most))

        return bounded

    def _ahead(
        self, coords: Tensor, exp_avg: Tensor, beta1: Any, averages: Averages, hyper: dict[str, Any]
    ) -> tuple[Tensor, Any]:
        """What takes the place of m, and what it has to be divided by."""
        steps, pace = (averages.count, averages.count + 1), number(hyper.get("momentum_decay", math.inf))
        now, ahead = (beta1 * (1 - 0.5 * 0.96 ** (pace * step)) for step in steps)
        bias: Any = 1.0
        if self.bias_correction is True:
            bias = averages.small("momentum_bias")  # 1 - mu_1 ... mu_t, which starts at 0 like every state
            now, ahead = per_point(now, bias), per_point(ahead, bias)
            bias.copy_(1 - (1 - bias) * now)
            ahead = ahead * bias / (1 - (1 - bias) * ahead)
        return coords * per_point(1 - now, coords) + exp_avg * per_point(ahead, coords), bias

    def passes(self, hyper: dict[str, Any], ahead: Collection[str] = ()) -> tuple[Pass, ...]:
        if self.second_moment == "scalar" or self.normalized or self.amsgrad:
            return ()
        return (self._look, self.direction) if "exp_avg_sq" in ahead else (self.direction,)

    def _look(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> None:
        beta2 = self._decays(averages, hyper)[1]
        averages.observe("exp_avg_sq", coords, beta2, 1 - beta2)

    def _decays(self, averages: Averages, hyper: dict[str, Any]) -> tuple[Any, Any]:
        """Decay of both averages in this step, numbers or ``[B]``; None for the first: the gradient itself."""
        return number(hyper["betas"][0]), number(hyper["betas"][1])

    def gain(self, step: Tensor, hyper: dict[str, Any]) -> float | Tensor:
        if self.bias_correction != "step":
            return 1.0
        beta1, beta2 = (number(beta) for beta in hyper["betas"])
        return (1 - beta2**step).sqrt() / (1 - beta1**step)

    def elementwise(self, hyper: dict[str, Any]) -> bool:
        return self.second_moment != "scalar" and not self.normalized

    def kernel(self, decay: str, hyper: dict[str, Any]) -> Kernel | None:
        changed = self.normalized or self.nesterov or self.bias_correction == "step"
        if self.second_moment != "elementwise" or changed or decay not in _KERNELS:
            return None
        return functools.partial(self._fused, _KERNELS[decay])

    def _fused(
        self,
        kernel: Callable[..., None],
        params: list[Tensor],
        grads: list[Tensor],
        state: dict[str, list[Tensor]],
        hyper: dict[str, Any],
    ) -> None:
        kernel(
            params,
            grads,
            state["exp_avg"],
            state["exp_avg_sq"],
            state.get("max_exp_avg_sq", []),
            state["step"] if self.bias_correction else [torch.full_like(step, math.inf) for step in state["step"]],
            lr=hyper["lr"],
            beta1=number(hyper["betas"][0]),
            beta2=number(hyper["betas"][1]),
            weight_decay=number(hyper["weight_decay"]),
            eps=number(hyper["eps"]),
            amsgrad=self.amsgrad,
            maximize=bool(hyper["maximize"]),
        )


_KERNELS: dict[str, Callable[..., None]] = {"decoupled": torch._fused_adamw_, "l2": torch._fused_adam_}
