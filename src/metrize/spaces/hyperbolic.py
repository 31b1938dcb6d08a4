"""What both models of hyperbolic space share: the boost section, its turning, and stable forms in coordinates.

With k the negative of the curvature, ``u = sqrt(k) y'`` is the space part of a point of Lorentz's model and
``a = u / (1 + u0)`` the same point in the ball. Coordinates w are lengths along an orthonormal basis at the origin,
which the boost takes to the point.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from metrize.ambient import isolated
from metrize.linalg import newton_schulz_polish
from metrize.part import Spec, choice
from metrize.spaces.base import Space, SpaceError, compute_dtype
from metrize.spaces.shortened import shortened

_RENEWAL = 100  # steps between two renewals of a transported section
_FARTHEST = {torch.float32: 40.0, torch.float64: 300.0}  # beyond it squares of points overflow


class Boost(NamedTuple):
    """A section of hyperbolic space: the boost to each point, and what follows the point if it is transported."""

    at: Any
    kept: Tensor | None

    def pull(self, g: Tensor) -> Tensor:
        """From the axes of the boost to those of the averages."""
        return g if self.kept is None else (self.kept.mT @ g.unsqueeze(-1)).squeeze(-1)

    def push(self, w: Tensor) -> Tensor:
        """And back."""
        return w if self.kept is None else (self.kept @ w.unsqueeze(-1)).squeeze(-1)


@dataclasses.dataclass(frozen=True)
class Hyperbolic(Space, abstract=True):
    """Hyperbolic space of constant curvature, ``SO+(1, n) / SO(n)``; a subclass says in which model points are kept."""

    curvature: float = -1.0
    axis: int = -1
    section: Literal["closed-form", "transported"] = "closed-form"

    least: ClassVar[int]
    """Entries that a point has at least."""

    def __post_init__(self) -> None:
        choice(self, "section", ("closed-form", "transported"))
        if not -math.inf < self.curvature < 0:
            raise ValueError(
                f"{type(self).__name__}(curvature={self.curvature}): the curvature of hyperbolic space is below 0; "
                f"{-self.curvature if 0 < self.curvature < math.inf else -1.0} is one"
            )

    @property
    def radius(self) -> float:
        """``r = 1 / sqrt(k)``."""
        return 1 / math.sqrt(-self.curvature)

    def check_shape(self, shape: torch.Size) -> None:
        if not -len(shape) <= self.axis < len(shape):
            raise SpaceError(f"{self} holds vectors along dimension {self.axis}, and the shape is {tuple(shape)}")
        if shape[self.axis] < self.least:
            raise SpaceError(
                f"{self} cuts shape {tuple(shape)} into vectors of {shape[self.axis]} entries, and a point has "
                f"{self.least} at least; choose another axis or leave it free"
            )

    def batch_shape(self, shape: torch.Size) -> tuple[int, ...]:
        axis = self.axis % len(shape)
        return tuple(size for d, size in enumerate(shape) if d != axis)

    def dim(self, shape: torch.Size) -> int:
        return shape[self.axis] - self.least + 1

    def points(self, stack: Tensor) -> Tensor:
        return stack.movedim(self._place(stack.ndim), -1)

    def tensors(self, points: Tensor) -> Tensor:
        return points.movedim(-1, self._place(points.ndim))

    def state_spec(self, shape: torch.Size, dtype: torch.dtype) -> Spec:
        if self.section == "closed-form":
            return {}
        n = self.dim(shape)
        return {"section": ((*self.batch_shape(shape), n, n), compute_dtype(dtype))}

    def init_state(self, points: Tensor, state: dict[str, Tensor]) -> None:
        if "section" in state:
            kept = state["section"]
            kept.copy_(torch.eye(kept.shape[-1], dtype=kept.dtype, device=kept.device).expand_as(kept))

    def polish_(self, points: Tensor, steps: Tensor, state: dict[str, Tensor]) -> None:
        if "section" in state:
            for i in (steps % _RENEWAL == 0).nonzero().flatten().tolist():
                state["section"][i] = newton_schulz_polish(state["section"][i])

    @isolated
    @torch.no_grad()
    def random_(self, tensor: Tensor, generator: torch.Generator, scale: float = 1.0) -> Tensor:
        """Fill a whole parameter with a random point, in place: a wrapped Gaussian, ``exp(scale xi)`` at the origin.

        Hyperbolic space has no uniform measure. The entries of xi are independent and standard Gaussian in orthonormal
        coordinates. The draw is made in double precision, and so does not depend on the dtype.

        Args:
            tensor: of a shape the space can hold.
            generator: the only source of randomness; the draw is made on its device.
            scale: length of a step, in the units of the space.

        Raises:
            SpaceError: the space cannot hold this tensor.
        """
        self.check(tensor)
        wide = torch.zeros(tensor.shape, dtype=torch.float64, device=generator.device).unsqueeze(0)
        points = self.points(wide)
        w = torch.randn(tensor.shape, generator=generator, dtype=torch.float64, device=generator.device)
        start = self._origin(points)
        points.copy_(
            self._exp_at(start, self._vector_of(start, self.points(w.unsqueeze(0))[..., self.least - 1 :] * scale))
        )
        return tensor.copy_(wide.squeeze(0))

    def _origin(self, points: Tensor) -> Tensor:
        raise NotImplementedError

    def _vector_of(self, y: Tensor, w: Tensor) -> Tensor:
        """The tangent vector at Y with coordinates w in the axes of the boost."""
        raise NotImplementedError

    def _place(self, ndim: int) -> int:
        """Where the axis of the points is in a stack."""
        return self.axis % (ndim - 1) + 1

    def _shortened(self, w: Tensor) -> Tensor:
        """Angles ``sqrt(k) w``, of a length at which nothing overflows."""
        return shortened(w / self.radius, farthest(w.dtype), lambda v: v.square().sum(-1, keepdim=True))


def farthest(dtype: torch.dtype) -> float:
    """The largest distance from the origin that is kept, in units of the radius."""
    return _FARTHEST[compute_dtype(dtype)]


def sinhc(x: Tensor) -> Tensor:
    """``sinh(x) / x`` for x >= 0."""
    small = x < 1e-2
    far = torch.where(small, 1.0, x)
    square = x * x
    return torch.where(small, 1 + square / 6 * (1 + square / 20), torch.sinh(far) / far)


def norm(x: Tensor) -> Tensor:
    """Length along the last dimension, which is kept; its gradient at zero is zero."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Product along the last dimension, which is kept."""
    return (x * y).sum(-1, keepdim=True)


