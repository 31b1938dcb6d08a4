"""What the symplectic spaces share: shapes, and two forms to keep a point in."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from metrize.ambient import isolated
from metrize.linalg.symplectic import orthosymplectic_polar
from metrize.part import Spec, choice
from metrize.spaces.base import Space, SpaceError
from metrize.spaces.orthonormal import Orthonormal
from metrize.spaces.symplectic_full import LARGEST_STEP, Full
from metrize.spaces.symplectic_paired import Paired


@dataclasses.dataclass(frozen=True)
class Symplectic(Space, abstract=True):
    """Points ``U``, ``2N x 2n``, with ``U^T J U = J``; a subclass says what is the same point.

    The form does the work: `Paired` keeps ``diag(Phi, Phi)``, `Full` any symplectic matrix.
    """

    form: Literal["orthosymplectic", "full"] = "orthosymplectic"
    rows: bool | None = None
    coordinates: Literal["derivative", "lift"] = "derivative"
    max_step: float = 0.5
    max_condition: float = 100.0
    polish_every: int = 20

    matrices: ClassVar[bool] = True

    def __post_init__(self) -> None:
        choice(self, "form", ("orthosymplectic", "full"))
        choice(self, "coordinates", ("derivative", "lift"))
        name = type(self).__name__
        if not 0 < self.max_step < LARGEST_STEP:
            raise ValueError(f"{name}(max_step={self.max_step}): a length above 0 and below {LARGEST_STEP:.4f}")
        if not 1 < self.max_condition < math.inf:
            raise ValueError(f"{name}(max_condition={self.max_condition}): a condition number above 1")
        if self.polish_every < 0:
            raise ValueError(f"{name}(polish_every={self.polish_every}): a number of steps, or 0 for never")
        if self.form == "orthosymplectic":
            self._refuse_idle()

    @property
    def compact(self) -> bool:  # type: ignore[override]  # of the form, and not of the class
        return self._geometry.compact

    def check_shape(self, shape: torch.Size) -> None:
        name = type(self).__name__
        if len(shape) < 2:
            raise SpaceError(f"{name} holds matrices, and this tensor has shape {tuple(shape)}; leave it free")
        size = f"a {shape[-2]} x {shape[-1]} matrix"
        if shape[-2] % 2 or shape[-1] % 2:
            raise SpaceError(
                f"{size} cannot be symplectic: rows and columns come in pairs, positions above momenta; "
                "choose even sizes or leave it free"
            )
        tall, narrow = self._matrix(shape)[-2:]
        if narrow > tall:
            side = "rows" if self.rows else "columns"
            raise SpaceError(
                f"{size} has no symplectic {side}: there are more of them than they have entries; "
                f"use rows={not self.rows} or leave rows to the shape"
            )
        if narrow == 0:
            raise SpaceError(f"shape {tuple(shape)} holds no matrix with entries")

    def batch_shape(self, shape: torch.Size) -> tuple[int, ...]:
        return tuple(shape[:-2])

    def dim(self, shape: torch.Size) -> int:
        return self._geometry.dim(self._matrix(shape))

    def points(self, stack: Tensor) -> Tensor:
        return stack.mT if self._wide(stack.shape) else stack

    def state_spec(self, shape: torch.Size, dtype: torch.dtype) -> Spec:
        return self._geometry.state_spec(self._matrix(shape), dtype)

    def init_state(self, points: Tensor, state: dict[str, Tensor]) -> None:
        self._geometry.init_state(points, state)

    def section_at(self, points: Tensor, state: dict[str, Tensor]) -> Any:
        return self._geometry.section_at(points, state)

    def turn(self, section: Any) -> Callable[[Tensor], Tensor] | None:
        return self._geometry.turn(section)

    def lift(self, points: Tensor, grad: Tensor, section: Any) -> Tensor:
        return self._geometry.lift(points, grad, section)

    def framed(self, coords: Tensor) -> Tensor:
        return self._geometry.framed(coords)

    def move_(self, points: Tensor, velocity: Tensor, section: Any, state: dict[str, Tensor]) -> None:
        self._geometry.move_(points, velocity, section, state)

    def shrink_(self, points: Tensor, factor: float | Tensor) -> None:
        self._geometry.shrink_(points, factor)

    def sq_norm(self, coords: Tensor) -> Tensor:
        return self._geometry.sq_norm(coords)

    def project(self, points: Tensor) -> Tensor:
        return self._geometry.project(points)

    def torn(self, points: Tensor) -> Tensor:
        return self._geometry.torn(points)

    def error(self, points: Tensor) -> Tensor:
        return self._geometry.error(points)

    def tolerance(self, shape: torch.Size, dtype: torch.dtype) -> float:
        return self._geometry.tolerance(self._matrix(shape), dtype)

    def polish_(self, points: Tensor, steps: Tensor, state: dict[str, Tensor]) -> None:
        self._geometry.polish_(points, steps, state)

    @isolated
    @torch.no_grad()
    def random_(self, tensor: Tensor, generator: torch.Generator) -> Tensor:
        """Fill a whole parameter with a random point, in place.

        In the orthosymplectic form Phi is uniform (Haar). The full form knows no uniform measure, as its space is not
        compact; the draw is uniform over the orthosymplectic matrices ``[[A, -C], [C, A]]``, the best conditioned
        points there are.

        Args:
            tensor: of a shape the space can hold.
            generator: the only source of randomness; the draw is made on its device, in double precision.

        Raises:
            SpaceError: the space cannot hold this tensor.
        """
        if self.form == "orthosymplectic":
            return super().random_(tensor, generator)
        self.check(tensor)
        gauss = torch.randn(tensor.shape, generator=generator, dtype=torch.float64, device=generator.device)
        points = self.points(gauss.unsqueeze(0))
        points.copy_(orthosymplectic_polar(points))
        return tensor.copy_(gauss)

    def _twin(self) -> Orthonormal:
        """The space of Phi."""
        raise NotImplementedError

    @functools.cached_property
    def _geometry(self) -> Paired | Full:
        if self.form == "orthosymplectic":
            return Paired(self._twin())
        return Full(self._twin(), self.coordinates, self.max_step, self.max_condition, self.polish_every)

    def _refuse_idle(self) -> None:
        for field in dataclasses.fields(self):
            idle = field.name in ("coordinates", "max_step", "max_condition")
            if idle and getattr(self, field.name) != field.default:
                raise ValueError(
                    f"{type(self).__name__}({field.name}={getattr(self, field.name)!r}): only the full form has a use "
                    "for it; add form='full' or leave it out"
                )

    def _wide(self, shape: torch.Size) -> bool:
        return shape[-2] < shape[-1] if self.rows is None else self.rows

    def _matrix(self, shape: torch.Size) -> torch.Size:
        """The shape of the points, without regard to whether 2N >= 2n."""
        return torch.Size((*shape[:-2], shape[-1], shape[-2])) if self._wide(shape) else shape
