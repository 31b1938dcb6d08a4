"""Reduced models of Hamiltonian systems: classical bases, and the integration of what a decoder makes of a system."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.func import jacfwd, jvp, vmap

from metrize.linalg.symplectic import from_quarters

_TOLERANCE = 1e-10
_NEWTON_STEPS = 12

VectorField = Callable[[Tensor, Tensor], Tensor]


class Embedding(Protocol):
    """Few coordinates for the states of a large system."""

    def encode(self, states: Tensor) -> Tensor:
        """Codes ``[..., 2n]`` of states ``[..., 2N]``."""

    def decode(self, codes: Tensor) -> Tensor:
        """States ``[..., 2N]`` of codes ``[..., 2n]``."""


@dataclasses.dataclass(frozen=True)
class Span:
    """The span of orthonormal columns, as an embedding.

    Args:
        basis: ``[2N, 2n]``.
    """

    basis: Tensor

    def encode(self, states: Tensor) -> Tensor:
        """``U^T x``."""
        return states @ self.basis

    def decode(self, codes: Tensor) -> Tensor:
        """``U z``."""
        return codes @ self.basis.mT


def cotangent_lift(states: Tensor, reduced: int) -> Span:
    """Proper symplectic decomposition: ``diag(Phi, Phi)`` with Phi the leading left singular vectors of ``[Q, P]``.

    No other basis of this form reconstructs the states better.

    Args:
        states: ``[samples, 2N]``, positions first, then momenta.
        reduced: n.

    Source: arXiv:1407.6118.
    """
    phi = _leading(torch.cat(states.chunk(2, -1)), reduced)
    zero = torch.zeros_like(phi)
    return Span(from_quarters(phi, zero, zero, phi))


def principal(states: Tensor, reduced: int) -> Span:
    """Proper orthogonal decomposition: the leading 2n left singular vectors, the best of all linear autoencoders.

    Args:
        states: ``[samples, 2N]``.
        reduced: n.
    """
    return Span(_leading(states, 2 * reduced))


def integrate(
    embedding: Embedding, field: VectorField, starts: Tensor, speeds: Tensor, dt: float, steps: int
) -> Tensor:
    """Paths of the reduced system ``z' = DE(x) f(x), x = D(z)``, by the implicit midpoint rule.

    Where D is symplectic and E its left inverse, this is the Hamiltonian system of ``H(D(z))``, and the rule, which is
    symplectic too, keeps its energy near the start's.

    Args:
        embedding: E and D.
        field: f of the full system, of states and parameters.
        starts: ``[paths, 2N]``, states to start from.
        speeds: ``[paths]``, the parameter of each.
        dt: time of a step.
        steps: of each path.

    Returns:
        codes ``[paths, steps + 1, 2n]``; a path that leaves all bounds ends in NaN.
    """

    def motion(code: Tensor, speed: Tensor) -> Tensor:
        state = embedding.decode(code)
        velocity: Tensor = jvp(embedding.encode, (state,), (field(state, speed),))[1]
        return velocity

    step = _midpoint(vmap(motion), vmap(jacfwd(motion)), speeds, dt)
    codes = [embedding.encode(starts)]
    for _ in range(steps):
        codes.append(step(codes[-1]))
    return torch.stack(codes, 1)


def _midpoint(motion: VectorField, jacobian: VectorField, speeds: Tensor, dt: float) -> Callable[[Tensor], Tensor]:
    """Solves ``m = z + dt/2 f(m)`` by Newton's method with the derivative of the first guess; then ``z' = 2m - z``."""

    def step(codes: Tensor) -> Tensor:
        middle = codes + dt / 2 * motion(codes, speeds)
        slope = torch.eye(codes.shape[-1], dtype=codes.dtype) - dt / 2 * jacobian(middle, speeds)
        for _ in range(_NEWTON_STEPS):
            residual = middle - codes - dt / 2 * motion(middle, speeds)
            middle = middle - torch.linalg.solve_ex(slope, residual)[0]
            if not (residual.abs() > _TOLERANCE).any():
                break
        return 2 * middle - codes

    return step


def _leading(samples: Tensor, count: int) -> Tensor:
    """Singular vectors ``[size, count]`` of samples ``[number, size]``."""
    # of the samples themselves: their squares would lose half the digits
    return torch.linalg.svd(samples, full_matrices=False)[2][:count].mT.contiguous()
