"""Symmetric positive definite matrices, such as covariances."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from metrize.ambient import isolated
from metrize.part import choice
from metrize.spaces.base import Space, SpaceError
from metrize.spaces.shortened import shortened

_LONGEST = 8.0  # of an eigenvalue of a velocity: e^8 at a step


@dataclasses.dataclass(frozen=True)
class SPD(Space):
    """Symmetric positive definite matrices ``P``, ``n x n``.

    With the affine metric ``tr(P^-1 D P^-1 E)``, and ``P = L L^T``, the gradient G is lifted to ``V = L^T sym(G) L``,
    and a step is ``L exp(W) L^T``. Coordinates are orthonormal: diagonal entries of V, and the others times
    ``sqrt(2)``. By Cholesky's L, all of Adam's trajectory goes along with a change of units, ``P -> D P D`` with D
    diagonal, as with any ``P -> T P T^T`` with T lower triangular. With the log-Cholesky metric, the strict lower
    triangle of L and the logarithms of its diagonal are coordinates of a flat space: cheaper, and not invariant, so
    that data should be scaled before. Float32 is enough up to a condition number of about 1e5.

    Args:
        metric: ``"affine"`` or ``"log-cholesky"``.
        section: with the affine metric, L: ``"cholesky"`` or ``"sqrt"``, the symmetric root.
        retraction: with the affine metric: ``"geodesic"`` (an eigendecomposition), or ``"second-order"``:
            ``L (I + W + W^2 / 2) L^T``, positive definite for every W, of matrix products alone.
        blocks: treat the first matrix dimension as this many equal matrices stacked.

    Raises:
        ValueError: an unknown option, a number out of range, or an option of the affine metric without it.
        SpaceError: (when used) a tensor that is not a batch of square matrices.

    Source: the affine metric of textbooks; arXiv:1908.09326 for log-Cholesky; arXiv:2305.16901 for the lift.
    """

    metric: Literal["affine", "log-cholesky"] = "affine"
    section: Literal["cholesky", "sqrt"] = "cholesky"
    retraction: Literal["geodesic", "second-order"] = "geodesic"
    blocks: int = 1

    matrices: ClassVar[bool] = True
    condition: ClassVar[str] = "which is symmetric and positive definite"

    def __post_init__(self) -> None:
        choice(self, "metric", ("affine", "log-cholesky"))
        choice(self, "section", ("cholesky", "sqrt"))
        choice(self, "retraction", ("geodesic", "second-order"))
        if self.blocks < 1:
            raise ValueError(f"SPD(blocks={self.blocks}): blocks counts matrices, so it is at least 1")
        if self.metric != "affine" and (self.section, self.retraction) != ("cholesky", "geodesic"):
            raise ValueError(
                f"SPD(section={self.section!r}, retraction={self.retraction!r}): only the affine metric has a use for "
                "them; leave them out, or the metric"
            )

    def check_shape(self, shape: torch.Size) -> None:
        if len(shape) < 2:
            raise SpaceError(f"SPD holds matrices, and this tensor has shape {tuple(shape)}; leave it free")
        if shape[-2] % self.blocks:
            raise SpaceError(f"shape {tuple(shape)} cannot be cut into blocks={self.blocks} equal matrices by rows")
        rows, columns = shape[-2] // self.blocks, shape[-1]
        if rows != columns or not rows:
            raise SpaceError(
                f"a {rows} x {columns} matrix cannot be positive definite: such a matrix is square; choose another "
                "shape, or leave it free"
            )

    def batch_shape(self, shape: torch.Size) -> tuple[int, ...]:
        return (*shape[:-2], self.blocks) if self.blocks > 1 else tuple(shape[:-2])

    def dim(self, shape: torch.Size) -> int:
        return shape[-1] * (shape[-1] + 1) // 2

    def points(self, stack: Tensor) -> Tensor:
        if self.blocks == 1:
            return stack
        return stack.view(*stack.shape[:-2], self.blocks, stack.shape[-1], stack.shape[-1])

    def tensors(self, points: Tensor, shape: torch.Size) -> Tensor:
        return points if self.blocks == 1 else points.flatten(-3, -2)

    def section_at(self, points: Tensor, state: dict[str, Tensor]) -> Tensor:
        return cholesky(points) if self.section == "cholesky" else _power(points, 0.5)

    def lift(self, points: Tensor, grad: Tensor, section: Tensor) -> Tensor:
        if self.metric == "affine":
            return weighted(section.mT @ sym(grad) @ section, 2**0.5)
        h = (2 * sym(grad) @ section).tril()
        return h.tril(-1) + torch.diag_embed(_diagonal(h) * _diagonal(section))

    def move_(self, points: Tensor, velocity: Tensor, section: Tensor, state: dict[str, Tensor]) -> None:
        if self.metric == "log-cholesky":
            factor = moved_factor(section, shortened(velocity.tril(), _LONGEST))
            new = factor @ factor.mT
        else:
            w = weighted(shortened(sym(velocity), _LONGEST), 0.5**0.5)
            new = sym(points + self._increment(section, w))
        keep = (velocity == 0).all(-1).all(-1) | ~new.isfinite().all(-1).all(-1)
        points.copy_(torch.where(keep[..., None, None], points, new))

    def shrink_(self, points: Tensor, factor: float | Tensor) -> None:
        """Contract toward the unit matrix, along the geodesic."""
        if self.metric == "affine":
            points.copy_(_power(points, factor))
            return
        root = cholesky(points)
        coords = flat(root) * factor
        root = coords.tril(-1) + torch.diag_embed(_diagonal(coords).exp())
        points.copy_(root @ root.mT)

    def sq_norm(self, coords: Tensor) -> Tensor:
        if self.metric == "log-cholesky":
            return coords.tril().square().sum((-2, -1))
        return weighted(sym(coords), 0.5**0.5).square().sum((-2, -1))

    def project(self, points: Tensor) -> Tensor:
        """The symmetric part, with its eigenvalues at least ``10 n eps`` times the largest one."""
        return floored(sym(points))

    def polish_(self, points: Tensor, steps: Tensor, state: dict[str, Tensor]) -> None:
        broken = torch.linalg.cholesky_ex(points)[1] != 0
        if bool(broken.any()):  # the only question that waits for the device
            points.copy_(torch.where(broken[..., None, None], floored(points), points))

    def torn(self, points: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(sym(points))[..., -1] <= 0

    def error(self, points: Tensor) -> Tensor:
        """``|P - P^T| / |P|``, and 1 more where P is not positive definite."""
        size = torch.linalg.matrix_norm(points).clamp(min=torch.finfo(points.dtype).tiny)
        _, info = torch.linalg.cholesky_ex(sym(points))
        return torch.linalg.matrix_norm(points - points.mT) / size + (info != 0)

    def tolerance(self, shape: torch.Size, dtype: torch.dtype) -> float:
        return min(100 * torch.finfo(dtype).eps, 0.5)

    @isolated
    @torch.no_grad()
    def random_(self, tensor: Tensor, generator: torch.Generator, scale: float = 1.0) -> Tensor:
        """Fill a whole parameter with a random point, in place: a wrapped Gaussian, ``exp(scale V)`` at the identity.

        There is no uniform measure. The entries of V are independent and standard Gaussian in orthonormal coordinates.
        The draw is made in double precision, and so does not depend on the dtype.

        Args:
            tensor: of a shape the space can hold.
            generator: the only source of randomness; the draw is made on its device.
            scale: length of a step, in the metric.

        Raises:
            SpaceError: the space cannot hold this tensor.
        """
        self.check(tensor)
        wide = torch.randn(tensor.shape, generator=generator, dtype=torch.float64, device=generator.device)
        points = self.points(wide.unsqueeze(0))
        v = points.tril(-1) * 0.5**0.5
        v = v + v.mT + torch.diag_embed(points.diagonal(dim1=-2, dim2=-1))
        return tensor.copy_(self.tensors(sym(torch.linalg.matrix_exp(scale * v)), tensor.shape).squeeze(0))

    def _increment(self, root: Tensor, w: Tensor) -> Tensor:
        if self.retraction == "geodesic":
            values, vectors = torch.linalg.eigh(w)
            arm = root @ vectors
            return (arm * torch.expm1(values.clamp(-_LONGEST, _LONGEST)).unsqueeze(-2)) @ arm.mT
        half = root @ w
        return half @ root.mT + half @ half.mT / 2

    def _inner_at(self, y: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (self._coords(y, u) * self._coords(y, v)).sum((-2, -1))

    def _tangent_at(self, y: Tensor, v: Tensor) -> Tensor:
        return sym(v)

    def _dist_at(self, y: Tensor, z: Tensor) -> Tensor:
        if self.metric == "log-cholesky":
            return torch.linalg.matrix_norm(flat(cholesky(z)) - flat(cholesky(y)))
        return torch.linalg.matrix_norm(_Log.apply(_ratio(cholesky(y), y, z)))  # type: ignore[no-untyped-call]

    def _exp_at(self, y: Tensor, v: Tensor) -> Tensor:
        root = cholesky(y)
        if self.metric == "log-cholesky":
            factor = moved_factor(root, self._coords(y, v))
            return factor @ factor.mT
        return sym(root @ torch.linalg.matrix_exp(self._coords(y, v)) @ root.mT)

    def _retract_at(self, y: Tensor, v: Tensor) -> Tensor:
        if self.retraction == "geodesic":
            return self._exp_at(y, v)
        return sym(y + self._increment(cholesky(y), self._coords(y, v)))

    def _log_at(self, y: Tensor, z: Tensor) -> Tensor:
        root = cholesky(y)
        if self.metric == "log-cholesky":
            return _vector(root, flat(cholesky(z)) - flat(root))
        return sym(root @ _Log.apply(_ratio(root, y, z)) @ root.mT)  # type: ignore[no-untyped-call]

    def _transport_at(self, y: Tensor, z: Tensor, v: Tensor) -> Tensor:
        root = cholesky(y)
        if self.metric == "log-cholesky":
            return _vector(cholesky(z), self._coords(y, v))
        half = root @ _Root.apply(_ratio(root, y, z))  # type: ignore[no-untyped-call]
        return sym(half @ self._coords(y, v) @ half.mT)

    def _coords(self, y: Tensor, v: Tensor) -> Tensor:
        """``L^-1 V L^-T``, or what V does to the log-Cholesky coordinates."""
        root = cholesky(y)
        inside = seen_from(root, v)
        if self.metric == "affine":
            return inside
        c = root @ (inside.tril(-1) + torch.diag_embed(_diagonal(inside) / 2))
        return c.tril(-1) + torch.diag_embed(_diagonal(c) / _diagonal(root))


def sym(x: Tensor) -> Tensor:
    """Symmetric part."""
    return (x + x.mT) / 2


def weighted(x: Tensor, factor: float) -> Tensor:
    """The same matrices with everything off the diagonal times a factor."""
    return x * factor + torch.diag_embed(_diagonal(x) * (1 - factor))


def cholesky(points: Tensor) -> Tensor:
    """Lower factors; those of a matrix that rounding has made indefinite are of the nearest one that is not."""
    factor, info = torch.linalg.cholesky_ex(points)
    if bool((info != 0).any()):
        rest = torch.linalg.cholesky_ex(floored(sym(points)))[0]
        return torch.where((info != 0)[..., None, None], rest, factor)
    return factor


def floored(points: Tensor) -> Tensor:
    """Symmetric matrices with their eigenvalues raised to ``10 n eps`` times the largest; those above stay as is."""
    values, vectors = torch.linalg.eigh(points)
    floor = 10 * points.shape[-1] * torch.finfo(points.dtype).eps * values[..., -1:]
    raised = sym((vectors * torch.maximum(values, floor).unsqueeze(-2)) @ vectors.mT)
    return torch.where((values >= floor).all(-1)[..., None, None], points, raised)


def flat(factor: Tensor) -> Tensor:
    """Log-Cholesky coordinates of a lower factor."""
    return factor.tril(-1) + torch.diag_embed(_diagonal(factor).log())


def moved_factor(factor: Tensor, coords: Tensor) -> Tensor:
    """The lower factor whose log-Cholesky coordinates are larger by these."""
    diagonal = _diagonal(factor)
    return factor + coords.tril(-1) + torch.diag_embed(diagonal * torch.expm1(_diagonal(coords)))


def seen_from(root: Tensor, x: Tensor) -> Tensor:
    """``L^-1 X L^-T`` for a symmetric X."""
    left = torch.linalg.solve_triangular(root, x, upper=False)
    return sym(torch.linalg.solve_triangular(root, left.mT, upper=False))


def _ratio(root: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """``L^-1 Z L^-T``, and the unit matrix itself where both points are one."""
    same = (y == z).all(-1, keepdim=True).all(-2, keepdim=True)
    return torch.where(same, torch.eye(y.shape[-1], dtype=y.dtype, device=y.device), seen_from(root, z))


def _vector(root: Tensor, coords: Tensor) -> Tensor:
    """The tangent vector that changes the log-Cholesky coordinates so."""
    change = coords.tril(-1) + torch.diag_embed(_diagonal(coords) * _diagonal(root))
    return 2 * sym(change @ root.mT)


def _diagonal(x: Tensor) -> Tensor:
    return x.diagonal(dim1=-2, dim2=-1)


def _function(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of symmetric matrices."""
    values, vectors = torch.linalg.eigh(x)
    return (vectors * function(values).unsqueeze(-2)) @ vectors.mT


