"""What low-rank frames share: a basis of some dimensions of a tensor, and averages kept in its coordinates."""

from __future__ import annotations

import functools
import math
from typing import ClassVar

import torch
from torch import Tensor

from metrize.frames.base import Carry, Frame
from metrize.frames.refresh import due, renewed, without_basis
from metrize.part import Spec, choice

_OPTIONS = {"carry": ("root", "squares", "linear"), "dtype": ("bfloat16", "float32", "float64")}


class Subspace(Frame, abstract=True):
    """A frame that keeps averages in a subspace: ``A = Q0^T G Q1``, with a basis Q for each projected dimension.

    A subclass is a dataclass with the fields named here, and says which dimensions it projects (`ranks`) and how a
    basis is made of a gradient (`find`). Tensors without such a dimension keep their own coordinates.
    """

    moves: ClassVar[bool] = True

    period: int
    scale: float
    carry: str | None
    stagger: bool
    dtype: str | None

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.period < 1:
            raise ValueError(f"{name}(period={self.period}): steps between two refreshes, at least 1")
        if not self.scale > 0:
            raise ValueError(f"{name}(scale={self.scale}): a factor above 0")
        for option, allowed in _OPTIONS.items():
            if getattr(self, option) is not None:
                choice(self, option, allowed)

    def ranks(self, shape: torch.Size) -> dict[int, int]:
        """The projected dimensions of a tensor and their ranks; empty: this tensor keeps its own coordinates."""
        raise NotImplementedError

    def find(self, grad: Tensor, state: dict[str, Tensor]) -> dict[int, Tensor]:
        """A basis ``[d, r]`` for each projected dimension.

        Args:
            grad: of one member, neither zero nor infinite.
            state: of that member, the old basis and all.
        """
        raise NotImplementedError

    def shape(self, shape: torch.Size) -> torch.Size:
        kept = self.ranks(shape)
        return torch.Size(kept.get(dim, size) for dim, size in enumerate(shape))

    def state_spec(self, shape: torch.Size, dtype: torch.dtype) -> Spec:
        kept = self.ranks(shape)
        if not kept:
            return {}
        stored = dtype if self.dtype is None else getattr(torch, self.dtype)
        counts = ("failures", "phase") if self.stagger else ("failures",)
        bases: Spec = {_key(dim): ((shape[dim], rank), stored) for dim, rank in kept.items()}
        return bases | dict.fromkeys(counts, ((), torch.int64))

    def cost(self, shape: torch.Size) -> float:
        return math.prod(shape) * sum(self.ranks(shape).values())

    def work(self, shape: torch.Size) -> float:
        return 2 * self.cost(shape)

    def open(self, coords: Tensor, state: dict[str, Tensor], carry: Carry) -> None:
        if self.ranks(coords.shape[1:]):
            members = self.members(state)
            if members:
                self.refresh(members, coords, state, carry)

    def members(self, state: dict[str, Tensor]) -> list[int]:
        """Whose basis is refreshed before this step."""
        return sorted({*without_basis(state), *due(state, self.period)})

    def refresh(self, members: list[int], coords: Tensor, state: dict[str, Tensor], carry: Carry) -> None:
        """Compute new bases for these members."""
        before = self.bases(coords, state, members) if self.carry else {}
        for i in members:
            row = {key: value[i] for key, value in state.items()}
            found = renewed(functools.partial(self.find, state=row), coords[i], state["failures"][i], i)
            if found is not None:
                self.keep([i], {dim: basis.unsqueeze(0) for dim, basis in found.items()}, state)
        if self.carry:
            self.take_along(members, before, self.bases(coords, state, members), carry)

    def keep(self, members: list[int], bases: dict[int, Tensor], state: dict[str, Tensor]) -> None:
        """Store the bases ``[len(members), d, r]`` of these members."""
        for dim, basis in bases.items():
            stored = state[_key(dim)]
            stored[members] = basis.to(stored.dtype)

    def take_along(self, members: list[int], before: dict[int, Tensor], after: dict[int, Tensor], carry: Carry) -> None:
        """Bring the averages of these members into the coordinates of their new bases."""
        for at, member in enumerate(members):
            turns = {dim: basis[at : at + 1].mT @ after[dim][at : at + 1] for dim, basis in before.items()}
            carry("linear", functools.partial(project, bases=turns), member)
            if self.carry != "linear":
                carry("square", functools.partial(self._squares, turns=turns), member)

    def _squares(self, average: Tensor, turns: dict[int, Tensor]) -> Tensor:
        if self.carry == "root":
            return project(average.clamp(min=0).sqrt_(), turns).square_()
        return project(average, {dim: turn.square() for dim, turn in turns.items()})

    def enter(self, coords: Tensor, state: dict[str, Tensor]) -> Tensor:
        return project(coords, self.bases(coords, state))

    def leave(self, direction: Tensor, state: dict[str, Tensor], coords: Tensor) -> Tensor:
        bases = self.bases(coords, state)
        if not bases:
            return direction
        return expand(direction if self.scale == 1 else direction * self.scale, bases)

    def move_(
        self, points: Tensor, direction: Tensor, rate: float | Tensor, state: dict[str, Tensor], coords: Tensor
    ) -> None:
        bases = self.bases(coords, state)
        if len(bases) != 1 or points.ndim != 3:
            points.sub_(self.leave(direction * rate, state, coords))
            return
        ((dim, basis),) = bases.items()
        step = direction * (rate * self.scale)
        # the product is added where the parameter lies: nothing else of a step has its size
        points.baddbmm_(*((step, basis.mT) if dim else (basis, step)), alpha=-1)

    def bases(
        self, coords: Tensor, state: dict[str, Tensor], members: list[int] | slice = slice(None)
    ) -> dict[int, Tensor]:
        """The basis ``[B, d, r]`` of each projected dimension, in the dtype of the coordinates."""
        return {dim: state[_key(dim)][members].to(coords.dtype) for dim in self.ranks(coords.shape[1:])}

    def member_bases(self, grad: Tensor, state: dict[str, Tensor]) -> dict[int, Tensor]:
        """As `bases`, ``[d, r]``, of one member."""
        return {dim: state[_key(dim)].to(grad.dtype) for dim in self.ranks(grad.shape)}


