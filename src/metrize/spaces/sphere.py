"""The sphere, and the oblique manifold: spheres side by side."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from metrize.part import Spec, choice
from metrize.spaces.base import Space, SpaceError
from metrize.spaces.retractions import sinc
from metrize.spaces.shortened import LONGEST, shortened


class Reflection(NamedTuple):
    """Householder's ``H = I - F F^T / K`` with ``F = e + s y`` and ``K = F_1``: it takes the first axis e to -s y."""

    f: Tensor
    k: Tensor
    changed: Tensor  # whether s is another than in the step before
    axes: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """``H x`` for vectors of the shape of the points; H is its own transpose."""
        return x - self.f * ((self.f * x).sum(self.axes, keepdim=True) / self.k)


@dataclasses.dataclass(frozen=True)
class Sphere(Space):
    """Sphere ``S = {y : ||y|| = radius}``: a tensor, or each of its slices, is a vector of given length.

    The gradient g is lifted to ``[0; Yp^T g]``, where ``[y, Yp]`` is Householder's reflection: the coordinates of
    `Stiefel` with n = 1 in its closed-form section, at the cost of a few elementwise passes. All rows or all columns
    of a matrix on spheres are the oblique manifold.

    Args:
        axis: along which the vectors run: ``-1``: each row of a matrix is one, ``0``: each column, ``(1, 2, 3)``: each
            filter of a convolution. None: the whole tensor is one vector.
        radius: length of the vectors. Steps are lengths on the sphere, so that the angle is ``step / radius``.
        retraction: ``"cayley"`` or ``"geodesic"`` (the great circle).

    Raises:
        ValueError: an unknown option or a number out of range.
        SpaceError: (when used) a tensor without these dimensions, or vectors with fewer than two entries.

    Source: arXiv:2305.16901 for the lift; the closed forms are ours.
    """

    axis: int | tuple[int, ...] | None = None
    radius: float = 1.0
    retraction: Literal["cayley", "geodesic"] = "cayley"

    compact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        choice(self, "retraction", ("cayley", "geodesic"))
        if not 0 < self.radius < math.inf:
            raise ValueError(f"Sphere(radius={self.radius}): a length above 0")
        if self.axis == ():
            raise ValueError("Sphere(axis=()): name a dimension, or None for the whole tensor")

    def check_shape(self, shape: torch.Size) -> None:
        wanted = (self.axis,) if isinstance(self.axis, int) else self.axis or ()
        if any(not -len(shape) <= d < len(shape) for d in wanted) or len(self._dims(len(shape))) < len(wanted):
            raise SpaceError(
                f"{self} names dimensions that a tensor of shape {tuple(shape)} does not have, or one twice"
            )
        if self._size(shape) < 2:
            raise SpaceError(
                f"{self} cuts shape {tuple(shape)} into vectors of {self._size(shape)} entries, and a direction takes "
                "two at least; choose another axis or leave it free"
            )

    def batch_shape(self, shape: torch.Size) -> tuple[int, ...]:
        dims = self._dims(len(shape))
        return tuple(size for d, size in enumerate(shape) if d not in dims)

    def dim(self, shape: torch.Size) -> int:
        return self._size(shape) - 1

    def points(self, stack: Tensor) -> Tensor:
        dims = self._dims(stack.ndim - 1)
        return stack.movedim([d + 1 for d in dims], self._axes(stack))

    def state_spec(self, shape: torch.Size, dtype: torch.dtype) -> Spec:
        return {"signs": (self.batch_shape(shape), torch.int8)}

    def init_state(self, points: Tensor, state: dict[str, Tensor]) -> None:
        state["signs"].fill_(1)

    def section_at(self, points: Tensor, state: dict[str, Tensor]) -> Reflection:
        axes = self._axes(points)
        f = points / self.radius
        top = self._top(f)
        kept = state["signs"].to(f.dtype).view_as(top)
        signs = torch.where(kept * top < -0.75, -kept, kept)  # kept while they serve, as in `householder_signs`
        state["signs"].copy_(signs.view_as(state["signs"]))
        f.mul_(signs)
        top.add_(1)
        return Reflection(f, top, signs != kept, axes)

    def turn(self, section: Reflection) -> Callable[[Tensor], Tensor] | None:
        if section.changed.device.type == "cpu" and not section.changed.any():
            return None  # elsewhere the question would wait for the device
        return functools.partial(self._turned, section)

    def lift(self, points: Tensor, grad: Tensor, section: Reflection) -> Tensor:
        coords = section(grad)
        self._top(coords).zero_()
        return coords

    def move_(self, points: Tensor, velocity: Tensor, section: Reflection, state: dict[str, Tensor]) -> None:
        def sq_norm(v: Tensor) -> Tensor:
            return v.square().sum(section.axes, keepdim=True)

        b = shortened(velocity, LONGEST * self.radius, sq_norm, section.axes).clone()
        self._top(b).zero_()
        square = b.square().sum(section.axes, keepdim=True) / self.radius**2
        if self.retraction == "cayley":
            along = 4 / (4 + square)
            back = along * square / 2
        else:
            angle = square.sqrt()
            along, back = sinc(angle), square * sinc(angle / 2).square() / 2  # sin(x) / x, 1 - cos(x)
        points.add_(section(b) * along - points * back)

    def sq_norm(self, coords: Tensor) -> Tensor:
        return coords.square().sum(self._axes(coords))

    def project(self, points: Tensor) -> Tensor:
        axes = self._axes(points)
        largest = points.abs().amax(axes, keepdim=True)  # its square may overflow
        pole = torch.zeros_like(points)
        self._top(pole).fill_(1)
        scaled = torch.where(largest == 0, pole, points / largest)
        return scaled * (self.radius / torch.linalg.vector_norm(scaled, dim=axes, keepdim=True))

    def torn(self, points: Tensor) -> Tensor:
        return points.abs().amax(self._axes(points)) == 0

    def error(self, points: Tensor) -> Tensor:
        """``| ||y||^2 / radius^2 - 1 |``."""
        return ((points / self.radius).square().sum(self._axes(points)) - 1).abs()

    def tolerance(self, shape: torch.Size, dtype: torch.dtype) -> float:
        return 100 * torch.finfo(dtype).eps * math.sqrt(self._size(shape))

    def polish_(self, points: Tensor, steps: Tensor, state: dict[str, Tensor]) -> None:
        square = (points / self.radius).square().sum(self._axes(points), keepdim=True)
        points.mul_(1.5 - 0.5 * square)

    def _turned(self, section: Reflection, coords: Tensor) -> Tensor:
        """The reflections of both signs differ by half a turn in the plane of e and y."""
        low = section.f.clone()
        self._top(low).zero_()
        square = low.square().sum(section.axes, keepdim=True).clamp_min_(torch.finfo(low.dtype).tiny)
        mirrored = coords - low * (2 * (low * coords).sum(section.axes, keepdim=True) / square)
        return torch.where(section.changed, mirrored, coords)

    def _dims(self, ndim: int) -> tuple[int, ...]:
        """The dimensions of a parameter along which one vector runs."""
        wanted = range(ndim) if self.axis is None else (self.axis,) if isinstance(self.axis, int) else self.axis
        return tuple(sorted({d % ndim for d in wanted}))

    def _axes(self, points: Tensor) -> tuple[int, ...]:
        """The trailing axes of points that make one vector."""
        return tuple(range(-len(self._dims(points.ndim - 1)), 0))

    def _top(self, points: Tensor) -> Tensor:
        """The first entry of each vector, a view."""
        for axis in self._axes(points):
            points = points.narrow(axis, 0, 1)
        return points

    def _size(self, shape: torch.Size) -> int:
        return math.prod(shape[d] for d in self._dims(len(shape)))
