"""Products: one weight whose parts live on different spaces."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from metrize.part import Spec
from metrize.spaces.base import Space, SpaceError
from metrize.spaces.vector import Vector


@dataclasses.dataclass(frozen=True)
class Product(Space):
    """Product ``first x rest``: a tensor cut in two along a dimension, each piece a point of a space of its own.

    Write three pieces as ``Product(Stiefel(), 14, Product(Sphere(axis=-1), 7, Vector()))``. The metric is the sum of
    both, and weight decay acts on the pieces that have any use for it.

    Args:
        first: space of the first ``size`` slices.
        size: where to cut.
        rest: space of what is left.
        axis: along which to cut: 0 is by rows.

    Raises:
        TypeError: something that is no space.
        ValueError: a size below 1.
        SpaceError: (when used) a tensor with nothing left for `rest`, or a piece that its space cannot hold.

    Source: the product metric of textbooks.
    """

    first: Space
    size: int
    rest: Space = dataclasses.field(default_factory=Vector)
    axis: int = 0

    def __post_init__(self) -> None:
        for space in (self.first, self.rest):
            if not isinstance(space, Space):
                raise TypeError(f"Product({space!r}): no space; write it like Product(Stiefel(), 14, Vector())")
        if self.size < 1:
            raise ValueError(f"Product(size={self.size}): the first space gets at least 1 slice")

    @property
    def matrices(self) -> bool:  # type: ignore[override]
        return self.first.matrices or self.rest.matrices

    @property
    def compact(self) -> bool:  # type: ignore[override]  # of the pieces, and not of the class
        return self.first.compact and self.rest.compact

    def check_shape(self, shape: torch.Size) -> None:
        if not -len(shape) <= self.axis < len(shape):
            raise SpaceError(f"{self} cuts along dimension {self.axis}, and the shape is {tuple(shape)}")
        if shape[self.axis] <= self.size:
            raise SpaceError(
                f"{self} cuts off {self.size} slices, and shape {tuple(shape)} leaves nothing for the rest"
            )
        for space, piece in zip((self.first, self.rest), self._shapes(shape), strict=True):
            space.check_shape(piece)

    def check_dim(self, shape: torch.Size) -> None:
        for space, piece in zip((self.first, self.rest), self._shapes(shape), strict=True):
            space.check_dim(piece)

    def batch_shape(self, shape: torch.Size) -> tuple[int, ...]:
        return ()

    def dim(self, shape: torch.Size) -> int:
        pieces = zip((self.first, self.rest), self._shapes(shape), strict=True)
        return sum(space.dim(piece) * math.prod(space.batch_shape(piece)) for space, piece in pieces)

    def points(self, stack: Tensor) -> Tensor:
        return stack

    def state_spec(self, shape: torch.Size, dtype: torch.dtype) -> Spec:
        first, rest = self._shapes(shape)
        specs = {"first": self.first.state_spec(first, dtype), "rest": self.rest.state_spec(rest, dtype)}
        return {f"{name}.{key}": declared for name, spec in specs.items() for key, declared in spec.items()}

    def init_state(self, points: Tensor, state: dict[str, Tensor]) -> None:
        for name, space, (y,) in self._pieces(points):
            space.init_state(y, _own(name, state))

    def section_at(self, points: Tensor, state: dict[str, Tensor]) -> list[Any]:
        return [space.section_at(y, _own(name, state)) for name, space, (y,) in self._pieces(points)]

    def turn(self, section: list[Any]) -> Callable[[Tensor], Tensor] | None:
        turns = [space.turn(part) for space, part in zip((self.first, self.rest), section, strict=True)]
        return functools.partial(self._turned, turns) if any(turns) else None

    def lift(self, points: Tensor, grad: Tensor, section: list[Any]) -> Tensor:
        coords = torch.empty_like(points)
        for (_, space, (y, g, lifted)), part in zip(self._pieces(points, grad, coords), section, strict=True):
            lifted.copy_(space.lift(y, g, part))
        return coords

    def move_(self, points: Tensor, velocity: Tensor, section: list[Any], state: dict[str, Tensor]) -> None:
        for (name, space, (y, v)), part in zip(self._pieces(points, velocity), section, strict=True):
            space.move_(y, v, part, _own(name, state))

    def framed(self, coords: Tensor) -> Tensor:
        raise SpaceError(f"no change of coordinates serves all pieces of {self}; leave out frame for this parameter")

    def shrink_(self, points: Tensor, factor: float | Tensor) -> None:
        for _, space, (y,) in self._pieces(points):
            space.shrink_(y, factor)

    def sq_norm(self, coords: Tensor) -> Tensor:
        return torch.stack([_rows(space.sq_norm(c)).sum(-1) for _, space, (c,) in self._pieces(coords)]).sum(0)

    def project(self, points: Tensor) -> Tensor:
        nearest = torch.empty_like(points)
        for _, space, (y, onto) in self._pieces(points, nearest):
            onto.copy_(space.project(y))
        return nearest

    def torn(self, points: Tensor) -> Tensor:
        return torch.cat([_rows(space.torn(y)) for _, space, (y,) in self._pieces(points)], -1).any(-1)

    def error(self, points: Tensor) -> Tensor:
        """The larger error of both pieces."""
        errors = [_rows(space.error(y)) for _, space, (y,) in self._pieces(points)]
        return torch.cat([*errors, points.new_zeros(len(points), 1)], -1).amax(-1)

    def tolerance(self, shape: torch.Size, dtype: torch.dtype) -> float:
        both = zip((self.first, self.rest), self._shapes(shape), strict=True)
        bounds = [space.tolerance(piece, dtype) for space, piece in both]
        return max((bound for bound in bounds if bound < math.inf), default=math.inf)

    def polishes(self, steps: Tensor) -> Tensor:
        return self.first.polishes(steps) | self.rest.polishes(steps)

    def polish_(self, points: Tensor, steps: Tensor, state: dict[str, Tensor]) -> None:
        for name, space, (y,) in self._pieces(points):
            space.polish_(y, steps, _own(name, state))

    def _turned(self, turns: list[Callable[[Tensor], Tensor] | None], coords: Tensor) -> Tensor:
        coords = coords.clone()
        for (_, _, (c,)), turn in zip(self._pieces(coords), turns, strict=True):
            if turn is not None:
                c.copy_(turn(c))
        return coords

    def _pieces(self, *stacks: Tensor) -> Iterator[tuple[str, Space, list[Tensor]]]:
        """For each space its name here and its points in each of the stacks, all of them views."""
        axis = self.axis % (stacks[0].ndim - 1) + 1
        cuts = [stack.tensor_split([self.size], axis) for stack in stacks]
        for at, (name, space) in enumerate({"first": self.first, "rest": self.rest}.items()):
            yield name, space, [space.points(cut[at]) for cut in cuts]

    def _shapes(self, shape: torch.Size) -> tuple[torch.Size, torch.Size]:
        first, rest = list(shape), list(shape)
        first[self.axis] = self.size
        rest[self.axis] -= self.size
        return torch.Size(first), torch.Size(rest)


def _own(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What one space keeps, under its own keys, and the count of steps."""
    kept = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
    return kept | {key: value for key, value in state.items() if key == "step"}


def _rows(values: Tensor) -> Tensor:
    """``[B, *batch]`` as ``[B, -1]``."""
    return values.reshape(len(values), math.prod(values.shape[1:]))
