"""The orthosymplectic form: ``diag(Phi, Phi)``, which is as much as Phi."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from metrize.linalg.symplectic import quarters
from metrize.part import Spec
from metrize.spaces.orthonormal import Orthonormal


@dataclasses.dataclass(frozen=True)
class Paired:
    """Symplectic points ``diag(Phi, Phi)``, and Phi a point of the twin space.

    Coordinates are Phi's, in the upper left block, and zero elsewhere: nothing is counted twice.

    Args:
        twin: the space of Phi, whose columns are orthonormal.
    """

    twin: Orthonormal

    compact: ClassVar[bool] = True

    def dim(self, shape: torch.Size) -> int:
        return self.twin.dim(_half(shape))

    def state_spec(self, shape: torch.Size, dtype: torch.dtype) -> Spec:
        return self.twin.state_spec(_half(shape), dtype)

    def init_state(self, points: Tensor, state: dict[str, Tensor]) -> None:
        self.twin.init_state(_phi(points), state)

    def section_at(self, points: Tensor, state: dict[str, Tensor]) -> Any:
        return self.twin.section_at(_phi(points), state)

    def turn(self, section: Any) -> Callable[[Tensor], Tensor] | None:
        turn = self.twin.turn(section)
        return None if turn is None else lambda coords: _corner(turn(_phi(coords)))

    def lift(self, points: Tensor, grad: Tensor, section: Any) -> Tensor:
        upper, _, _, lower = quarters(grad)
        return _corner(self.twin.lift(_phi(points), upper + lower, section))

    def framed(self, coords: Tensor) -> Tensor:
        return self.twin.framed(_phi(coords))

    def move_(self, points: Tensor, velocity: Tensor, section: Any, state: dict[str, Tensor]) -> None:
        phi = _phi(points).contiguous()
        self.twin.move_(phi, _phi(velocity), section, state)
        _pair_(points, phi)

    def shrink_(self, points: Tensor, factor: float | Tensor) -> None:
        """Nothing: the norm of a point is constant."""

    def sq_norm(self, coords: Tensor) -> Tensor:
        return self.twin.sq_norm(_phi(coords))

    def project(self, points: Tensor) -> Tensor:
        upper, _, _, lower = quarters(points)
        return _pair_(torch.zeros_like(points), self.twin.project(upper + lower))

    def torn(self, points: Tensor) -> Tensor:
        upper, _, _, lower = quarters(points)
        return self.twin.torn(upper + lower)

    def error(self, points: Tensor) -> Tensor:
        upper, b, c, lower = quarters(points)
        strays = torch.linalg.matrix_norm(torch.stack([upper - lower, b, c])).square().sum(0)
        return (self.twin.error(upper).square() + strays).sqrt()

    def tolerance(self, shape: torch.Size, dtype: torch.dtype) -> float:
        return self.twin.tolerance(_half(shape), dtype)

    def polishes(self, steps: Tensor) -> Tensor:
        return self.twin.polishes(steps)

    def polish_(self, points: Tensor, steps: Tensor, state: dict[str, Tensor]) -> None:
        phi = _phi(points).contiguous()
        self.twin.polish_(phi, steps, state)
        _pair_(points, phi)


def _half(shape: torch.Size) -> torch.Size:
    return torch.Size((*shape[:-2], shape[-2] // 2, shape[-1] // 2))


def _phi(points: Tensor) -> Tensor:
    return quarters(points)[0]


def _corner(coords: Tensor) -> Tensor:
    """Coordinates of Phi in the shape of the point."""
    rows, columns = coords.shape[-2:]
    return torch.nn.functional.pad(coords, (0, columns, 0, rows))


def _pair_(points: Tensor, phi: Tensor) -> Tensor:
    """Write ``diag(Phi, Phi)``, so that the two are equal to the last bit."""
    upper, b, c, lower = quarters(points)
    upper.copy_(phi)
    lower.copy_(phi)
    b.zero_()
    c.zero_()
    return points
