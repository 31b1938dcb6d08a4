"""Which dimension of a parameter a dimension of some view or copy of it is; strides tell."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from torch import Tensor

from metrize.roles.role import solid


@dataclasses.dataclass(frozen=True)
class Axis:
    """A dimension of the parameter as it lies in memory.

    Args:
        stride: between neighbours, in entries.
        dim: of the parameter; None where memory repeats it.
    """

    stride: int
    dim: int | None


@dataclasses.dataclass(frozen=True)
class Lens:
    """Memory that holds a parameter, a part of it, or a copy.

    Args:
        name: of the parameter.
        shape: of the parameter.
        axes: of the memory, the largest stride first.
        offset: of the first entry in the storage.
        start: where this part begins along each dimension of the parameter.
        rows: whether it is rows that were looked up.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    offset: int
    start: tuple[int, ...]
    rows: bool = False

    @classmethod
    def of(cls, name: str, parameter: Tensor) -> Lens:
        """The parameter itself."""
        shape = tuple(parameter.shape)
        axes = (Axis(parameter.stride(dim), dim) for dim in solid(shape))
        return cls(name, shape, _sorted(axes), int(parameter.storage_offset()), (0,) * len(shape))

    def dims_of(self, view: Tensor) -> list[int | None]:
        """For each dimension of a view its dimension of the parameter; None for those of one entry."""
        return [self._at(view.stride(d)) if view.shape[d] > 1 else None for d in range(view.ndim)]

    def span(self, view: Tensor, dim: int) -> tuple[int, ...]:
        """Dimensions of the parameter that one dimension of a view runs through, the outermost first."""
        if view.shape[dim] <= 1 or view.stride(dim) == 0:
            return ()
        innermost = self._at(view.stride(dim))
        dims = [axis.dim for axis in self.axes if axis.dim is not None]
        if innermost is None:
            return ()
        last = first = dims.index(innermost)
        while self.size(dims[first : last + 1]) < view.shape[dim] and first > 0:
            first -= 1
        return tuple(dims[first : last + 1])

    def size(self, dims: Sequence[int]) -> int:
        """Entries of the parameter along some of its dimensions."""
        return math.prod(self.shape[dim] for dim in dims)

    def first(self, view: Tensor, dim: int) -> int:
        """Where a view begins along a dimension of the parameter."""
        rest = int(view.storage_offset()) - self.offset
        for axis in self.axes:
            index, rest = divmod(rest, axis.stride)
            if axis.dim == dim:
                return self.start[dim] + index
        return self.start[dim]

    def copied(self, view: Tensor, dims: Sequence[int | None], copy: Tensor, rows: bool = False) -> Lens:
        """The lens of a copy of a view whose dimensions are those of the parameter."""
        kept = [(copy.stride(at), dim) for at, dim in enumerate(dims) if copy.shape[at] > 1]
        axes = _sorted(Axis(stride, dim) for stride, dim in kept)
        start = tuple(self.first(view, dim) for dim in range(len(self.shape)))
        return Lens(self.name, self.shape, axes, int(copy.storage_offset()), start, rows or self.rows)

    def _at(self, stride: int) -> int | None:
        inside = (axis.dim for axis in self.axes if axis.stride <= stride)
        return next(inside, None) if stride else None


def _sorted(axes: Iterable[Axis]) -> tuple[Axis, ...]:
    return tuple(sorted(axes, key=lambda axis: -axis.stride))
