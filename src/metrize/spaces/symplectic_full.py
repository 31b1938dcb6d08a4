"""The full form: any symplectic matrix, behind safeguards."""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor

from metrize.linalg.polar import rank_deficient
from metrize.linalg.symplectic import (
    adjoint,
    complex_part,
    condition,
    condition_bound,
    from_quarters,
    hamiltonian,
    orthosymplectic_polar,
    symplectic_complement,
    symplectic_polar,
    symplectic_polish,
    symplectic_residual,
    times_j,
)
from metrize.part import Spec
from metrize.spaces.base import compute_dtype
from metrize.spaces.grassmann import Grassmann
from metrize.spaces.orthonormal import Orthonormal
from metrize.spaces.retractions import cayley
from metrize.spaces.shortened import shortened

LARGEST_STEP = math.sqrt(2)  # below it ||S||_2 <= ||a||_2 / 2 + ||b||_2^2 / 4 < 1, so that I - S is invertible
_NEAR = 0.9  # ||U^+ U - I|| from which Newton's iteration is sure to converge


@dataclasses.dataclass(frozen=True)
class Section:
    """The complement Up that is kept, ``[..., 2N, 2(N - n)]``.

    Args:
        complement: a view of the state.
        change: ``S = Up_new^+ Up_old``, where some were renewed in this step.
    """

    complement: Tensor
    change: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class Full:
    """Symplectic points U with a stored complement Up: ``L = [U, Up]`` is symplectic and takes E to U.

    A velocity is ``L [[a, -b^+], [b, 0]] L^-1`` with a Hamiltonian (``a^+ = -a``) and b free, stored as a above b.

    Args:
        twin: the compact space whose formulas hold here with ``T`` read as ``+``: `Stiefel`, or `Grassmann` where only
            b moves a point.
        coordinates: of a gradient: ``"derivative"`` or ``"lift"``.
        max_step: longest velocity, in ``sqrt(||a||^2 / 2 + ||b||^2)``.
        max_condition: largest condition number of L.
        polish_every: steps between two Newton steps, and between two renewals of the complement.
    """

    twin: Orthonormal
    coordinates: Literal["derivative", "lift"]
    max_step: float
    max_condition: float
    polish_every: int

    compact: ClassVar[bool] = False

    def dim(self, shape: torch.Size) -> int:
        rows, columns = shape[-2:]
        inside = 0 if self._horizontal else columns * (columns + 1) // 2
        return inside + (rows - columns) * columns

    def state_spec(self, shape: torch.Size, dtype: torch.dtype) -> Spec:
        *batch, rows, columns = shape
        spec: Spec = {"refused_steps": (tuple(batch), torch.int32)}
        return spec if rows == columns else spec | {"section": ((*batch, rows, rows - columns), compute_dtype(dtype))}

    def init_state(self, points: Tensor, state: dict[str, Tensor]) -> None:
        if "section" in state:
            section = state["section"]
            section.copy_(symplectic_complement(points.to(section.dtype), _axes(section)))

    def section_at(self, points: Tensor, state: dict[str, Tensor]) -> Section:
        """The kept complement, renewed at every polish: the nearest one of the least norm there is for its point.

        What is transported around a loop comes back changed, and on a group that is not compact such changes grow:
        sections that were only transported became ill-conditioned at points that were not.
        """
        if "section" not in state:
            return Section(points[..., :0])
        kept, due = state["section"], self._due(state["step"])
        if not due.any():
            return Section(kept)
        before, kept[due] = kept.clone(), self._renewed(points[due], kept[due])
        change = torch.eye(kept.shape[-1], dtype=kept.dtype, device=kept.device).repeat(*kept.shape[:-2], 1, 1)
        change[due] = adjoint(kept[due]) @ before[due]
        return Section(kept, change)

    def turn(self, section: Section) -> Callable[[Tensor], Tensor] | None:
        if section.change is None:
            return None
        # the b of a velocity turns by S, that of a derivative by the inverse transpose of S
        change = section.change if self.coordinates == "lift" else adjoint(section.change).mT
        return functools.partial(_turned, change)

    def lift(self, points: Tensor, grad: Tensor, section: Section) -> Tensor:
        if self.coordinates == "lift":
            tangent = gradient(points, grad)
            a, b = adjoint(points) @ tangent, adjoint(section.complement) @ tangent
        else:
            a, b = 2 * hamiltonian(points.mT @ grad), section.complement.mT @ grad
        return torch.cat([torch.zeros_like(a) if self._horizontal else a, b], -2)

    def framed(self, coords: Tensor) -> Tensor:
        return self.twin.framed(coords)

    def move_(self, points: Tensor, velocity: Tensor, section: Section, state: dict[str, Tensor]) -> None:
        a, b = _split(self._shortened(velocity))
        a = torch.zeros_like(a) if self._horizontal else hamiltonian(a)
        b_adjoint = adjoint(b)
        # the Cayley transform of `Stiefel` with T read as +; a and b enter by a / 2 - b^+ b / 4 alone
        increment, drag = cayley(points, section.complement @ b, a - b_adjoint @ b / 2, None)
        now, moves = [points, section.complement], [increment, -(drag() @ b_adjoint)]
        verdict = self._worse(now, [part + move for part, move in zip(now, moves, strict=True)])
        if verdict is not None:
            refused, seen = verdict
            self._count(refused, seen, state["refused_steps"])
            moves = [torch.where(refused[..., None, None], 0, move) for move in moves]
        for part, move in zip(now, moves, strict=True):
            part.add_(move)

    def shrink_(self, points: Tensor, factor: float | Tensor) -> None:
        """Nothing, and a warning: a multiple of a symplectic matrix is not symplectic."""
        warnings.warn(
            "decoupled weight decay does nothing to a symplectic matrix of the full form, since a multiple of one is "
            "not symplectic; decay='l2' draws it toward orthonormal columns",
            UserWarning,
            stacklevel=2,
        )

    def sq_norm(self, coords: Tensor) -> Tensor:
        return self.twin.sq_norm(coords)

    def project(self, points: Tensor) -> Tensor:
        near = (self.error(points) < _NEAR)[..., None, None]
        inside = torch.where(near, points, 0)  # what is not near would grow without bound
        return torch.where(near, symplectic_polar(inside), orthosymplectic_polar(points))

    def torn(self, points: Tensor) -> Tensor:
        return (self.error(points) >= _NEAR) & rank_deficient(complex_part(points))

    def error(self, points: Tensor) -> Tensor:
        return torch.linalg.matrix_norm(symplectic_residual(points))

    def tolerance(self, shape: torch.Size, dtype: torch.dtype) -> float:
        return self.twin.tolerance(shape, dtype)

    def polishes(self, steps: Tensor) -> Tensor:
        return self._due(steps) | ((steps <= 3) & (self.polish_every > 0))  # the first steps too, as on `Orthonormal`

    def polish_(self, points: Tensor, steps: Tensor, state: dict[str, Tensor]) -> None:
        due = self.polishes(steps).nonzero().flatten().tolist()
        for i in [slice(None)] if len(due) == len(steps) else due:
            points[i] = symplectic_polish(points[i])
            if "section" in state:
                u, kept = points[i], state["section"][i]
                state["section"][i] = symplectic_polish(kept - u @ (adjoint(u) @ kept))

    @property
    def _horizontal(self) -> bool:
        return isinstance(self.twin, Grassmann)

    def _due(self, steps: Tensor) -> Tensor:
        return steps % self.polish_every == 0 if self.polish_every else torch.zeros_like(steps, dtype=torch.bool)

    def _renewed(self, u: Tensor, kept: Tensor) -> Tensor:
        """The nearest complement of least Frobenius norm, but where the limit, of another norm, would be broken."""
        fresh = symplectic_complement(u, kept)
        verdict = self._worse([u, kept], [u, fresh])
        return fresh if verdict is None else torch.where(verdict[0][..., None, None], kept, fresh)

    def _shortened(self, velocity: Tensor) -> Tensor:
        return shortened(velocity, self.max_step, lambda v: self.sq_norm(v)[..., None, None])

    def _worse(self, now: list[Tensor], after: list[Tensor]) -> tuple[Tensor, Tensor] | None:
        """Which sections ``[B, *batch]`` are conditioned worse than allowed and than now, and how; None: no suspect."""
        seen = condition_bound(after)
        suspect = seen > self.max_condition
        if not suspect.any():
            return None
        # only now the exact numbers, for singular values are costly
        was, seen[suspect] = (condition([part[suspect] for part in parts]) for parts in (now, after))
        worse = suspect.clone()
        worse[suspect] = (seen[suspect] > self.max_condition) & (seen[suspect] > was)
        return worse, seen

    def _count(self, refused: Tensor, seen: Tensor, refused_steps: Tensor) -> None:
        """Count refused steps, and tell of the first of each matrix."""
        first = refused & (refused_steps == 0)
        refused_steps.add_(refused)
        if first.any():
            warnings.warn(self._refusal(seen[first]), RuntimeWarning, stacklevel=2)

    def _refusal(self, seen: Tensor) -> str:
        return (
            f"the step of {len(seen)} symplectic matrices was not taken: it leads to a condition number of "
            f"{float(seen.max()):.4g} of point and section, and max_condition is {self.max_condition:g} (every such "
            "step is counted in the state's 'refused_steps', and only the first of a matrix is told). Lower lr, add "
            "weight decay in the l2 convention, raise max_condition, or use form='orthosymplectic'"
        )


def gradient(u: Tensor, g: Tensor) -> Tensor:
    """The Riemannian gradient ``G U^T U + J U G^T J U`` of Bendokat and Zimmermann, ``[..., 2N, 2n]``."""
    ju = times_j(u)
    return g @ (u.mT @ u) + ju @ (g.mT @ ju)


def _split(coords: Tensor) -> tuple[Tensor, Tensor]:
    """The blocks a and b of coordinates."""
    n = coords.shape[-1]
    return coords[..., :n, :], coords[..., n:, :]


def _turned(change: Tensor, coords: Tensor) -> Tensor:
    """The same velocity or derivative in terms of the renewed section."""
    a, b = _split(coords)
    return torch.cat([a, change @ b], -2)


def _axes(section: Tensor) -> Tensor:
    """The columns that complete E, ``[2N, 2(N - n)]``: the last N - n of the positions and of the momenta."""
    half, rest = section.shape[-2] // 2, section.shape[-1] // 2
    positions = torch.eye(half, dtype=section.dtype, device=section.device)[:, half - rest :]
    nothing = torch.zeros_like(positions)
    return from_quarters(positions, nothing, nothing, positions)