def _power(x: Tensor, exponent: float | Tensor) -> Tensor:
    """Powers of positive definite matrices."""
    tiny = torch.finfo(x.dtype).tiny
    if isinstance(exponent, Tensor):
        exponent = exponent.squeeze(-1)
    return sym(_function(x, lambda values: values.clamp(min=tiny).pow(exponent)))


class _Smooth(torch.autograd.Function):
    """A function of symmetric positive definite matrices whose gradient knows no equal eigenvalues."""

    @staticmethod
    def value(values: Tensor) -> Tensor:
        raise NotImplementedError

    @staticmethod
    def slope(a: Tensor, b: Tensor) -> Tensor:
        """``(f(a) - f(b)) / (a - b)``."""
        raise NotImplementedError

    @classmethod
    def forward(cls, ctx: Any, x: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(x)
        values = values.clamp(min=torch.finfo(x.dtype).tiny)
        ctx.save_for_backward(values, vectors)
        return (vectors * cls.value(values).unsqueeze(-2)) @ vectors.mT

    @classmethod
    def backward(cls, ctx: Any, grad: Tensor) -> Tensor:
        values, vectors = ctx.saved_tensors
        slopes = cls.slope(values.unsqueeze(-1), values.unsqueeze(-2))
        return sym(vectors @ (slopes * (vectors.mT @ sym(grad) @ vectors)) @ vectors.mT)


class _Log(_Smooth):
    """The logarithm."""

    @staticmethod
    def value(values: Tensor) -> Tensor:
        return values.log()

    @staticmethod
    def slope(a: Tensor, b: Tensor) -> Tensor:
        x = ((a - b) / (a + b)).abs()
        small = x < 1e-3
        ratio = torch.where(small, 1 + x * x / 3, torch.atanh(torch.where(small, 0.5, x)) / torch.where(small, 0.5, x))
        return 2 * torch.where(x < 0.5, ratio, ((a / b).log() / (a / b - 1)).abs() * (a + b) / (2 * b)) / (a + b)


class _Root(_Smooth):
    """The positive root."""

    @staticmethod
    def value(values: Tensor) -> Tensor:
        return values.sqrt()

    @staticmethod
    def slope(a: Tensor, b: Tensor) -> Tensor:
        return 1 / (a.sqrt() + b.sqrt())
