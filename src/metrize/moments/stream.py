"""A tensor seen in pieces, so that an average is nowhere uncompressed as a whole."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Cut:
    """A box of a tensor: single places of its first dimensions, a range of the next, and all that lies behind.

    Its numbers are neighbours in a contiguous tensor.

    Args:
        layout: the shape in which the tensor is seen.
        index: a range for each of the first dimensions of the layout; of all of them but the last, a single place.
    """

    layout: tuple[int, ...]
    index: tuple[slice, ...] = ()

    def of(self, stack: Tensor) -> Tensor:
        """The box of a contiguous stack ``[B, *shape]``, with all dimensions of the layout; a view."""
        if stack.shape[1:] != self.layout:
            stack = stack.view(len(stack), *self.layout)
        for dim, start, length in self.ranges:
            stack = stack.narrow(1 + dim, start, length)
        return stack

    def of_factor(self, factor: Tensor, dim: int) -> Tensor:
        """The part of a stack ``[B, *layout without dim]`` that belongs to the box."""
        for other, start, length in self.ranges:
            if other != dim:
                factor = factor.narrow(other if other > dim else 1 + other, start, length)
        return factor

    @functools.cached_property
    def ranges(self) -> list[tuple[int, int, int]]:
        """Dimension, start and length, where it is not the whole dimension."""
        cuts = [(dim, cut.start, cut.stop - cut.start) for dim, cut in enumerate(self.index)]
        return [cut for cut in cuts if cut[2] != self.layout[cut[0]]]

    @functools.cached_property
    def start(self) -> int:
        """Place of its first number in a contiguous tensor."""
        behind = (math.prod(self.layout[i + 1 :]) for i in range(len(self.index)))
        return sum(int(cut.start) * size for cut, size in zip(self.index, behind, strict=True))

    @functools.cached_property
    def stop(self) -> int:
        """Place behind its last number."""
        return self.start + math.prod(self.shape)

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of `of` without B."""
        return (*(cut.stop - cut.start for cut in self.index), *self.layout[len(self.index) :])


class Boxes(list[Cut]):
    """The boxes of a whole tensor, one after the other."""

    @functools.cached_property
    def sizes(self) -> list[int]:
        """Numbers of each."""
        return [cut.stop - cut.start for cut in self]

    def split(self, stack: Tensor) -> Sequence[Tensor]:
        """All boxes of a contiguous stack of one tensor ``[1, *shape]``, as `Cut.of` gives them one by one."""
        parts: Sequence[Tensor] = torch.split(stack.reshape(1, -1), self.sizes, 1)
        if len(self[0].layout) == 1:
            return parts
        return [part.view(1, *cut.shape) for part, cut in zip(parts, self, strict=True)]


def boxes(layout: tuple[int, ...], size: int, align: int = 1) -> Boxes:
    """A whole tensor, cut into boxes of about `size` numbers that begin at multiples of `align`."""
    behind = [math.prod(layout[i + 1 :]) for i in range(len(layout))]
    along = next((i for i, numbers in enumerate(behind) if numbers <= size), None)
    if along is None or (along and math.prod(layout[along:]) % align):
        return Boxes([Cut(layout)])
    step = align // math.gcd(align, behind[along])  # so many rows are a multiple of `align`
    rows = max(size // max(1, behind[along]) // step, 1) * step
    places = itertools.product(*(range(length) for length in layout[:along]))
    ranges = [slice(a, min(a + rows, layout[along])) for a in range(0, layout[along], rows)]
    return Boxes(Cut(layout, (*(slice(i, i + 1) for i in place), piece)) for place in places for piece in ranges)


class Stream:
    """One step of one average, piece by piece.

    Every piece of x, in ``a <- decay a + gain x`` (``x^2`` where the average is of squares), is handed to `update`, or
    to `observe` in a pass of its own that ends with `settle`. Afterwards `again` gives the average of any piece, and
    `close` ends the step. Pieces of averages have the shape of `Cut.of`, or one that broadcasts to it.
    """

    fresh: ClassVar[bool] = False
    """Whether pieces of averages are copies, which whoever asked for them may change."""

    def observe(self, cut: Cut, value: Tensor, decay: float | Tensor, gain: float | Tensor) -> Tensor | None:
        """Take in a piece, and return the average if one knows it before all pieces were seen."""
        return self.update(cut, value, decay, gain)

    def settle(self) -> None:
        """Every piece was observed."""

    def update(self, cut: Cut, value: Tensor, decay: float | Tensor, gain: float | Tensor) -> Tensor:
        """Take in a piece and return the average to use now."""
        raise NotImplementedError

    def whiten(self, cut: Cut, value: Tensor, floor: float, scale: float | Tensor) -> Tensor | None:
        """``scale x / sqrt(a + floor)`` without ever making a, where there is a way."""
        return None

    def again(self, cut: Cut) -> Tensor:
        """The average of a piece that was taken in before."""
        raise NotImplementedError

    def give_back(self, cut: Cut, average: Tensor) -> None:
        """Keep what someone made of a piece that `again` gave, and that no one uses any more; see `Moments.lends`."""
        raise NotImplementedError

    def close(self) -> None:
        """The step is over."""
