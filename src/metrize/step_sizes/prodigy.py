"""Prodigy's step size, in any norm."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from metrize.linalg import alongside, in_rows
from metrize.part import Spec
from metrize.step_sizes.measuring import Measuring


@dataclasses.dataclass(frozen=True)
class Prodigy(Measuring):
    """Prodigy's estimate d of the distance to go (arXiv:2306.06101): the rate is ``d * lr``, and the rule sees ``d g``.

    With ``q = d lr``: ``r <- b3 r + (d / d0) q <g, x0 - x>``, ``s <- b3 s + (d / d0) q g``, and d rises to
    ``d_coef * r / ||s||_dual``: the escape velocity, that raises the step until the weights leave the region where the
    loss is linear. Sums run over all parameters of the scope. Prodigy itself has the dual of `MaxEntry`, the l1 norm;
    with the norm of a `Steepest` rule, such as `Spectral`, that rule needs no learning rate.

    Args:
        norm: whose dual measures s, the norm in which the steps are measured; None: that of the recipe's rule, and
            `MaxEntry` where the rule is not in a norm.
        over: one d for ``"all"`` parameters, or one for each ``"group"``.
        beta3: decay of r and s; None: the root of the group's second beta, or of 0.999 where it has none.
        d0: the first estimate; small.
        d_coef: factor on the estimate.
        growth_rate: largest growth of d in one step, as a factor; None: unlimited.
        safeguard_warmup: leave the learning rate out of s, for long warm-ups.
        bias_correction: multiply the rate by Adam's ``sqrt(1 - b2^t) / (1 - b1^t)``.
        slice_p: look at every p-th entry only, to save memory.

    A bfloat16 parameter keeps what rounding leaves out (`Compensated`), because the first steps are below its last
    digit, and an estimate that sees nothing move never grows.

    Raises:
        ValueError: a number out of range.
        SpaceError: (when used) a tensor that does not live in a vector space.
    """

    beta3: float | None = None
    d0: float = 1e-6
    d_coef: float = 1.0
    growth_rate: float | None = None
    safeguard_warmup: bool = False
    bias_correction: bool = False
    slice_p: int = 1

    fixed: ClassVar[tuple[str, ...]] = ("d0", "slice_p", "safeguard_warmup")
    sums: ClassVar[int] = 2
    starts_small: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.d0 > 0 or not self.d_coef > 0:
            raise ValueError(f"Prodigy(d0={self.d0}, d_coef={self.d_coef}): numbers above 0")
        if self.growth_rate is not None and not self.growth_rate > 1:
            raise ValueError(f"Prodigy(growth_rate={self.growth_rate}): a factor above 1, or None")
        if self.slice_p < 1 or (self.slice_p > 1 and not self.measured_in.elementwise):
            raise ValueError(f"Prodigy(slice_p={self.slice_p}): at least 1, and 1 unless the norm is MaxEntry()")

    def reads(self) -> tuple[str, ...]:
        return ("betas",) if self.bias_correction else ()

    def shown(self) -> dict[str, Any]:
        return {"d": float(self.d0)}

    @property
    def by_entry(self) -> bool:
        return super().by_entry and self.slice_p == 1

    def state_spec(self, shape: torch.Size, dtype: torch.dtype) -> Spec:
        kept = tuple(shape) if self.slice_p == 1 else (math.ceil(math.prod(shape) / self.slice_p),)
        numbers: Spec = dict.fromkeys(("d", "d_last", "d_max", "d_numerator"), ((), torch.float64))
        return {"start": (kept, dtype), "grad_sum": (kept, dtype), **numbers}

    def init_state(self, parameter: Tensor, state: dict[str, Tensor]) -> None:
        state["start"].copy_(self._sliced(parameter))
        for key in ("d", "d_last", "d_max"):
            state[key].fill_(self.d0)

    def measure(self, grad: Tensor, points: Tensor, state: dict[str, Tensor], hyper: dict[str, Any]) -> Tensor:
        grad, points = self._sliced(grad), self._sliced(points)
        d = _number(state["d"])
        rate = self._rate(d, state["step"] + 1, hyper)
        weight = d / self.d0 * (d if self.safeguard_warmup else rate)
        state["grad_sum"].mul_(self._beta3(hyper)).add_(grad * _wide(weight, grad))
        away = in_rows((state["start"] - points).mul_(grad)).sum(-1).double().sum(-1)
        length = self.measured_in.dual_norm(state["grad_sum"]).double().sum()
        return torch.stack([(d / self.d0 * rate * away).sum(), length])

    def receive(self, total: Tensor, state: dict[str, Tensor], hyper: dict[str, Any]) -> None:
        numerator, denominator = total.to(state["d"])
        moved = denominator > 0  # no gradient at all says nothing
        r = torch.where(moved, self._beta3(hyper) * state["d_numerator"] + numerator, state["d_numerator"])
        estimate = torch.where(moved, self.d_coef * r / denominator, 0.0)
        d = state["d"].clone()
        raised = torch.where(d == self.d0, torch.maximum(d, estimate), d)
        torch.maximum(state["d_max"], estimate, out=state["d_max"])
        grown = state["d_max"] if self.growth_rate is None else state["d_max"].minimum(raised * self.growth_rate)
        state["d_numerator"].copy_(r)
        state["d_last"].copy_(d)
        state["d"].copy_(torch.where(moved, grown, d))
        hyper["d"] = _number(state["d"][0])

    def scaled(self, coords: Tensor, state: dict[str, Tensor], hyper: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        scaled = coords * _wide(_number(state["d_last"]), coords)
        eps = hyper.get("eps")  # which some rules have several of, of other units
        return scaled, {**hyper, "eps": eps * _number(state["d"][:1])} if isinstance(eps, float | int) else hyper

    def rate(self, points: Tensor, state: dict[str, Tensor], hyper: dict[str, Any]) -> Tensor:
        return self._rate(state["d_last"], state["step"], hyper)

    def _rate(self, d: float | Tensor, step: Tensor, hyper: dict[str, Any]) -> Any:
        """``d lr``, with Adam's bias correction if wanted; ``[B]``."""
        rate = d * float(hyper["lr"])
        if not self.bias_correction:
            return rate
        beta1, beta2 = (float(beta) for beta in hyper["betas"][:2])
        t = alongside(step, d) if isinstance(d, Tensor) else step.double()
        return rate * (1 - beta2**t).sqrt() / (1 - beta1**t)

    def _beta3(self, hyper: dict[str, Any]) -> float:
        if self.beta3 is not None:
            return self.beta3
        return math.sqrt(float(hyper["betas"][1]) if "betas" in hyper else 0.999)

    def _sliced(self, stack: Tensor) -> Tensor:
        return stack if self.slice_p == 1 else stack.reshape(len(stack), -1)[:, :: self.slice_p]


def _number(value: Tensor) -> Any:
    """``[B]`` as a plain number where that is one on the host: pieces of a large tensor ask for it often."""
    return value.item() if value.numel() == 1 and value.device.type == "cpu" else value


def _wide(value: Any, like: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return value
    return alongside(value, like).reshape(-1, *(1,) * (like.ndim - 1))
