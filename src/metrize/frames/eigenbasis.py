"""The eigenbasis of Kronecker factors, in which SOAP keeps its averages."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from metrize.frames.base import Carry, Frame
from metrize.frames.eigenbasis_modes import Bases, Modes
from metrize.frames.eigenbasis_turn import left_turned
from metrize.frames.refresh import give_up
from metrize.linalg.eigenbasis import LinAlgError, Method, eigenvectors, renewed
from metrize.linalg.modes import finite_members, merged, mode_gram_
from metrize.part import Spec, choice

_SHORT = 256  # modes for which eigenvectors cost little more than a QR step on the CPU
_HOPELESS = (
    "its Kronecker factors could not be decomposed in three refreshes in a row. Look for gradients near the end of the "
    "range of float32, clip them, or leave this parameter out with a smaller max_precond_dim"
)


@dataclasses.dataclass(frozen=True)
class Eigenbasis(Frame):
    """The eigenbasis of one Kronecker factor for each mode of the gradient (arXiv:2409.11321).

    Of a matrix: ``L <- b L + (1 - b) G G^T``, ``R <- b R + (1 - b) G^T G``, ``G' = Q_L^T G Q_R`` with the eigenvectors
    of L and R. A tensor with more dimensions has a factor of the unfolding along each of them. Every `period` steps the
    bases are renewed; an average of gradients is rotated then, one of their squares stays with the ranks. Adam in this
    frame is SOAP. The first basis is that of the first gradient; after that a basis never knows the gradient it is
    applied to. Factors and bases have the dtype of the arithmetic, whatever the parameter's.

    Args:
        period: f, steps between two refreshes of a parameter.
        shampoo_beta: b, the decay of the factors; -1 takes the second of the group's ``betas`` as it is in each step.
        max_precond_dim: a longer mode has no basis; inf: every mode has one.
        one_sided: the longest mode has none either (the columns of a square matrix).
        merge_dims: take neighbouring dimensions together, from left to right, as long as their product is at most
            `max_precond_dim`.
        precondition_1d: vectors have a basis too.
        data_format: order in which the dimensions of a 4-D tensor are merged: ``"channels_first"`` as they are,
            ``"channels_last"`` the last one before the two in the middle.
        refresh: ``"qr"``, one step of orthogonal iteration; ``"eigh"``, the eigenvectors themselves; ``"thin"``, a
            cheaper iteration that turns the leading quarter only; ``"auto"``, eigh for short modes on the CPU and qr
            elsewhere.
        transport: of averages of squares at a refresh: ``"permutation"`` leaves each with its rank; ``"hadamard"``
            multiplies them by ``(Q_old^T Q_new)^2``, which is right if rotated coordinates are uncorrelated.
        tolerance: tau; a basis with ``||offdiag(Q^T L Q)|| <= tau ||L||`` is not renewed (arXiv:2506.03595).
        faithful: as in the authors' code: the first step only looks at the gradient, and all parameters are refreshed
            in the same step instead of in turn.

    Raises:
        ValueError: an unknown option or a number out of range.
        FrameError: (when used) a factor could not be decomposed in three refreshes in a row.
    """

    period: int = 10
    shampoo_beta: float = 0.95
    max_precond_dim: float = 10000
    one_sided: bool = False
    merge_dims: bool = False
    precondition_1d: bool = False
    data_format: Literal["channels_first", "channels_last"] = "channels_first"
    refresh: Literal["auto", "qr", "eigh", "thin"] = "auto"
    transport: Literal["permutation", "hadamard"] = "permutation"
    tolerance: float = 0.0
    faithful: bool = False

    flat_only: ClassVar[bool] = False
    fixed: ClassVar[tuple[str, ...]] = ("merge_dims", "data_format")

    def __post_init__(self) -> None:
        choice(self, "data_format", ("channels_first", "channels_last"))
        choice(self, "refresh", ("auto", "qr", "eigh", "thin"))
        choice(self, "transport", ("permutation", "hadamard"))
        if self.period < 1:
            raise ValueError(f"Eigenbasis(period={self.period}): steps between two refreshes, at least 1")
        if self.max_precond_dim < 0:
            raise ValueError(f"Eigenbasis(max_precond_dim={self.max_precond_dim}): a size, or 0 for no basis at all")
        if not self.shampoo_beta < 1:
            raise ValueError(
                f"Eigenbasis(shampoo_beta={self.shampoo_beta}): less than 1, or -1 for that of the squares"
            )
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"Eigenbasis(tolerance={self.tolerance}): a number from 0 to less than 1")

    def told(self, hyper: Mapping[str, Any]) -> Eigenbasis:
        follows = self.shampoo_beta < 0 and "betas" in hyper
        return self.replace(shampoo_beta=float(hyper["betas"][1])) if follows else self

    @property
    def delay(self) -> int:
        return int(self.faithful)

    def modes(self, shape: torch.Size) -> Modes:
        """How a point of this shape is seen, and which of its modes have a basis."""
        axes = tuple(range(len(shape)))
        if self.merge_dims and self.data_format == "channels_last" and len(shape) == 4:
            axes = (0, 3, 1, 2)
        ordered = torch.Size(shape[axis] for axis in axes)
        sizes = merged(ordered, self.max_precond_dim) if self.merge_dims else ordered
        return Modes(shape, sizes, self._based(sizes, vector=len(shape) < 2), axes)

    def _based(self, sizes: torch.Size, vector: bool) -> tuple[int, ...]:
        if 0 in sizes or (vector and not self.precondition_1d):
            return ()
        longest = max(range(len(sizes)), key=lambda mode: (sizes[mode], mode), default=0)
        left_out = longest if self.one_sided and len(sizes) > 1 else None
        fitting = (mode for mode, size in enumerate(sizes) if 1 < size <= self.max_precond_dim)
        return tuple(mode for mode in fitting if mode != left_out)

    def cost(self, shape: torch.Size) -> float:
        modes = self.modes(shape)
        return float(sum(modes.sizes[mode] ** 3 for mode in modes.based))

    def work(self, shape: torch.Size) -> float:
        modes = self.modes(shape)
        sides = sum(modes.sizes[mode] for mode in modes.based)
        # in, out and the factor; a QR decomposition and its product
        return 3 * math.prod(shape) * sides + 2.3 * self.cost(shape) / self.period

    def state_spec(self, shape: torch.Size, dtype: torch.dtype) -> Spec:
        modes = self.modes(shape)
        if not modes.based:
            return {}
        spec: Spec = {}
        for mode in modes.based:
            square = (modes.sizes[mode], modes.sizes[mode])
            spec |= {f"factor_{mode}": (square, dtype), f"basis_{mode}": (square, dtype)}
        counts = ("failures",) if self.faithful else ("failures", "phase")
        return spec | dict.fromkeys(counts, ((), torch.int64))

    def open(self, coords: Tensor, state: dict[str, Tensor], carry: Carry) -> None:
        modes, first = self.modes(coords.shape[1:]), state["step"] == 1
        if modes.based and first.any():
            self._learn(modes, coords, first, state)
            self._begin(modes, _members(first), state)

    def enter(self, coords: Tensor, state: dict[str, Tensor]) -> Tensor:
        modes, first = self.modes(coords.shape[1:]), state["step"] == 1
        if not modes.based:
            return coords
        rotated = modes.rotated(coords, _bases(modes, state))
        return _without_rounding(rotated, first) if first.any() else rotated

    def leave(self, direction: Tensor, state: dict[str, Tensor], coords: Tensor) -> Tensor:
        modes = self.modes(coords.shape[1:])
        return modes.rotated_back(direction, _bases(modes, state)) if modes.based else direction

    def close(self, coords: Tensor, state: dict[str, Tensor], carry: Carry) -> None:
        modes, later = self.modes(coords.shape[1:]), state["step"] > 1
        if not modes.based or not later.any():
            return
        self._learn(modes, coords, later, state)
        count = state["step"].long() - self.delay + state.get("phase", 0)
        if due := _members(later & (count % self.period == 0)):
            self._refresh(modes, due, state, carry)

    def turned(
        self, turn: Callable[[Tensor], Tensor], shape: torch.Size, state: dict[str, Tensor], carry: Carry
    ) -> None:
        """Turn the factor and the basis of the rows, so that no average changes.

        Where the turn is not an orthogonal matrix times the rows, the averages of gradients are turned instead.
        """
        modes = self.modes(shape)
        bases = _bases(modes, state)
        rows = left_turned(turn, bases[0], shape) if 0 in bases and modes.sizes[0] == shape[0] else None
        if rows is None:
            carry("linear", lambda x: modes.rotated(turn(modes.rotated_back(x, bases)), bases))
            return
        change = rows @ bases[0].mT
        state["factor_0"].copy_(change @ state["factor_0"] @ change.mT)
        state["basis_0"].copy_(rows)

    def _learn(self, modes: Modes, coords: Tensor, which: Tensor, state: dict[str, Tensor]) -> None:
        """Add the gradients of some members to their factors."""
        x = finite_members(modes.fold(coords))
        for row in [slice(None)] if which.all() else [slice(i, i + 1) for i in _members(which)]:
            for mode in modes.based:
                mode_gram_(state[f"factor_{mode}"][row], x[row], mode, self.shampoo_beta, 1 - self.shampoo_beta)

    def _begin(self, modes: Modes, members: list[int], state: dict[str, Tensor]) -> None:
        """The first bases of some members."""
        for i in members:
            for mode, basis in _bases(modes, state).items():
                try:
                    basis[i] = eigenvectors(state[f"factor_{mode}"][i])
                except LinAlgError:
                    basis[i] = torch.eye(modes.sizes[mode])
                    state["failures"][i] = 1

    def _refresh(self, modes: Modes, members: list[int], state: dict[str, Tensor], carry: Carry) -> None:
        """Renew the bases of some members and take their averages along.

        Raises:
            FrameError: it failed for the third time in a row; until then the old basis serves on.
        """
        old = {mode: basis[members] for mode, basis in _bases(modes, state).items()}
        order = {mode: torch.arange(len(q[0]), device=q.device).repeat(len(q), 1) for mode, q in old.items()}
        for at, i in enumerate(members):
            ranks = {mode: order[mode][at] for mode in modes.based}
            found = [self._renew(mode, i, ranks[mode], state) for mode in modes.based]
            state["failures"][i] = 0 if all(found) else state["failures"][i] + 1
        new = {mode: basis[members] for mode, basis in _bases(modes, state).items()}
        for mode in [mode for mode in new if torch.equal(new[mode], old[mode])]:
            del old[mode], new[mode], order[mode]
        if new:
            carry("linear", _of(members, lambda x: modes.carried(x, old, new)))
            by_rank = self.transport == "permutation"
            carry("square", _of(members, lambda x: modes.ranked(x, order) if by_rank else modes.mixed(x, old, new)))
        for i in members:
            give_up(state["failures"][i], _HOPELESS, i)

    def _renew(self, mode: int, member: int, ranks: Tensor, state: dict[str, Tensor]) -> bool:
        """Renew one basis of one member in place, and write its ranks; False where that failed."""
        factor, basis = state[f"factor_{mode}"][member], state[f"basis_{mode}"][member]
        try:
            found = renewed(factor, basis, self._method(basis), self.tolerance)
        except LinAlgError:
            return False
        if found is not None:
            basis.copy_(found[0])
            ranks.copy_(found[1])
        return True

    def _method(self, basis: Tensor) -> Method:
        if self.refresh != "auto":
            return self.refresh
        return "eigh" if basis.device.type == "cpu" and len(basis) <= _SHORT else "qr"


def _bases(modes: Modes, state: dict[str, Tensor]) -> Bases:
    return {mode: state[f"basis_{mode}"] for mode in modes.based}


def _members(which: Tensor) -> list[int]:
    return [int(i) for i in which.nonzero()]


def _of(members: list[int], change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A change of these members alone."""

    def changed(average: Tensor) -> Tensor:
        if len(members) == len(average):
            return change(average)
        average = average.clone()
        average[members] = change(average[members])
        return average

    return changed


def _without_rounding(rotated: Tensor, which: Tensor) -> Tensor:
    """Zero in place of what a gradient's own basis cannot tell from zero.

    There most coordinates vanish but for rounding, and a rule that divides each by its own size would make as much of
    them as of the others. The squares in the factor know a singular value down to the root of the precision.
    """
    size = rotated.abs()
    dims = tuple(range(1, rotated.ndim))
    unknown = size <= torch.finfo(rotated.dtype).eps ** 0.5 * size.amax(dims, keepdim=True)
    return rotated.masked_fill(unknown & which.to(rotated.device).reshape(-1, *(1,) * len(dims)), 0)
