"""The contract of a rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from metrize.linalg import alongside
from metrize.moments import Averages, Kind
from metrize.norms import Frobenius, Norm
from metrize.part import Part, Spec, offers


@dataclasses.dataclass(frozen=True)
class Metric:
    """What a rule may know of the space: the length of coordinates and how many are free.

    Args:
        sq_norm: ``[B, *batch, *point]`` -> squared lengths ``[B, *batch]``.
        dim: free coordinates of one point.
    """

    sq_norm: Callable[[Tensor], Tensor]
    dim: int


Pass = Callable[[Tensor, Averages, dict[str, Any], Metric], Any]
"""One way through a tensor: arguments as `Rule.direction`."""

DIRECTION = ("direction", "toward", "mapped")
"""The methods of a rule that make a direction."""

Kernel = Callable[[list[Tensor], list[Tensor], dict[str, list[Tensor]], dict[str, Any]], None]
"""Updates parameters in place from gradients, state by key and the numbers of the group; ``step`` is counted before."""


class UndeclaredError(KeyError):
    """A rule asks for an average or a number that it does not declare.

    Args:
        rule: which asks.
        asked: what the look-up raised.
        averages: names of its averages.
        hyper: the numbers that it was given.
    """

    def __init__(self, rule: Rule, asked: KeyError, averages: Collection[str], hyper: Collection[str]) -> None:
        names = sorted({*rule.hyper(), "lr", "weight_decay"} & set(hyper))
        super().__init__(
            f"{rule} asks for {asked}, which it does not declare; its averages() are {', '.join(averages) or 'none'}, "
            f"and its numbers, of hyper(), {', '.join(names)}"
        )

    def __str__(self) -> str:
        return str(self.args[0])


@dataclasses.dataclass(frozen=True)
class Rule(Part, abstract=True):
    """Turns coordinates of a gradient into a direction of ascent, keeping averages as it goes."""

    flat_only: ClassVar[bool] = False
    """Whether the direction has lost the symmetries of coordinates on a curved space, such as those of a skew block."""

    kernel_counts: ClassVar[bool] = True
    """Whether the kernel reads counts of steps, and so where the tensors are; else they stay on the host."""

    optional: ClassVar[tuple[str, ...]] = ("clip",)
    """Numbers of a parameter group that may be None."""

    def in_norm(self) -> Norm:
        """The norm of a parameter in which this rule's steps are measured."""
        return Frobenius()

    def with_norm(self, norm: Norm) -> Self:
        """This rule in another norm.

        Raises:
            TypeError: it has one of its own.
        """
        raise TypeError(f"norm={norm!r} for a group whose rule is {self}, which has its own; use Steepest or Lion")

    @property
    def norm_of_steps(self) -> Norm | None:
        """The norm whose unit ball every direction lies in, for step sizes that measure in it; None: there is none."""
        return None

    def hyper(self) -> dict[str, Any]:
        """The numbers of a parameter group that this rule reads, with their defaults."""
        return {}

    def variant(self, hyper: dict[str, Any]) -> Any:
        """What in those numbers decides which state is kept."""
        return None

    def check_hyper(self, hyper: dict[str, Any]) -> None:
        """Refuse numbers of a parameter group that this rule cannot work with.

        Raises:
            ValueError: naming the option and its value.
        """

    def check_shape(self, shape: torch.Size) -> None:
        """Refuse a parameter of a shape this rule cannot read.

        Raises:
            ValueError: with the reason and the remedy.
        """

    def averages(self, hyper: dict[str, Any]) -> dict[str, Kind]:
        """The averages kept in the shape of the coordinates, by name, and what each is of."""
        return {}

    def averages_of(self, shape: torch.Size, hyper: dict[str, Any]) -> dict[str, Kind]:
        """`averages`, without those that a tensor of this shape has no use for."""
        return self.averages(hyper)

    def small_spec(self, shape: torch.Size, batch: tuple[int, ...], dtype: torch.dtype, hyper: dict[str, Any]) -> Spec:
        """State beside the averages, kept as it is.

        Args:
            shape: of the coordinates of one parameter.
            batch: points in the parameter (see `Space.batch_shape`).
            dtype: of the arithmetic.
            hyper: numbers of the parameter group.
        """
        return {}

    def direction(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        """Update the averages with ``coords`` ``[B, *batch, *point]`` and return the direction, same shape."""
        raise NotImplementedError

    def toward(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        """`direction`, before a duality map in which entries meet: ``direction(...) = mapped(toward(...))``."""
        return self.direction(coords, averages, hyper, metric)

    def mapped(self, toward: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        """The direction, from what `toward` gave."""
        return toward

    def prior(self, points: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        """What ``decay="natural"`` adds to the direction of this step, times `weight_decay`: a fresh tensor.

        Args:
            points: in the coordinates of the rule, ``[B, *batch, *point]``.
            averages: after `direction`.
            hyper: numbers of the parameter group.
            metric: of the space.
        """
        raise NotImplementedError

    def passes(self, hyper: dict[str, Any], ahead: Collection[str] = ()) -> tuple[Pass, ...]:
        """`direction`, cut where the whole tensor must have been seen; the last pass returns the direction.

        Each pass may be called with one piece of a tensor after the other. None at all, where entries meet in more than
        the storage of averages and `Averages.total`.

        Args:
            hyper: numbers of the parameter group.
            ahead: averages that have to be observed in a pass before the one that uses them.
        """
        return ()

    def revisits(self, hyper: dict[str, Any]) -> tuple[str, ...]:
        """Averages that are used in a later pass than the one they are updated in."""
        return ()

    def turning(
        self, turn: Callable[[Tensor], Tensor], averages: Averages, hyper: dict[str, Any]
    ) -> Callable[[Tensor], Tensor]:
        """How averages of gradients follow a change of the space's axes, which those of squares cannot follow.

        Args:
            turn: coordinates of the step before, ``[B, *coordinates]`` -> coordinates of this one.
            averages: as for `direction`.
            hyper: as for `direction`.
        """
        return turn

    def gain(self, step: Tensor, hyper: dict[str, Any]) -> float | Tensor:
        """What the step is multiplied by once the frame was left, one number or ``[B]``; weight decay does not see it.

        Args:
            step: steps the rule has taken, this one included: ``[B]`` in float64.
            hyper: numbers of the parameter group.
        """
        return 1.0

    def kernel(self, decay: str, hyper: dict[str, Any]) -> Kernel | None:
        """Torch's own one-pass kernel for exactly this update of a vector space, if there is one.

        Args:
            decay: the convention of weight decay, which the kernel takes care of as well.
            hyper: numbers of the parameter group.
        """
        return None

    def elementwise(self, hyper: dict[str, Any]) -> bool:
        """Whether every entry of a direction depends on that entry of gradient and averages alone.

        Then a part of a tensor can be stepped without the rest, on another process too.

        Args:
            hyper: numbers of the parameter group.
        """
        return False

    @property
    def has_prior(self) -> bool:
        """Whether `prior` is known, for ``decay="natural"``."""
        return type(self).prior is not Rule.prior


def number(value: Any) -> float:
    """A hyperparameter as a float; tensors of a schedule live on the host, so that reading one waits for nothing."""
    return float(value)


def at_least(value: float | Tensor, least: float) -> float | Tensor:
    """The larger of both, entry by entry."""
    return value.clamp(min=least) if isinstance(value, Tensor) else max(value, least)


def per_point(value: Any, like: Tensor) -> Any:
    """A number, or ``[B, *batch]`` in the dtype and on the device of coordinates and shaped to multiply them."""
    if not isinstance(value, Tensor):
        return value
    return alongside(value, like).reshape(value.shape + (1,) * (like.ndim - value.ndim))


def direction_of(rule: Rule) -> Pass:
    """`Rule.direction`, or what it stands for where a subclass overrides that alone: ``mapped(toward(...))``."""
    if offers(rule, "direction", "toward", "mapped"):
        return rule.direction

    def direction(coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        return rule.mapped(rule.toward(coords, averages, hyper, metric), averages, hyper, metric)

    return direction
