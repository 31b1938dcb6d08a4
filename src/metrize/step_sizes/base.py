"""The contract of a step size."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from metrize.norms import Norm
from metrize.part import Part, Spec


@dataclasses.dataclass(frozen=True)
class StepSize(Part, abstract=True):
    """Turns a direction into a velocity.

    One that needs to know the whole model measures every parameter first (`measure`), is told the sums over all of
    them (`receive`), and only then scales what the rule sees (`scaled`) and makes the velocity.
    """

    sums: ClassVar[int] = 0
    """How many numbers `measure` gives."""

    flat_only: ClassVar[bool] = False
    """Whether only tensors in a vector space can take this step size."""

    def beside(self, norm: Norm | None) -> Self:
        """This step size in a recipe whose rule is steepest in `norm`; None: its rule is not in a norm."""
        return self

    @property
    def measured_in(self) -> Norm | None:
        """The norm that `measure` sums up; None where it is about none."""
        return None

    def reads(self) -> tuple[str, ...]:
        """Numbers of the rule, such as ``betas``, that this step size cannot do without."""
        return ()

    def shown(self) -> dict[str, Any]:
        """What it found out, as it stands in every parameter group for people to read; before the first step."""
        return {}

    def check_shape(self, shape: torch.Size) -> None:
        """Refuse a parameter of a shape this step size cannot measure.

        Raises:
            ValueError: with the reason and the remedy.
        """

    @property
    def scope(self) -> str | None:
        """Over what `measure` is summed: ``"all"`` parameters, each ``"group"``, or None where nothing is measured."""
        return None

    starts_small: ClassVar[bool] = False
    """Whether the first steps are so short that a 16-bit parameter would lose them all."""

    given: ClassVar[bool] = False
    """Whether the rate is the group's ``lr`` and nothing else, so that a kernel can take it from there."""

    @property
    def piecewise(self) -> bool:
        """Whether a large tensor can take its step piece by piece, once `rate` has seen the whole."""
        return self.by_entry

    @property
    def by_entry(self) -> bool:
        """Whether a part of a tensor can take its step knowing nothing of the rest but the sums of `measure`."""
        return False

    def state_spec(self, shape: torch.Size, dtype: torch.dtype) -> Spec:
        """State kept for one parameter of this shape."""
        return {}

    def init_state(self, parameter: Tensor, state: dict[str, Tensor]) -> None:
        """Fill the state declared by `state_spec` from the parameter's value, both as one stack of one."""

    def measure(self, grad: Tensor, points: Tensor, state: dict[str, Tensor], hyper: dict[str, Any]) -> Tensor:
        """This batch's share of the sums over the whole model, ``[sums]`` in float64; may update its own state.

        Args:
            grad: ``[B, *shape]``, as the rule will see it.
            points: the parameters, same shape.
            state: stacked, ``[B, ...]`` each.
            hyper: numbers of the parameter group.
        """
        raise NotImplementedError

    def receive(self, total: Tensor, state: dict[str, Tensor], hyper: dict[str, Any]) -> None:
        """Take in the sum of `measure` over the whole scope."""

    def scaled(self, coords: Tensor, state: dict[str, Tensor], hyper: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """The gradient and the numbers as the rule shall see them."""
        return coords, hyper

    def rate(self, points: Tensor, state: dict[str, Tensor], hyper: dict[str, Any]) -> float | Tensor:
        """The length of a step along a direction of length one: a number, or ``[B]``; weight decay uses it too.

        Args:
            points: the parameters before the step, ``[B, *shape]``.
            state: stacked, ``[B, ...]`` each.
            hyper: numbers of the parameter group.
        """
        raise NotImplementedError

    def velocity(self, direction: Tensor, rate: float | Tensor) -> Tensor:
        """``W = -rate * direction``; may change `direction` in place.

        Args:
            direction: of ascent, ``[B, *point]``.
            rate: what `rate` said, shaped to multiply the direction.
        """
        return direction * -rate
