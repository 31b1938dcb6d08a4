"""What the spaces of matrices with orthonormal columns share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from metrize.linalg import newton_schulz_polish, polar, skew
from metrize.linalg.polar import rank_deficient, residual
from metrize.part import Spec, choice
from metrize.spaces.base import Space, SpaceError, compute_dtype
from metrize.spaces.retractions import RETRACTIONS, Drag
from metrize.spaces.sections import ClosedForm, Stored, dense_complement, random_complement
from metrize.spaces.shortened import shortened, sq_reach

_FAR = 0.5  # radians in one direction, of which a step loses in rounding about what a polish leaves


@dataclasses.dataclass(frozen=True)
class Orthonormal(Space, abstract=True):
    """Points with orthonormal columns, ``Y^T Y = I``, each `blocks`-th part of the rows or columns of a weight.

    A subclass says what its coordinates (A above B, see `Stiefel`) and their metric are, and how they retract.
    """

    rows: bool | None = None
    blocks: int = 1
    retraction: Literal["cayley", "geodesic"] = "cayley"
    section: Literal["closed-form", "transported", "redrawn"] = "closed-form"
    polish_every: int = 20

    matrices: ClassVar[bool] = True
    compact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        choice(self, "retraction", tuple(RETRACTIONS))
        choice(self, "section", ("closed-form", "transported", "redrawn"))
        name = type(self).__name__
        if self.blocks < 1:
            raise ValueError(f"{name}(blocks={self.blocks}): blocks counts matrices, so it is at least 1")
        if self.polish_every < 0:
            raise ValueError(f"{name}(polish_every={self.polish_every}): a number of steps, or 0 for never")

    def check_shape(self, shape: torch.Size) -> None:
        if len(shape) < 2:
            raise SpaceError(
                f"{type(self).__name__} holds matrices, and this tensor has shape {tuple(shape)}; "
                "give it two dimensions, such as (N, 1) for a unit vector, or leave it free"
            )
        if shape[-2] % self.blocks:
            raise SpaceError(f"shape {tuple(shape)} cannot be cut into blocks={self.blocks} equal matrices by rows")
        tall, narrow = self._matrix(shape)
        if narrow > tall:
            side = "rows" if self.rows else "columns"
            raise SpaceError(
                f"a {self._block(shape)} matrix has no orthonormal {side}: there are more of them than they have "
                f"entries; use rows={not self.rows} or leave rows to the shape"
            )
        if narrow == 0:
            raise SpaceError(f"shape {tuple(shape)} holds no matrix with entries")

    def batch_shape(self, shape: torch.Size) -> tuple[int, ...]:
        return (*shape[:-2], self.blocks) if self.blocks > 1 else tuple(shape[:-2])

    def points(self, stack: Tensor) -> Tensor:
        if self.blocks > 1:
            stack = stack.view(*stack.shape[:-2], self.blocks, *self._block(stack.shape))
        return stack.mT if self._wide(stack.shape) else stack

    def state_spec(self, shape: torch.Size, dtype: torch.dtype) -> Spec:
        rows, n = self._matrix(shape)
        batch = self.batch_shape(shape)
        if rows == n or self.section == "redrawn":
            return {}
        if self.section == "transported":
            return {"section": ((*batch, rows, rows - n), compute_dtype(dtype))}
        return {"signs": ((*batch, n), torch.int8)}

    def init_state(self, points: Tensor, state: dict[str, Tensor]) -> None:
        if "section" in state:
            state["section"].copy_(dense_complement(points))
        if "signs" in state:
            state["signs"].fill_(1)

    def section_at(self, points: Tensor, state: dict[str, Tensor]) -> ClosedForm | Stored | None:
        if points.shape[-2] == points.shape[-1]:
            return None
        if "section" in state:
            return Stored(state["section"])
        if "signs" in state:
            section = ClosedForm.at(points, state["signs"].to(points.dtype))
            state["signs"].copy_(section.signs)
            return section
        drawn = [
            random_complement(y, torch.Generator().manual_seed(int(step)))
            for y, step in zip(points, state["step"].tolist(), strict=True)
        ]
        return Stored(torch.stack(drawn))

    def turn(self, section: ClosedForm | Stored | None) -> Callable[[Tensor], Tensor] | None:
        return section.turn if isinstance(section, ClosedForm) and section.before is not None else None

    def framed(self, coords: Tensor) -> Tensor:
        return coords[..., coords.shape[-1] :, :]  # B; the axes of A are those of Y itself

    def move_(self, points: Tensor, velocity: Tensor, section: Any, state: dict[str, Tensor]) -> None:
        velocity = shortened(velocity)
        self._travel_(points, velocity, section, state)
        if self.polish_every:
            self._settle_(points, velocity, state)

    def _travel_(self, points: Tensor, velocity: Tensor, section: Any, state: dict[str, Tensor]) -> None:
        n = points.shape[-1]
        a, b = velocity[..., :n, :], velocity[..., n:, :] if section is not None else None
        pushed = None if b is None else section.push(b)
        increment, drag = self._retract(points, pushed, a, b)
        if b is not None and "section" in state:
            state["section"].sub_(drag() @ b.mT)
        points.add_(increment)

    def project(self, points: Tensor) -> Tensor:
        return newton_schulz_polish(polar(points))  # the SVD alone leaves a few roundings

    def torn(self, points: Tensor) -> Tensor:
        return rank_deficient(points)

    def error(self, points: Tensor) -> Tensor:
        return torch.linalg.matrix_norm(residual(points))

    def tolerance(self, shape: torch.Size, dtype: torch.dtype) -> float:
        # what the polishes of the first steps remove: they square the error
        return math.sqrt(min(self._matrix(shape)) * max(torch.finfo(dtype).eps, 1e-10))

    def polish_(self, points: Tensor, steps: Tensor, state: dict[str, Tensor]) -> None:
        if not self.polish_every:
            return
        # the first steps too: a 16-bit parameter starts a percent off, and each polish squares the error
        due = ((steps % self.polish_every == 0) | (steps <= 3)).nonzero().flatten().tolist()
        for i in [slice(None)] if len(due) == len(steps) else due:
            points[i] = newton_schulz_polish(points[i])
            if "section" in state:
                state["section"][i] = _completing(points[i], state["section"][i])

    def _settle_(self, points: Tensor, velocity: Tensor, state: dict[str, Tensor]) -> None:
        """Remove at once what long steps lose in rounding, up to a part in a thousand; short ones keep every bit."""
        host = points.device.type == "cpu"  # elsewhere the questions would wait for the device
        if host and float(torch.linalg.vector_norm(velocity)) <= _FAR:
            return
        far = sq_reach(velocity) > _FAR**2
        if host and not far.any():
            return
        points.copy_(torch.where(far, newton_schulz_polish(points), points))
        if "section" in state:
            section = state["section"]
            section.copy_(torch.where(far, _completing(points, section), section))

    def _retract(self, y: Tensor, pushed: Tensor | None, a: Tensor, b: Tensor | None) -> tuple[Tensor, Drag]:
        """Increment and drag of the points, as in `metrize.spaces.retractions`."""
        return RETRACTIONS[self.retraction](y, pushed, skew(a), b)

    def _block(self, shape: torch.Size) -> tuple[int, int]:
        return shape[-2] // self.blocks, shape[-1]

    def _wide(self, matrix_shape: torch.Size) -> bool:
        return matrix_shape[-2] < matrix_shape[-1] if self.rows is None else self.rows

    def _matrix(self, shape: torch.Size) -> tuple[int, int]:
        """(N, n) of one point, without regard to whether N >= n."""
        rows, columns = self._block(shape)
        return (columns, rows) if self._wide(torch.Size((rows, columns))) else (rows, columns)


def _completing(y: Tensor, section: Tensor) -> Tensor:
    """A kept complement ``[..., N, N - n]``, polished for the points ``[..., N, n]``."""
    return newton_schulz_polish(section - y @ (y.mT @ section))