def matrix_sides(shape: torch.Size, rank: int, side: str) -> dict[int, int]:
    """The dimensions that `side` means for a matrix, with their rank; none for other tensors or too large a rank.

    Args:
        shape: ``[m, n]``.
        rank: at most ``min(m, n)``.
        side: ``"std"`` the shorter side (columns, if m = n), ``"reverse_std"`` the other one, ``"left"`` the rows,
            ``"right"`` the columns, ``"full"`` both.
    """
    if len(shape) != 2 or rank > min(shape):
        return {}
    shorter = 1 if shape[0] >= shape[1] else 0
    dims = {"std": [shorter], "reverse_std": [1 - shorter], "left": [0], "right": [1], "full": [0, 1]}[side]
    return dict.fromkeys(dims, rank)


def project(coords: Tensor, bases: dict[int, Tensor]) -> Tensor:
    """``Q^T`` applied to each projected dimension: ``[B, ..., d, ...]`` -> ``[B, ..., r, ...]``."""
    for dim, basis in bases.items():
        coords = along(coords, basis, dim)
    return coords


def expand(kept: Tensor, bases: dict[int, Tensor]) -> Tensor:
    """``Q`` applied to each projected dimension: ``[B, ..., r, ...]`` -> ``[B, ..., d, ...]``."""
    for dim, basis in reversed(bases.items()):
        kept = along(kept, basis.mT, dim)
    return kept


def along(x: Tensor, matrix: Tensor, dim: int) -> Tensor:
    """``matrix^T`` applied to one dimension of every member.

    Args:
        x: ``[B, *shape]``.
        matrix: ``[B, shape[dim], k]``.
        dim: of a member.
    """
    if dim == x.ndim - 2:
        return x @ matrix
    wide = x.flatten(dim + 2)
    for _ in range(dim):
        matrix = matrix.unsqueeze(1)
    product = matrix.mT @ wide
    return product.view(*product.shape[:-1], *x.shape[dim + 2 :])


def _key(dim: int) -> str:
    return f"basis_{dim}"
