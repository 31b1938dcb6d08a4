"""The journey of a step, written once: lift - enter - rule - leave - step size - move."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from metrize.linalg import alongside
from metrize.moments import Averages
from metrize.rules.base import Pass, UndeclaredError
from metrize.step.assignment import Assignment
from metrize.step.framed import Framed
from metrize.step.state import State


@dataclasses.dataclass
class Trip:
    """What all views of one journey have in common: members whose counts are equal.

    Args:
        assignment: of the members.
        numbers: of their group.
        state: stacked, ``[B, ...]`` each; the running step is counted.
        averages: of the rule.
        rule: the pass that makes the direction.
        rate: of the step size: a number, or one for each member, shaped to multiply points.
        length: `rate` times the rule's gain.
        framed: the frame at work; None where it is trivial.
        fused: the move and the scaling are one operation: the direction is not needed any more, nor a velocity.
    """

    assignment: Assignment
    numbers: dict[str, Any]
    state: State
    averages: Averages
    rule: Pass
    rate: float | Tensor
    length: float | Tensor
    framed: Framed | None = None
    fused: bool = False

    def __post_init__(self) -> None:
        a = self.assignment
        self.shrinks = a.decay.acts(self.numbers)
        self.prior = a.decay.prior(a.space, self.numbers)
        self.given = a.given and self.framed is None
        self.bends = self.numbers["maximize"] or (self.shrinks and a.decay.adds)

    def seen(self, coords: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """The gradient in the coordinates of the averages, and the numbers, as the rule sees them."""
        if self.framed is not None:
            coords = self.framed.enter(coords)
        return self.assignment.recipe.step_size.scaled(coords, self.state, self.numbers)

    def look(self, rule: Pass, points: Tensor, grad: Tensor) -> None:
        """A pass before the one that makes the direction; `grad` as for `journey`."""
        if self.bends or grad.dtype != self.assignment.dtype:
            grad = descent(self.assignment, grad, points, self.numbers)
        coords, numbers = (grad, self.numbers) if self.given else self.seen(grad)
        try:
            rule(coords, self.averages, numbers, self.assignment.metric)
        except KeyError as error:
            raise UndeclaredError(self.assignment.recipe.rule, error, self.averages.slots, numbers) from error


def journey(trip: Trip, points: Tensor, grad: Tensor, warming_up: bool = False) -> Tensor:
    """One step of a batch of equal tensors, or of one piece of a tensor.

    Args:
        trip: what the pieces have in common.
        points: in the dtype of the arithmetic, seen as points; moved in place.
        grad: their gradient, likewise.
        warming_up: the frame only looks at the gradient.

    Returns:
        The lifted gradient.
    """
    space, decay = trip.assignment.space, trip.assignment.decay
    if trip.bends or grad.dtype != points.dtype:
        grad = descent(trip.assignment, grad, points, trip.numbers)
    if trip.shrinks and not warming_up:
        decay.before_(points, trip.rate, space, trip.numbers)
    coords, section = (grad, None) if trip.assignment.plain else _lift(trip, points, grad)
    if trip.framed is not None:
        trip.framed.open(coords)
    if warming_up:
        return coords
    inner, numbers = (coords, trip.numbers) if trip.given else trip.seen(coords)
    try:
        direction = trip.rule(inner, trip.averages, numbers, trip.assignment.metric)
    except KeyError as error:
        raise UndeclaredError(trip.assignment.recipe.rule, error, trip.averages.slots, numbers) from error
    if trip.prior:
        direction = direction + _prior(trip, points, numbers)
    velocity = _move_(trip, points, direction, section, coords)
    if trip.shrinks and decay.after_step:
        decay.after_(points, velocity, trip.rate, space, trip.numbers)
    return coords


def _lift(trip: Trip, points: Tensor, grad: Tensor) -> tuple[Tensor, Any]:
    """Coordinates in the global tangent space, where the averages have followed the section."""
    space = trip.assignment.space
    section = space.section_at(points, trip.state)
    if turn := space.turn(section):
        if trip.framed is None:
            rule = trip.assignment.recipe.rule
            trip.averages.turn("linear", rule.turning(turn, trip.averages, trip.numbers))
        else:
            trip.framed.turned(turn, points)
    return space.lift(points, grad, section), section


def _prior(trip: Trip, points: Tensor, numbers: dict[str, Any]) -> Tensor:
    """What ``decay="natural"`` adds to the direction."""
    inner = points if trip.framed is None else trip.framed.enter(points)
    rule, metric = trip.assignment.recipe.rule, trip.assignment.metric
    return rule.prior(inner, trip.averages, numbers, metric).mul_(trip.prior)


def _move_(trip: Trip, points: Tensor, direction: Tensor, section: Any, coords: Tensor) -> Tensor | None:
    """Out of the frame and along the space; the velocity, where there is one."""
    a, framed = trip.assignment, trip.framed
    if trip.fused and framed is not None:
        a.recipe.frame.move_(points, direction, trip.length, framed.state, coords)
        return None
    if trip.fused:  # p <- p - length D in one pass
        if isinstance(trip.length, Tensor):
            points.addcmul_(direction, trip.length, value=-1)
        else:
            points.add_(direction, alpha=-trip.length)
        return None
    if framed is not None:
        direction = framed.leave(direction, coords)
    velocity = a.recipe.step_size.velocity(direction, trip.length)
    a.space.move_(points, velocity, section, trip.state)
    return velocity


def per_member(value: float | Tensor, points: Tensor) -> float | Tensor:
    """A number, or one for each member, shaped to multiply points."""
    if not isinstance(value, Tensor) or not value.ndim:
        return float(value)
    return alongside(value, points).reshape(-1, *(1,) * (points.ndim - 1))


def descent(assignment: Assignment, grad: Tensor, points: Tensor, numbers: dict[str, Any]) -> Tensor:
    """The gradient of what is to be made small, in the dtype of the arithmetic."""
    grad = (grad.neg() if numbers["maximize"] else grad).to(assignment.dtype)
    return assignment.decay.added(grad, points, assignment.space, numbers)


def stack(tensors: list[Tensor]) -> Tensor:
    """Equal tensors as ``[B, *shape]``; a view of a single one."""
    return tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(tensors)
