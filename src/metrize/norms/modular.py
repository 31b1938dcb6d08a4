"""The modular norm: one norm for all weights of a network, built along with it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from metrize.norms.base import Norm


@dataclasses.dataclass(frozen=True)
class Modular:
    """A part of a network, with the norm ``max_l ||w_l||_l / t_l`` of all its weights together.

    The budget ``t_l`` is the share of weight l in an update of norm 1. Parts are built from `atom` and `bond`, and
    combined as the network is:

    | combination | mass | sensitivity | budgets |
    |---|---|---|---|
    | ``outer @ inner`` | M1 + M2 | S1 S2 | inner times M1 / (M S2), outer times M2 / M |
    | ``parallel(first, second, ...)`` | sum | sum | each times Mi / M |
    | ``first + second``, outputs added | as `parallel` | S1 + S2 | as `parallel` |
    | ``scale * part``, output scaled | M | abs(scale) S | divided by abs(scale) |
    | ``part ** times``, that many in a row | times M | S ** times | as `@` |
    | ``part.tare(mass)`` | mass | S | the same |
    | ``residual(block, skip, share)`` | M | abs(skip) + abs(share) S | divided by abs(share) |

    If every atom does what its norm promises, the output moves by at most the norm of the update, and by at most S
    times the change of the input. Weights are listed from the input to the output.

    Args:
        mass: share in what the whole network learns.
        sensitivity: how much a change of the input can grow.
        norms: of each weight.
        budgets: of each weight, for an update of norm 1.

    Raises:
        ValueError: a mass below zero, or a sensitivity that is not above it.

    Source: arXiv:2405.14813.
    """

    mass: float
    sensitivity: float
    norms: tuple[Norm, ...] = ()
    budgets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.mass < math.inf or not 0 < self.sensitivity < math.inf:
            raise ValueError(
                f"mass={self.mass}, sensitivity={self.sensitivity}: a mass is at least 0 and a sensitivity above 0"
            )

    def __matmul__(self, inner: Modular) -> Modular:
        mass = self.mass + inner.mass
        budgets = _shared(inner, inner.mass, mass * self.sensitivity) + _shared(self, self.mass, mass)
        return Modular(mass, self.sensitivity * inner.sensitivity, inner.norms + self.norms, budgets)

    def __add__(self, other: Modular) -> Modular:
        return parallel(self, other)

    def __rmul__(self, scale: float) -> Modular:
        return bond(abs(scale)) @ self

    def __pow__(self, times: int) -> Modular:
        whole = bond()
        for _ in range(times):
            whole = self @ whole
        return whole

    def tare(self, mass: float) -> Modular:
        """The same part with another mass, its weights' masses in their old proportion.

        Raises:
            ValueError: a part without mass has no proportion to keep.
        """
        if not self.mass:
            raise ValueError(f"tare({mass}): this part has mass 0, which cannot be scaled")
        return dataclasses.replace(self, mass=mass)

    def norm(self, weights: Sequence[Tensor]) -> Tensor:
        """``max_l ||w_l||_l / t_l``, a 0-d tensor; infinite where a weight without budget is not zero.

        Args:
            weights: parameters or their updates, in the order of `norms`.
        """
        self._check(weights)
        values = [norm.norm(w.unsqueeze(0))[0] for norm, w in zip(self.norms, weights, strict=True)]
        shares = [v / t if t else v.where(v == 0, math.inf) for v, t in zip(values, self.budgets, strict=True)]
        return torch.stack(shares).max()

    def dual(self, grads: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Directions of steepest ascent, together of norm 1, and the dual norm ``sum_l t_l ||g_l||*_l``, 0-d.

        Args:
            grads: gradients in the order of `norms`.
        """
        self._check(grads)
        found = [norm.dual(g.unsqueeze(0)) for norm, g in zip(self.norms, grads, strict=True)]
        directions = [direction[0] * t for (direction, _), t in zip(found, self.budgets, strict=True)]
        return directions, torch.stack([dual[0] * t for (_, dual), t in zip(found, self.budgets, strict=True)]).sum()

    def _check(self, tensors: Sequence[Tensor]) -> None:
        if len(tensors) != len(self.norms) or not tensors:
            raise ValueError(f"{len(tensors)} tensors for a part of a network with {len(self.norms)} weights")


def atom(norm: Norm, mass: float = 1.0, sensitivity: float = 1.0) -> Modular:
    """A layer with one weight.

    Args:
        norm: in which a weight of norm 1 changes the output by at most `sensitivity` times the input.
        mass: share in what the network learns, relative to the other atoms.
        sensitivity: how much a change of the input can grow while the weight has norm 1.
    """
    return Modular(mass, sensitivity, (norm,), (1.0,) if mass else (0.0,))


def bond(sensitivity: float = 1.0) -> Modular:
    """A layer without weights, such as a nonlinearity."""
    return Modular(0.0, sensitivity)


def parallel(*parts: Modular) -> Modular:
    """Parts that share the input and give a tuple of outputs."""
    mass = sum(part.mass for part in parts)
    budgets = sum((_shared(part, part.mass, mass) for part in parts), ())
    norms = sum((part.norms for part in parts), ())
    return Modular(mass, sum(part.sensitivity for part in parts), norms, budgets)


def residual(block: Modular, skip: float, share: float) -> Modular:
    """``skip * x + share * block(x)``; modula's are ``skip = 1 - 1/L`` and ``share = 1/L`` for L residual blocks."""
    return bond(abs(skip)) + share * block


def _shared(part: Modular, mass: float, whole: float) -> tuple[float, ...]:
    """Budgets of a part that gets `mass / whole` of the update; no mass, no update."""
    return tuple(budget * mass / whole if mass else 0.0 for budget in part.budgets)
