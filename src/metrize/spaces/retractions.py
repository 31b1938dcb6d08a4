"""Retractions on the coordinates (A, B) of ``[[A, -B^T], [B, 0]]``, in forms that never build an N x N matrix.

Each returns the increment T of the point (``Y' = Y + T``) and, for whoever stores a complement and asks, the drag D
with which that follows: ``Yp' = Yp - D B^T``. Adding a small increment is what keeps float32 points on the manifold:
forming ``Y'`` as a difference of large terms drifts ten times faster, the dense form thousands of times
(arXiv:2305.16901's reference reaches 1.5e-2 after 15,000 steps).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from metrize.linalg import addmm, phi
from metrize.spaces.solves import solve

Drag = Callable[[], Tensor]


def cayley(y: Tensor, pushed: Tensor | None, a: Tensor, b: Tensor | None) -> tuple[Tensor, Drag]:
    """Cayley transform ``(I - W/2)^-1 (I + W/2)`` applied to the point, with one n x n solve.

    With ``S = A/2 - B^T B/4``: ``T = P + (2Y + P) S (I - S)^-1``. The symmetric part of ``I - S`` is at least I, so
    the solve is safe for every velocity.

    Args:
        y: points ``[..., N, n]``.
        pushed: ``P = Yp B`` ``[..., N, n]``, None where N = n.
        a: skew block ``[..., n, n]`` of the velocity.
        b: lower block ``[..., N - n, n]``, None where N = n.
    """
    s = a * 0.5
    if b is not None:
        s = s - (b.mT @ b).mul_(0.25)
    return _cayley(y, pushed, s)


def horizontal_cayley(y: Tensor, pushed: Tensor, b: Tensor) -> tuple[Tensor, Drag]:
    """`cayley` of a velocity with A = 0.

    Args:
        y: points ``[..., N, n]``.
        pushed: ``P = Yp B`` ``[..., N, n]``.
        b: lower block ``[..., N - n, n]`` of the velocity.
    """
    return _cayley(y, pushed, (b.mT @ b).mul_(-0.25))


def _cayley(y: Tensor, pushed: Tensor | None, s: Tensor) -> tuple[Tensor, Drag]:
    turn = solve(torch.eye(s.shape[-1], dtype=s.dtype, device=s.device) - s, s)
    double = 2 * y if pushed is None else torch.add(pushed, y, alpha=2)
    increment = double @ turn if pushed is None else addmm(pushed, double, turn)
    return increment, lambda: y + increment * 0.5


def geodesic(y: Tensor, pushed: Tensor | None, a: Tensor, b: Tensor | None) -> tuple[Tensor, Drag]:
    """Exponential ``exp(W)`` applied to the point through a 2n x 2n function, accurate at every norm.

    ``[T1, T2] = [Y A/2 + P, Y] phi(X)``, ``T = T1 + T2 A/2`` with ``X = [[A/2, I], [A^2/4 - B^T B, A/2]]``.

    Args:
        y: points ``[..., N, n]``.
        pushed: ``P = Yp B`` ``[..., N, n]``, None where N = n.
        a: skew block ``[..., n, n]`` of the velocity.
        b: lower block ``[..., N - n, n]``, None where N = n.
    """
    n, half = a.shape[-1], a * 0.5
    corner = half @ half if b is None else half @ half - b.mT @ b
    eye = torch.eye(n, dtype=a.dtype, device=a.device).expand_as(a)
    x = torch.cat([torch.cat([half, eye], -1), torch.cat([corner, half], -1)], -2)
    left = y @ half if pushed is None else y @ half + pushed
    both = torch.cat([left, y], -1) @ phi(x)
    t1, t2 = both[..., :n], both[..., n:]
    return t1 + t2 @ half, lambda: t2


def horizontal_geodesic(y: Tensor, pushed: Tensor, b: Tensor) -> tuple[Tensor, Drag]:
    """`geodesic` of a velocity with A = 0: each principal direction turns by its own angle.

    With ``B^T B = V diag(theta^2) V^T``: ``T = Y V (cos(theta) - 1) V^T + P V sinc(theta) V^T``.

    Args:
        y: points ``[..., N, n]``.
        pushed: ``P = Yp B`` ``[..., N, n]``.
        b: lower block ``[..., N - n, n]`` of the velocity.
    """
    squares, v = torch.linalg.eigh(b.mT @ b)
    angles = squares.clamp_(min=0).sqrt_()
    sine, versine = sinc(angles), sinc(angles / 2).square().mul_(0.5)  # (1 - cos x) / x^2
    fall, rise, bend = ((v * f.unsqueeze(-2)) @ v.mT for f in (-versine * angles.square(), sine, versine))
    return y @ fall + pushed @ rise, lambda: y @ rise + pushed @ bend


def sinc(angle: Tensor) -> Tensor:
    """``sin(x) / x``, which torch has for ``pi x`` only."""
    return torch.sinc(angle / math.pi)


RETRACTIONS = {"cayley": cayley, "geodesic": geodesic}
HORIZONTAL = {"cayley": horizontal_cayley, "geodesic": horizontal_geodesic}
