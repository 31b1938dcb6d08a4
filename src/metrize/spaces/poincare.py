"""Poincare's model of hyperbolic space: the inside of a ball."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from metrize.spaces.base import compute_dtype
from metrize.spaces.hyperbolic import Boost, Hyperbolic, carried, dot, follow_, halved, norm

_MARGIN = {torch.float32: 1e-5, torch.float64: 1e-13}  # of the radius: as far out as points resolve


@dataclasses.dataclass(frozen=True)
class PoincareBall(Hyperbolic):
    """Hyperbolic space as the ball ``k |x|^2 < 1`` with the metric ``(2 / gap)^2 |dx|^2``, ``gap = 1 - k |x|^2``.

    The gradient is lifted to ``g = G gap / 2``, and a step is the exponential, a Moebius addition. With the same loss
    the points are those of `Lorentz`. They stay within ``1 - 1e-5`` times the radius of the ball, at distances up to
    ``12.2 / sqrt(k)`` from the origin (``1 - 1e-13`` and ``30.6 / sqrt(k)`` in float64).

    Args:
        curvature: -k, below 0.
        axis: along which the points run, n entries each.
        section: as for `Lorentz`.

    Raises:
        ValueError: an unknown option or a curvature that is not below 0.
        SpaceError: (when used) a tensor without this dimension or without entries.

    Source: the Moebius additions of textbooks; arXiv:2305.16901 for the lift; the stable forms are ours.
    """

    condition: ClassVar[str] = "which lies within |x| < 1 / sqrt(-curvature)"
    least: ClassVar[int] = 1

    def section_at(self, points: Tensor, state: dict[str, Tensor]) -> Boost:
        a = points / self.radius
        a = a * self._nearer(a)
        return Boost((a, _gap(a)), state.get("section"))

    def lift(self, points: Tensor, grad: Tensor, section: Boost) -> Tensor:
        return section.pull(grad * (section.at[1] / 2))

    def move_(self, points: Tensor, velocity: Tensor, section: Boost, state: dict[str, Tensor]) -> None:
        (a, gap), w = section.at, section.push(self._shortened(velocity))
        points.add_(_increment(a, gap, w), alpha=self.radius)
        points.mul_(self._nearer(points / self.radius))
        if section.kept is not None:
            follow_(section.kept, a, w)

    def shrink_(self, points: Tensor, factor: float | Tensor) -> None:
        """Contract toward the origin, along the geodesic."""
        a = points / self.radius
        length = norm(a).clamp(min=torch.finfo(a.dtype).tiny, max=1 - _margin(a.dtype))
        points.mul_(torch.tanh(torch.atanh(length) * factor) / length)

    def sq_norm(self, coords: Tensor) -> Tensor:
        return coords.square().sum(-1)

    def project(self, points: Tensor) -> Tensor:
        return points * self._nearer(points / self.radius)

    def error(self, points: Tensor) -> Tensor:
        """By how much ``k |x|^2`` is beyond the margin."""
        square = (points / self.radius).square().sum(-1)
        return (square - (1 - _margin(points.dtype)) ** 2).clamp(min=0)

    def tolerance(self, shape: torch.Size, dtype: torch.dtype) -> float:
        return max(_margin(dtype), 4 * torch.finfo(dtype).eps)

    def _inner_at(self, y: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (dot(u, v) * (2 / self._gap(y)).square()).squeeze(-1)

    def _dist_at(self, y: Tensor, z: Tensor) -> Tensor:
        distance = norm((z - y) / self.radius) / (self._gap(y) * self._gap(z)).sqrt()
        return 2 * self.radius * torch.asinh(distance).squeeze(-1)

    def _tangent_at(self, y: Tensor, v: Tensor) -> Tensor:
        return v

    def _exp_at(self, y: Tensor, v: Tensor) -> Tensor:
        a = y / self.radius
        gap = self._gap(y)
        a = a + _increment(a, gap, v * (2 / (gap * self.radius)))
        return self.radius * a * self._nearer(a)

    def _log_at(self, y: Tensor, z: Tensor) -> Tensor:
        gap, a, d = self._gap(y), y / self.radius, (z - y) / self.radius
        numerator = gap * d - a * dot(d, d)
        length = norm(numerator)
        reach = _sum_gap(gap, a, d, self._gap(z)).sqrt()
        tiny = torch.finfo(a.dtype).tiny
        per_length = torch.where(
            length > 1e-4 * reach,
            torch.asinh(length / reach) / length.clamp(min=tiny),
            1 / reach.clamp(min=tiny),
        )
        return self._vector_of(y, 2 * self.radius * numerator * per_length)

    def _transport_at(self, y: Tensor, z: Tensor, v: Tensor) -> Tensor:
        gap, z_gap = self._gap(y), self._gap(z)
        return carried(y / self.radius, gap, z_gap, (z - y) / self.radius, v) * (z_gap / gap)

    def _origin(self, points: Tensor) -> Tensor:
        return torch.zeros_like(points)

    def _vector_of(self, y: Tensor, w: Tensor) -> Tensor:
        return w * (self._gap(y) / 2)

    def _gap(self, y: Tensor) -> Tensor:
        """That of a point within the margin, so that one rounded to fewer bits is as far out as points go."""
        a = y / self.radius
        return _gap(a * self._nearer(a))

    def _nearer(self, a: Tensor) -> Tensor:
        """The factor that brings a within the margin."""
        largest = a.detach().abs().amax(-1, keepdim=True).clamp(min=1)  # its square may overflow
        return ((1 - _margin(a.dtype)) / (norm(a / largest) * largest).clamp(min=0.5)).clamp(max=1)


def _margin(dtype: torch.dtype) -> float:
    return _MARGIN[compute_dtype(dtype)]


def _gap(a: Tensor) -> Tensor:
    """``1 - |a|^2``, by its factors: the square of a length near 1 has lost what its distance to 1 is."""
    length = norm(a)
    return (1 - length) * (1 + length)


def _sum_gap(gap: Tensor, a: Tensor, d: Tensor, z_gap: Tensor) -> Tensor:
    """``(gap^2 - 2 gap a.d + |a|^2 |d|^2) gap z_gap``, whose root the sinh of half of the distance is measured by."""
    aa, dd = dot(a, a), dot(d, d)
    return (gap.square() - 2 * gap * dot(a, d) + aa * dd) * gap * z_gap


def _increment(a: Tensor, gap: Tensor, w: Tensor) -> Tensor:
    """What the exponential of w adds to a: Moebius addition of ``tanh(|w| / 2) w / |w|``."""
    z, z_gap = halved(w)
    tiny = torch.finfo(a.dtype).tiny
    return gap * (z + (1 - z_gap) * a) / (dot(a + z, a + z) + gap * z_gap).clamp(min=tiny)
