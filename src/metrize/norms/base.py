"""The contract of a norm."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from metrize.norms.layout import Layout
from metrize.part import Part, parse, stands_for


@dataclasses.dataclass(frozen=True)
class Norm(Part, abstract=True):
    """A norm of one parameter, with its duality map.

    The dual norm is ``||G||* = max <G, T>`` over ``||T|| <= 1``, and the duality map gives the T where the maximum is
    reached. Tensors are ``[B, *shape]``, B parameters of one shape; results are in float32, or float64 where the input
    is. A norm is a pure function: zero maps to zero, and ``dual(c G)`` has the direction of ``dual(G)`` for c > 0.
    """

    elementwise: ClassVar[bool] = False
    """Whether an entry's direction depends on that entry alone."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """A subclass with a duality map of its own does not inherit the shorter ways of another map."""
        super().__init_subclass__(**kwargs)
        own: Any = cls
        for shorter in ("direction", "dual_norm"):
            if not stands_for(own, shorter, "dual"):
                setattr(cls, shorter, getattr(Norm, shorter))

    def check(self, shape: Sequence[int]) -> None:
        """Refuse the shape of a parameter that this norm cannot measure.

        Raises:
            ValueError: with the shape and the reason.
        """

    def dual(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The direction, of norm 1 or zero where x is, and the dual norm.

        Args:
            x: ``[B, *shape]``.

        Returns:
            A new tensor shaped as x, and ``[B]``.
        """
        raise NotImplementedError

    def direction(self, x: Tensor) -> Tensor:
        """The direction of `dual` alone, where it comes cheaper."""
        return self.dual(x)[0]

    def dual_norm(self, x: Tensor) -> Tensor:
        """The dual norm of `dual` alone, where it comes cheaper; in float64 where it is a sum over rows."""
        return self.dual(x)[1]

    def norm(self, x: Tensor) -> Tensor:
        """The norm of each parameter in ``x`` ``[B, *shape]``: ``[B]``."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class MatrixNorm(Norm, abstract=True):
    """A norm of linear maps, divided by a factor f that depends on their shape.

    A parameter that holds several matrices has the largest of their norms, and the sum of their dual norms.
    """

    layout: Layout = dataclasses.field(default_factory=Layout, kw_only=True)

    matrices: ClassVar[bool] = True

    def check(self, shape: Sequence[int]) -> None:
        self.layout.check(shape)

    def dual(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = [self._scaled_dual(piece, x) for piece in self.layout.pieces(widened(x))]
        direction = self.layout.assemble([direction for direction, _ in found], x)
        return direction, torch.stack([dual.reshape(len(x), -1).sum(1) for _, dual in found]).sum(0)

    def direction(self, x: Tensor) -> Tensor:
        pieces = self.layout.pieces(widened(x))
        return self.layout.assemble([self._direction(p).mul_(self._factor_of(p, x)) for p in pieces], x)

    def norm(self, x: Tensor) -> Tensor:
        pieces = self.layout.pieces(widened(x))
        norms = [self._norm(piece).reshape(len(x), -1).amax(1) / self._factor_of(piece, x) for piece in pieces]
        return torch.stack(norms).amax(0)

    def factor(self, outputs: int, inputs: int, kernel: int) -> float:
        """``f``: what the plain direction is multiplied by and the plain norm divided by.

        Args:
            outputs: rows of the matrix.
            inputs: columns of the matrix.
            kernel: see `Layout.kernel`.
        """
        return 1.0

    def _scaled_dual(self, matrices: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        direction, dual = self._dual(matrices)
        factor = self._factor_of(matrices, x)
        return direction.mul_(factor), dual * factor

    def _factor_of(self, matrices: Tensor, x: Tensor) -> float:
        return self.factor(matrices.shape[-2], matrices.shape[-1], self.layout.kernel(x.shape[1:]))

    def _dual(self, matrices: Tensor) -> tuple[Tensor, Tensor]:
        """Plain direction (a new tensor) and dual norms ``[...]`` of ``[..., m, n]``."""
        raise NotImplementedError

    def _direction(self, matrices: Tensor) -> Tensor:
        """The direction of `_dual` alone."""
        return self._dual(matrices)[0]

    def _norm(self, matrices: Tensor) -> Tensor:
        """Plain norms ``[...]`` of ``[..., m, n]``."""
        raise NotImplementedError


def check_eps(norm: Any) -> None:
    """Refuse a negative ``eps``.

    Raises:
        ValueError: naming the norm and the value.
    """
    if not norm.eps >= 0:
        raise ValueError(f"{type(norm).__name__}(eps={norm.eps}): a number of at least 0")


def damped(direction: Tensor, length: Tensor, eps: float, entries: int) -> Tensor:
    """Unit vectors, in place, as if `eps` had been added to the root mean square of their entries before the division.

    Args:
        direction: unit vectors.
        length: of the vectors they came from, shaped to multiply them.
        eps: 0 changes nothing.
        entries: of one vector.
    """
    return direction.mul_(length / (length + eps * math.sqrt(entries))) if eps else direction


def widened(x: Tensor) -> Tensor:
    """In float32, or float64 where x is.

    Raises:
        TypeError: complex numbers.
    """
    if x.is_complex():
        raise TypeError(f"norms measure real tensors, and this one is {x.dtype}; take torch.view_as_real of it")
    return x.to(torch.promote_types(x.dtype, torch.float32))


def parse_norm(text: str) -> Norm:
    """Read a norm from text such as ``"Spectral()"``.

    Raises:
        ValueError: it is no such text, or names something other than a norm.
    """
    part = parse(text)
    if not isinstance(part, Norm):
        raise ValueError(f"{text!r} is a {type(part).__name__}, not a norm such as 'Spectral()'")
    return part
