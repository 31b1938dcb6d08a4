"""Conventions of weight decay."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

from torch import Tensor

from metrize.part import Part
from metrize.spaces import Space

Decay = Literal["decoupled", "l2", "after", "independent", "cautious", "constrained", "given", "natural"]
"""Names of the conventions, see `DECAYS`."""


@dataclasses.dataclass(frozen=True)
class Convention(Part, abstract=True):
    """When and by how much a parameter shrinks. On a compact space, where the norm is constant, nothing does.

    A subclass overrides what it does: `added`, `before_` or `after_`.
    """

    elementwise: ClassVar[bool] = True
    """Whether each entry shrinks by itself."""

    adds: ClassVar[bool] = False
    """Whether it is part of the gradient."""

    after_step: ClassVar[bool] = False
    """Whether it waits for the step."""

    needs_velocity: ClassVar[bool] = False
    """Whether it asks how far each entry went."""

    def acts(self, numbers: dict[str, Any]) -> bool:
        """Whether there is anything to do with these numbers of a group."""
        return float(numbers["weight_decay"]) != 0

    def share(self, rate: float | Tensor, numbers: dict[str, Any]) -> float | Tensor:
        """The share of a parameter that is taken away in one step; `rate` is that of the step size."""
        return rate * float(numbers["weight_decay"])

    def check(self, space: Space, rule: Any) -> None:
        """Refuse a space or a rule for which this convention has no meaning.

        Raises:
            ValueError: with the reason and the remedy.
        """

    def added(self, grad: Tensor, stack: Tensor, space: Space, numbers: dict[str, Any]) -> Tensor:
        """The gradient with what this convention adds to it."""
        return grad

    def prior(self, space: Space, numbers: dict[str, Any]) -> float:
        """The weight of the rule's natural gradient of ``||p||^2 / 2`` in its direction."""
        return 0.0

    def before_(self, points: Tensor, rate: float | Tensor, space: Space, numbers: dict[str, Any]) -> None:
        """Shrink the points in place before they move.

        Args:
            points: ``[B, *point]``.
            rate: of the step size: a number, or shaped to multiply the points.
            space: of the points.
            numbers: of the parameter group.
        """

    def after_(
        self, points: Tensor, velocity: Tensor | None, rate: float | Tensor, space: Space, numbers: dict[str, Any]
    ) -> None:
        """As `before_`, once the points have moved along `velocity`."""


@dataclasses.dataclass(frozen=True)
class DecoupledDecay(Convention):
    """``p <- (1 - rate weight_decay) p`` before the step (arXiv:1711.05101)."""

    def before_(self, points: Tensor, rate: float | Tensor, space: Space, numbers: dict[str, Any]) -> None:
        if self.acts(numbers):
            space.shrink_(points, 1 - self.share(rate, numbers))


@dataclasses.dataclass(frozen=True)
class GivenDecay(DecoupledDecay):
    """As `DecoupledDecay`, by the group's lr, whatever the step size makes of it."""

    def share(self, rate: float | Tensor, numbers: dict[str, Any]) -> float:
        return float(numbers["lr"]) * float(numbers["weight_decay"])


@dataclasses.dataclass(frozen=True)
class IndependentDecay(DecoupledDecay):
    """``p <- (1 - weight_decay lr / initial_lr) p``: only the schedule counts, and not the learning rate."""

    def share(self, rate: float | Tensor, numbers: dict[str, Any]) -> float:
        lr = float(numbers["lr"])
        peak = float(numbers.get("initial_lr", lr))
        return float(numbers["weight_decay"]) * (lr / peak if peak else 1.0)


@dataclasses.dataclass(frozen=True)
class ConstrainedDecay(DecoupledDecay):
    """``p <- (1 - rate) p``, which keeps a weight in the ball of the rule's norm (arXiv:2502.07529)."""

    def acts(self, numbers: dict[str, Any]) -> bool:
        return True

    def share(self, rate: float | Tensor, numbers: dict[str, Any]) -> float | Tensor:
        return rate


@dataclasses.dataclass(frozen=True)
class L2Decay(Convention):
    """``g <- g + weight_decay p``, the gradient of the penalised loss."""

    adds: ClassVar[bool] = True

    def added(self, grad: Tensor, stack: Tensor, space: Space, numbers: dict[str, Any]) -> Tensor:
        return (
            grad.add(stack, alpha=float(numbers["weight_decay"])) if self.acts(numbers) and not space.compact else grad
        )


@dataclasses.dataclass(frozen=True)
class AfterDecay(Convention):
    """``p <- (1 - rate weight_decay) p`` after the step."""

    after_step: ClassVar[bool] = True

    def after_(
        self, points: Tensor, velocity: Tensor | None, rate: float | Tensor, space: Space, numbers: dict[str, Any]
    ) -> None:
        if self.acts(numbers):
            space.shrink_(points, 1 - self.share(rate, numbers))


@dataclasses.dataclass(frozen=True)
class CautiousDecay(Convention):
    """As `AfterDecay`, for those entries only that the step itself brings nearer to zero."""

    after_step: ClassVar[bool] = True
    needs_velocity: ClassVar[bool] = True

    def check(self, space: Space, rule: Any) -> None:
        _refuse_curved("cautious", space)

    def after_(
        self, points: Tensor, velocity: Tensor | None, rate: float | Tensor, space: Space, numbers: dict[str, Any]
    ) -> None:
        if velocity is not None and self.acts(numbers) and not space.compact:
            before = points - velocity
            points.sub_(before * (before * velocity < 0) * self.share(rate, numbers))


@dataclasses.dataclass(frozen=True)
class NaturalDecay(Convention):
    """``D <- D + weight_decay`` times the rule's natural gradient of ``||p||^2 / 2`` (arXiv:2405.12807)."""

    elementwise: ClassVar[bool] = False

    def check(self, space: Space, rule: Any) -> None:
        if not rule.has_prior:
            raise ValueError(f"decay='natural' with rule={rule}, which has no natural gradient; use FAdam()")
        _refuse_curved("natural", space)

    def prior(self, space: Space, numbers: dict[str, Any]) -> float:
        return 0.0 if space.compact else float(numbers["weight_decay"])


def _refuse_curved(name: str, space: Space) -> None:
    if not (space.flat or space.compact):
        raise ValueError(f"decay={name!r} has no meaning on {space}; use decay='decoupled'")


DECAYS: dict[str, Convention] = {
    "decoupled": DecoupledDecay(),
    "l2": L2Decay(),
    "after": AfterDecay(),
    "independent": IndependentDecay(),
    "cautious": CautiousDecay(),
    "constrained": ConstrainedDecay(),
    "given": GivenDecay(),
    "natural": NaturalDecay(),
}
"""The conventions by the names that recipes write."""
