"""What geometers ask of a space: lengths, shortest paths, and vectors taken along them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor

from metrize.ambient import isolated


class SpaceError(ValueError):
    """A tensor that a space cannot hold, or a point that is not on it; the text says which and what to do."""


class Geometry:
    """Functions of points and tangent vectors, both tensors of the shape of a parameter or of a batch of parameters.

    All are differentiable, and return the dtype they are given; 16-bit numbers are computed with in 32. Points are
    taken to be on the space, and vectors to be tangent. A space overrides those of the functions with `_at` in their
    name that it has; they see *points*, as `Space.points` makes them.
    """

    lacks: ClassVar[str] = "no closed form of it is known here"
    """Why a space has not all of these functions."""

    def inner(self, y: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Riemannian inner product ``<U, V>`` at Y, ``[*batch]``.

        Args:
            y: a point.
            u: a tangent vector at Y.
            v: another one.

        Raises:
            SpaceError: this space has no such function; the same holds for the others.
        """
        return self._number(self._inner_at, y, u, v)

    def dist(self, y: Tensor, z: Tensor) -> Tensor:
        """Length of the shortest path between Y and Z, ``[*batch]``; its gradient is zero where they coincide.

        Args:
            y: a point.
            z: another one; the batches of both are broadcast.
        """
        return self._number(self._dist_at, y, z)

    def tangent(self, y: Tensor, v: Tensor) -> Tensor:
        """The tangent vector at Y that is nearest to any tensor V."""
        return self._vector(self._tangent_at, y, v)

    def exp(self, y: Tensor, v: Tensor) -> Tensor:
        """The end of the geodesic that leaves Y with velocity V, after one unit of time."""
        return self._vector(self._exp_at, y, v)

    def retract(self, y: Tensor, v: Tensor) -> Tensor:
        """The end of a step along V as the optimizer takes it: `exp`, or to first order or better."""
        return self._vector(self._retract_at, y, v)

    def log(self, y: Tensor, z: Tensor) -> Tensor:
        """The tangent vector at Y whose `exp` is Z: that of the shortest path."""
        return self._vector(self._log_at, y, z)

    def transport(self, y: Tensor, z: Tensor, v: Tensor) -> Tensor:
        """Parallel transport of V from Y to Z along the shortest path.

        Args:
            y: a point.
            z: where to.
            v: a tangent vector at Y.
        """
        return self._vector(self._transport_at, y, z, v)

    def _inner_at(self, y: Tensor, u: Tensor, v: Tensor) -> Tensor:
        self._missing("inner")

    def _dist_at(self, y: Tensor, z: Tensor) -> Tensor:
        self._missing("dist")

    def _tangent_at(self, y: Tensor, v: Tensor) -> Tensor:
        self._missing("tangent")

    def _exp_at(self, y: Tensor, v: Tensor) -> Tensor:
        self._missing("exp")

    def _retract_at(self, y: Tensor, v: Tensor) -> Tensor:
        return self._exp_at(y, v)

    def _log_at(self, y: Tensor, z: Tensor) -> Tensor:
        self._missing("log")

    def _transport_at(self, y: Tensor, z: Tensor, v: Tensor) -> Tensor:
        self._missing("transport")

    def _missing(self, name: str) -> NoReturn:
        raise SpaceError(f"{self} has no `{name}`: {self.lacks}")

    def points(self, stack: Tensor) -> Tensor:
        """See `Space.points`."""
        raise NotImplementedError

    def tensors(self, points: Tensor, shape: torch.Size) -> Tensor:
        """``[B, *batch, *point]`` as ``[B, *shape]``: what `points` does, undone.

        Args:
            points: of parameters of this shape, or of a larger batch.
            shape: of one of the parameters they were made of.
        """
        raise NotImplementedError

    def _number(self, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        return self._anywhere(function, tensors).squeeze(0).to(_common(tensors))

    def _vector(self, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        ends = self._anywhere(function, tensors)
        return self.tensors(ends, tensors[0].shape).squeeze(0).to(_common(tensors))

    def _anywhere(self, function: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> Tensor:
        """The same bits in every surroundings; torch.compile, which traces losses, can leave autocast alone."""
        if not torch.compiler.is_compiling():
            return self._alone(function, tensors)
        with torch.autocast(tensors[0].device.type, enabled=False):
            return function(*self._seen(tensors))

    @isolated
    def _alone(self, function: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> Tensor:
        return function(*self._seen(tensors))

    def _seen(self, tensors: tuple[Tensor, ...]) -> list[Tensor]:
        """Seen as points, in float32 or float64, which all have then."""
        dtype = _common(tensors)
        at_least = torch.promote_types(dtype, torch.float32)
        for tensor in tensors:
            if not (tensor.is_floating_point() or tensor.is_complex()):
                raise SpaceError(f"{self}: points and vectors are floating point tensors, and one is {tensor.dtype}")
            self.check_shape(tensor.shape)
        return [self.points(tensor.unsqueeze(0).to(at_least)) for tensor in tensors]

    def check_shape(self, shape: torch.Size) -> None:
        """See `Space.check_shape`."""
        raise NotImplementedError


def _common(tensors: tuple[Tensor, ...]) -> torch.dtype:
    dtype: Any = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