def halved(w: Tensor) -> tuple[Tensor, Tensor]:
    """``z = tanh(|w| / 2) w / |w|``, the point of the ball that w leads to from the origin, and ``1 - |z|^2``."""
    length = norm(w)
    tiny = torch.finfo(w.dtype).tiny
    rise = torch.where(length > 1e-4, torch.tanh(length / 2) / length.clamp(min=tiny), 0.5 - length * length / 24)
    return rise * w, torch.cosh(length / 2).reciprocal().square()


def follow_(kept: Tensor, a: Tensor, w: Tensor) -> None:
    """Turn a transported section by ``gyr[a, z]`` as its point moves from a by w: ``L exp(W)`` without the boosts.

    ``gyr[a, z] c = c + 2 (A a + B z) / (1 + 2 a.z + |a|^2 |z|^2)``, ``A = -(a.c) |z|^2 + z.c + 2 (a.z) (z.c)``,
    ``B = -(z.c) |a|^2 - a.c``. Where a step is so long that nothing can be said, the section stays.

    Args:
        kept: rotations ``[..., n, n]``, turned in place.
        a: points of the unit ball ``[..., n]``.
        w: angles, in the axes of the boost.
    """
    a, z, c = a.unsqueeze(-2), halved(w)[0].unsqueeze(-2), kept.mT
    aa, zz, az, ac, zc = dot(a, a), dot(z, z), dot(a, z), dot(a, c), dot(z, c)
    along_a = -ac * zz + zc + 2 * az * zc
    along_z = -zc * aa - ac
    turned = (c + 2 * (along_a * a + along_z * z) / (1 + 2 * az + aa * zz)).mT
    lengths = turned.square().sum(-2, keepdim=True)
    kept.copy_(torch.where(((lengths - 1).abs() < 0.1).all(-1, keepdim=True), turned, kept))


def carried(a: Tensor, gap: Tensor, b_gap: Tensor, delta: Tensor, c: Tensor) -> Tensor:
    """``gyr[b, -a] c``: coordinates at a, parallel transported to b; stable for neighbours far out.

    Args:
        a: point of the unit ball ``[..., n]``.
        gap: ``1 - |a|^2``.
        b_gap: ``1 - |b|^2``.
        delta: ``b - a``.
        c: coordinates at a.
    """
    ac, dc, ad, dd = dot(a, c), dot(delta, c), dot(a, delta), dot(delta, delta)
    along_delta = -ac * gap - dc * (1 - gap) + 2 * ad * ac
    along_a = dc * gap - ac * dd
    return c + 2 * (along_delta * delta + along_a * a) / (dd + gap * b_gap)
