"""The contract of a space."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from metrize.ambient import isolated
from metrize.linalg import all_finite
from metrize.part import Part, Spec, parse
from metrize.spaces.geometry import Geometry
from metrize.spaces.geometry import SpaceError as SpaceError


@dataclasses.dataclass(frozen=True)
class Space(Part, Geometry, abstract=True):
    """A homogeneous space on which a tensor, or each of a batch of tensors, is a point.

    Kernels see *points*: ``points(t)`` is a view of a stack ``[B, *shape]`` of parameters in which the trailing
    dimensions are one point. Coordinates have the shape of the points, so averages have the parameter's own shape.
    """

    compact: ClassVar[bool] = False
    """Whether the norm of a point is constant, so that weight decay means nothing here."""

    flat: ClassVar[bool] = False
    """Whether lift is the identity and move is addition."""

    condition: ClassVar[str] = ""
    """What makes a tensor a point, where that needs words beside the name of the space."""

    def check_shape(self, shape: torch.Size) -> None:
        """Refuse a shape this space cannot hold.

        Raises:
            SpaceError: with the reason and the remedy.
        """
        raise NotImplementedError

    def batch_shape(self, shape: torch.Size) -> tuple[int, ...]:
        """Leading dimensions that count points within one parameter of this shape."""
        raise NotImplementedError

    def dim(self, shape: torch.Size) -> int:
        """Dimension of the space one point of a parameter of this shape lives on."""
        raise NotImplementedError

    def points(self, stack: Tensor) -> Tensor:
        """View ``[B, *shape]`` as ``[B, *batch, *point]``."""
        raise NotImplementedError

    def state_spec(self, shape: torch.Size, dtype: torch.dtype) -> Spec:
        """State the space itself keeps for one parameter (a stored section, say)."""
        return {}

    def init_state(self, points: Tensor, state: dict[str, Tensor]) -> None:
        """Fill the state declared by `state_spec`, stacked, from the starting points."""

    def section_at(self, points: Tensor, state: dict[str, Tensor]) -> Any:
        """What lift and move share at these points."""
        return None

    def turn(self, section: Any) -> Callable[[Tensor], Tensor] | None:
        """How coordinates kept from the step before read in this section; None where they need no change."""
        return None

    def lift(self, points: Tensor, grad: Tensor, section: Any) -> Tensor:
        """Coordinates of the gradient in the fixed tangent space at the reference point.

        Args:
            points: ``[B, *batch, *point]``.
            grad: Euclidean gradient, same shape.
            section: the value of `section_at` these points.
        """
        raise NotImplementedError

    def framed(self, coords: Tensor) -> Tensor:
        """The part of coordinates ``[B, *batch, *point]`` that a change of coordinates is about, a view.

        Raises:
            SpaceError: there is no such part.
        """
        return coords

    def move_(self, points: Tensor, velocity: Tensor, section: Any, state: dict[str, Tensor]) -> None:
        """Move the points in place along `velocity`, given in the coordinates of `lift`.

        Only what is free in such coordinates counts, the nearest ones: rules and storages may break the symmetry of a
        skew block. What is lost is orthogonal to every lifted gradient, so that a direction of ascent stays one.
        """
        raise NotImplementedError

    def shrink_(self, points: Tensor, factor: float | Tensor) -> None:
        """Decoupled weight decay in place: toward zero, where the space has a zero to go to."""
        if not self.compact:
            points.mul_(factor)

    def sq_norm(self, coords: Tensor) -> Tensor:
        """Squared length of coordinates in the metric of the space, ``[B, *batch]``."""
        raise NotImplementedError

    def project(self, points: Tensor) -> Tensor:
        """The nearest points of the space."""
        raise NotImplementedError

    def torn(self, points: Tensor) -> Tensor:
        """Whether several points of the space are nearest, as to zero: ``[B, *batch]`` of truth values."""
        return torch.zeros(points.shape[:1], dtype=torch.bool, device=points.device)

    def error(self, points: Tensor) -> Tensor:
        """Distance from satisfying the space's equation, ``[B, *batch]``."""
        raise NotImplementedError

    def tolerance(self, shape: torch.Size, dtype: torch.dtype) -> float:
        """The largest `error` accepted in a starting point of a parameter of this shape and dtype."""
        return float("inf")

    def polishes(self, steps: Tensor) -> Tensor:
        """Where the count of steps, ``[B]`` on the host, says that rounding is to be removed."""
        return torch.zeros_like(steps, dtype=torch.bool)

    def polish_(self, points: Tensor, steps: Tensor, state: dict[str, Tensor]) -> None:
        """Remove accumulated rounding where `polishes` says so; ``steps`` is ``[B]`` on the host."""

    @isolated
    @torch.no_grad()
    def project_(self, tensor: Tensor) -> Tensor:
        """Put a whole parameter on the space in place, in float32 at least.

        Raises:
            SpaceError: the space cannot hold this tensor, or no one point is nearest to it, as to zero.
        """
        self.check(tensor)
        wide = tensor.detach().unsqueeze(0).to(compute_dtype(tensor.dtype), copy=True)
        if not all_finite([wide]):
            raise SpaceError(f"holds numbers that are not finite, and nothing on {self} is nearest to them")
        points = self.points(wide)
        if bool(self.torn(points).any()):
            raise SpaceError(
                f"zero or short of full rank, so that no one point of {self} is nearest to it, and any choice would "
                f"change the model; start from a random point, {self}.random_(parameter, torch.Generator()), or leave "
                "it free"
            )
        points.copy_(self.project(points))
        return tensor.copy_(wide.squeeze(0))

    @isolated
    @torch.no_grad()
    def random_(self, tensor: Tensor, generator: torch.Generator) -> Tensor:
        """Fill a whole parameter with a random point, in place: a Gaussian tensor put on the space.

        That is the uniform (Haar) measure on a compact space, which a Gaussian's invariance under rotations carries
        over, and the standard Gaussian on a vector space. The draw is made in double precision, and so does not
        depend on the dtype.

        Args:
            tensor: of a shape the space can hold.
            generator: the only source of randomness; the draw is made on its device.

        Raises:
            SpaceError: the space cannot hold this tensor.
        """
        self.check(tensor)
        dtype = torch.complex128 if tensor.is_complex() else torch.float64
        gauss = torch.randn(tensor.shape, generator=generator, dtype=dtype, device=generator.device)
        return tensor.copy_(gauss if self.flat else self.project_(gauss))

    @isolated
    @torch.no_grad()
    def error_of(self, tensor: Tensor) -> Tensor:
        """The largest error over the points of one parameter, a 0-d tensor."""
        errors = self.error(self.points(tensor.detach().unsqueeze(0).to(compute_dtype(tensor.dtype))))
        return errors.max() if errors.numel() else errors.new_zeros(())

    def check(self, tensor: Tensor) -> None:
        """Refuse a tensor whose dtype, layout or shape this space cannot hold.

        Raises:
            SpaceError: with the reason and the remedy.
        """
        if tensor.is_complex() and not self.flat:
            raise SpaceError(f"{self} holds real matrices, and this tensor is {tensor.dtype}; leave it free")
        if not (tensor.is_floating_point() or tensor.is_complex()):
            raise SpaceError(f"only floating point tensors can be optimized, and this one is {tensor.dtype}")
        if tensor.is_floating_point() and tensor.dtype.itemsize < 2:
            raise SpaceError(f"{tensor.dtype} is too short to be trained; keep the weight in bfloat16, or freeze it")
        if tensor.layout is not torch.strided:
            raise SpaceError(f"it is stored as {tensor.layout}; make it dense, or freeze it")
        self.check_shape(tensor.shape)
        self.check_dim(tensor.shape)

    def check_dim(self, shape: torch.Size) -> None:
        """Refuse a shape whose points lie apart, so that none could move.

        Raises:
            SpaceError: with the reason and the remedy.
        """
        if not self.flat and self.dim(shape) == 0:
            raise SpaceError(
                f"the points of {self} in shape {tuple(shape)} lie apart from each other, so that nothing could be "
                "trained; leave it free"
            )


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Points, averages and steps are float32, or float64 where the parameter is."""
    return torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32


def parse_space(text: str) -> Space:
    """Read a space from its text, such as ``"Stiefel(blocks=21)"``.

    Raises:
        ValueError: it is no part, or one that is not a space.
    """
    part = parse(text)
    if not isinstance(part, Space):
        raise ValueError(f"{text!r} is a {type(part).__name__}, not a space such as 'Stiefel()'")
    return part
