"""Lorentz's model of hyperbolic space: one sheet of a hyperboloid."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from metrize.spaces.hyperbolic import Boost, Hyperbolic, carried, dot, farthest, follow_, norm, sinhc


@dataclasses.dataclass(frozen=True)
class Lorentz(Hyperbolic):
    """Hyperbolic space as ``{y : -y0^2 + |y'|^2 = -1/k, y0 > 0}``, ``y = (y0, y')``, of curvature -k.

    The gradient is lifted by the boost to the point, ``g = G' + u (G0 + u.G' / (1 + u0))`` with ``u = sqrt(k) y'``, and
    kept as ``(0, g)``. A step is the exponential; y0 is computed from y' at each, so that rounding never leaves the
    space. A loss that reads y0 by itself, as in ``arccosh(y0 z0 - y'.z')``, loses its gradient far from the origin:
    half of the digits of float32 are gone at a distance of 4. Use `dist` and `log`, which read y' alone, or pass y'
    through `from_chart`.

    Args:
        curvature: -k, below 0.
        axis: along which the points run, n + 1 entries each.
        section: ``"closed-form"``: the boost to the point. ``"transported"``: an ``n x n`` rotation follows each point,
            so that averages are carried in parallel along the path.

    Raises:
        ValueError: an unknown option or a curvature that is not below 0.
        SpaceError: (when used) a tensor without this dimension, or points with fewer than two entries.

    Source: the boosts of textbooks; arXiv:2305.16901 for the lift; the stable forms are ours.
    """

    condition: ClassVar[str] = "where y0 = sqrt(|y'|^2 - 1 / curvature)"
    least: ClassVar[int] = 2

    def from_chart(self, chart: Tensor) -> Tensor:
        """The point ``(y0, y')`` with this y', differentiable: what a loss reads instead of the weight's own y0.

        Args:
            chart: y', along the axis of the points.
        """
        axis = self.axis % chart.ndim
        return torch.cat([self._time(chart.movedim(axis, -1)).movedim(-1, axis), chart], axis)

    def section_at(self, points: Tensor, state: dict[str, Tensor]) -> Boost:
        u = points[..., 1:] / self.radius
        return Boost((u, _u0(u)), state.get("section"))

    def lift(self, points: Tensor, grad: Tensor, section: Boost) -> Tensor:
        u, u0 = section.at
        g = grad[..., 1:] + u * (grad[..., :1] + dot(u, grad[..., 1:]) / (1 + u0))
        return torch.cat([torch.zeros_like(u0), section.pull(g)], -1)

    def framed(self, coords: Tensor) -> Tensor:
        return coords[..., 1:]

    def move_(self, points: Tensor, velocity: Tensor, section: Boost, state: dict[str, Tensor]) -> None:
        (u, u0), w = section.at, section.push(self._shortened(velocity[..., 1:]))
        increment = _increment(u, u0, w)
        chart, still = points[..., 1:], (increment == 0).all(-1, keepdim=True)
        chart.add_(increment, alpha=self.radius).mul_(_nearer(chart / self.radius))
        points[..., :1] = torch.where(still, points[..., :1], self._time(chart))
        if section.kept is not None:
            follow_(section.kept, u / (1 + u0), w)

    def shrink_(self, points: Tensor, factor: float | Tensor) -> None:
        """Contract toward the origin, along the geodesic."""
        chart = points[..., 1:]
        length = norm(chart / self.radius)
        far = torch.asinh(length)
        near = sinhc((far * factor).abs()) / sinhc(far) * factor
        chart.mul_(near).mul_(_nearer(chart / self.radius))
        points[..., :1] = self._time(chart)

    def sq_norm(self, coords: Tensor) -> Tensor:
        return coords[..., 1:].square().sum(-1)

    def project(self, points: Tensor) -> Tensor:
        """The points with the same y'."""
        chart = points[..., 1:] * _nearer(points[..., 1:] / self.radius)
        return torch.cat([self._time(chart), chart], -1)

    def error(self, points: Tensor) -> Tensor:
        """``|y0 - sqrt(1/k + |y'|^2)| / |y0|``; the equation itself is rounding of the size of y0^2 far out."""
        time = points[..., :1]
        return ((time - self._time(points[..., 1:])) / time).abs().squeeze(-1)

    def tolerance(self, shape: torch.Size, dtype: torch.dtype) -> float:
        return 16 * torch.finfo(dtype).eps * math.sqrt(self.dim(shape))

    def _inner_at(self, y: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return dot(self._coords(y, u), self._coords(y, v)).squeeze(-1)

    def _dist_at(self, y: Tensor, z: Tensor) -> Tensor:
        u, v = y[..., 1:] / self.radius, z[..., 1:] / self.radius
        found: Tensor = _Distance.apply(u + torch.zeros_like(v), v + torch.zeros_like(u))  # type: ignore[no-untyped-call]
        return found.squeeze(-1) * self.radius

    def _tangent_at(self, y: Tensor, v: Tensor) -> Tensor:
        u = torch.cat([_u0(y[..., 1:] / self.radius), y[..., 1:] / self.radius], -1)
        return v + u * (dot(u[..., 1:], v[..., 1:]) - u[..., :1] * v[..., :1])

    def _exp_at(self, y: Tensor, v: Tensor) -> Tensor:
        u = y[..., 1:] / self.radius
        chart = y[..., 1:] + self.radius * _increment(u, _u0(u), self._coords(y, v) / self.radius)
        return torch.cat([self._time(chart), chart], -1)

    def _log_at(self, y: Tensor, z: Tensor) -> Tensor:
        return self._vector_of(y, self.radius * _log(y[..., 1:] / self.radius, z[..., 1:] / self.radius))

    def _transport_at(self, y: Tensor, z: Tensor, v: Tensor) -> Tensor:
        u, w = y[..., 1:] / self.radius, z[..., 1:] / self.radius
        u0, w0 = _u0(u), _u0(w)
        differ = w - u
        later = dot(differ, u + w) / (u0 + w0)
        delta = (differ * (1 + u0) - u * later) / ((1 + u0) * (1 + w0))
        return self._vector_of(z, carried(u / (1 + u0), 2 / (1 + u0), 2 / (1 + w0), delta, self._coords(y, v)))

    def _origin(self, points: Tensor) -> Tensor:
        chart = torch.zeros_like(points[..., 1:])
        return torch.cat([self._time(chart), chart], -1)

    def _vector_of(self, y: Tensor, w: Tensor) -> Tensor:
        u = y[..., 1:] / self.radius
        along = dot(u, w)
        return torch.cat([along, w + u * along / (1 + _u0(u))], -1)

    def _coords(self, y: Tensor, v: Tensor) -> Tensor:
        """Coordinates of a tangent vector, of which V' says everything."""
        u, v = y[..., 1:] / self.radius, v[..., 1:]
        u0 = _u0(u)
        return v - u * (dot(u, v) / (u0 * (1 + u0)))

    def _time(self, chart: Tensor) -> Tensor:
        return self.radius * _u0(chart / self.radius)


class _Distance(torch.autograd.Function):
    """Distance in units of the radius, with its gradient written out: square roots have none at zero."""

    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor, v: Tensor) -> Tensor:
        _, tangential, radial = _parts(u, v)
        q = 2 * radial.square() / (1 + torch.hypot(torch.ones_like(radial), radial)) + tangential
        return 2 * torch.asinh(q.sqrt() / 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        u, v = ctx.saved_tensors
        return grad * _away(u, v), grad * _away(v, u)


def _away(u: Tensor, v: Tensor) -> Tensor:
    """The gradient of the distance from u to v with respect to u; zero where they coincide."""
    w = _log(u, v)
    g = -w / norm(w).clamp(min=torch.finfo(w.dtype).tiny)
    u0 = _u0(u)
    return g - u * (dot(u, g) / (u0 * (1 + u0)))


def _parts(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``|u|``, the tangential part ``|u| |v| |u/|u| - v/|v||^2`` and the sinh of the difference in radius."""
    tiny = torch.finfo(u.dtype).tiny
    a, b, differ, both = norm(u), norm(v), v - u, u + v
    product = dot(differ, both)
    radial = product / (a * _u0(v) + b * _u0(u)).clamp(min=tiny)
    longer = product / (a + b).clamp(min=tiny)
    nearer_u = differ - u / a.clamp(min=tiny) * longer
    nearer_v = v / b.clamp(min=tiny) * longer - differ
    p = torch.where(a < b, nearer_u, nearer_v)
    return a, torch.minimum(a, b) / torch.maximum(a, b).clamp(min=tiny) * dot(p, p), radial


def _log(u: Tensor, v: Tensor) -> Tensor:
    """Coordinates at u of the velocity that leads to v, in units of the radius."""
    near = norm(u) < 1
    b = torch.where(near, _log_near(u, v), _log_far(torch.where(near, torch.ones_like(u), u), v))
    length = norm(b)
    tiny = torch.finfo(b.dtype).tiny
    return b * torch.where(length > 1e-4, torch.asinh(length) / length.clamp(min=tiny), 1 - length * length / 6)


def _log_near(u: Tensor, v: Tensor) -> Tensor:
    """``sinh(d)`` times the direction, without a square root of what may be zero; exact for small u."""
    u0, v0, differ = _u0(u), _u0(v), v - u
    gap = u * (dot(differ, u + v) / (u0 + v0)) - differ * (1 + u0)
    return differ + u * (dot(v, gap) / ((1 + u0) * (1 + v0)))


def _log_far(u: Tensor, v: Tensor) -> Tensor:
    """The same by radius and angle, which keep their digits far out."""
    a, tangential, radial = _parts(u, v)
    axis, differ = u / a, v - u
    return differ - axis * dot(axis, differ) + axis * (radial - _u0(u) * tangential / (2 * a))


def _increment(u: Tensor, u0: Tensor, w: Tensor) -> Tensor:
    """What the exponential of w adds to u."""
    angle = norm(w)
    s = sinhc(angle) * w
    return s + u * (2 * torch.sinh(angle / 2).square() + dot(u, s) / (1 + u0))


def _u0(u: Tensor) -> Tensor:
    return (1 + dot(u, u)).sqrt()


def _nearer(u: Tensor) -> Tensor:
    """The factor that brings u within the distance at which squares overflow."""
    largest = u.abs().amax(-1, keepdim=True).clamp(min=1)
    return (math.sinh(farthest(u.dtype)) / (norm(u / largest) * largest)).clamp(max=1)
