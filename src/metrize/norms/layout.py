"""How a stored tensor is read as linear maps from inputs to outputs."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from metrize.part import Part


@dataclasses.dataclass(frozen=True)
class Layout(Part):
    """Which matrices, outputs by inputs, a parameter holds.

    Without arguments the last two dimensions are one matrix ``(out, in)``, as in ``nn.Linear``, and leading dimensions
    are a bank of independent matrices (experts).

    | stored as | layout |
    |---|---|
    | ``nn.Linear``, `(out, in)`; expert bank `(E, out, in)` | `Layout()` |
    | `nn.Embedding`, `(in, out)`; `Conv1D` of GPT-2; expert bank `(E, in, out)` | `Layout(transposed=True)` |
    | convolution `(out, in/groups, *kernel)` | `Layout(unfold=True, groups=groups)` |
    | transposed convolution `(in, out/groups, *kernel)` | `Layout(unfold=True, groups=groups, transposed=True)` |
    | `nn.Bilinear`, `(out, in1, in2)` | `Layout(unfold=True)` |
    | sections `[q; k; v]`, gates of an LSTM | `Layout(split=(dq, dk, dv))`, `Layout(split=(h, h, h, h))` |
    | q, k, v of one head after another (GPT-NeoX) | `Layout(split=(1, 1, 1), outer=heads, inner=head_dim)` |
    | groups of queries with their k, v (Falcon) | `Layout(split=(queries, 1, 1), outer=groups, inner=head_dim)` |
    | gate and up in turn (GPT-OSS) | `Layout(split=(1, 1), outer=width)` |
    | experts below one another, `(E * out, in)` | `Layout(block_rows=out)` |

    Args:
        transposed: inputs are stored before outputs.
        unfold: the dimensions behind the first two belong to the inputs, as in a convolution.
        offsets: the first two dimensions at each index of those behind them are a matrix of their own.
        groups: of a convolution; each is a matrix of its own.
        split: cut the outputs into pieces of these sizes, each its own matrix. Outputs are counted as
            ``(outer, sum(split), inner)``; piece j is ``[outer, split[j], inner]``.
        outer: how often the pattern of `split` repeats.
        inner: adjacent outputs that `split` counts as one.
        block_rows: cut every piece once more, into blocks of this many outputs, such as the heads of queries and keys.

    Raises:
        ValueError: arguments that contradict each other.
    """

    transposed: bool = False
    unfold: bool = False
    offsets: bool = False
    groups: int = 1
    split: tuple[int, ...] = ()
    outer: int = 1
    inner: int = 1
    block_rows: int = 0

    def __post_init__(self) -> None:
        if self.unfold and self.offsets:
            raise ValueError("Layout(unfold=True, offsets=True): a kernel is read as one matrix or as many; choose one")
        if self.groups != 1 and not self._kernel:
            raise ValueError(f"Layout(groups={self.groups}): groups are those of a convolution; add unfold=True")
        if not self.split and (self.outer, self.inner) != (1, 1):
            raise ValueError(
                f"Layout(outer={self.outer}, inner={self.inner}): they arrange the pieces of split; give it"
            )
        if any(size < 1 for size in self.split):
            raise ValueError(f"Layout(split={self.split!r}): split is a tuple of sizes of at least 1")
        if min(self.groups, self.outer, self.inner) < 1 or self.block_rows < 0:
            raise ValueError(f"{self}: groups, outer and inner are at least 1, and block_rows at least 0")

    def check(self, shape: Sequence[int]) -> None:
        """Refuse the shape of a parameter that cannot be read this way.

        Raises:
            ValueError: with the shape and the reason.
        """
        seen = f"shape {tuple(shape)} cannot be read by {self}: "
        if len(shape) < 2 or 0 in shape:
            raise ValueError(f"{seen}a matrix has two dimensions at least, and entries")
        if shape[0] % self.groups and self._kernel:
            raise ValueError(f"{seen}its first dimension is no multiple of groups={self.groups}")
        outputs = self._outputs(shape)
        told = self.outer * sum(self.split) * self.inner
        if self.split and told != outputs:
            raise ValueError(f"{seen}outer * sum(split) * inner is {told}, and it has {outputs} outputs")
        sizes = [self.outer * size * self.inner for size in self.split] or [outputs]
        if self.block_rows and any(size % self.block_rows for size in sizes):
            raise ValueError(f"{seen}pieces of {sizes} outputs are no multiples of block_rows={self.block_rows}")

    def kernel(self, shape: Sequence[int]) -> int:
        """Entries of the kernel of a convolution of this shape; 1 where there is none."""
        return math.prod(shape[2:]) if self._kernel else 1

    def matrix_shapes(self, shape: Sequence[int]) -> list[tuple[int, int, int]]:
        """``(count, out, in)`` of the matrices in one parameter of this shape, in the order of `pieces`.

        Raises:
            ValueError: the shape cannot be read this way.
        """
        self.check(shape)
        pieces = self.pieces(torch.empty(1, *shape, device="meta"))
        return [(math.prod(piece.shape[:-2]), piece.shape[-2], piece.shape[-1]) for piece in pieces]

    def pieces(self, stack: Tensor) -> list[Tensor]:
        """``[B, *shape]`` as matrices ``[B, ..., out, in]``: a view where memory allows, and neighbours of one shape
        in one tensor."""
        matrices = [view.flatten(-3 - self._columns(stack), -1 - self._columns(stack)) for view in self._views(stack)]
        matrices = [matrix.flatten(-self._columns(stack)) for matrix in matrices]
        return [torch.unflatten(m, -2, (-1, self.block_rows)) for m in matrices] if self.block_rows else matrices

    def assemble(self, pieces: Sequence[Tensor], like: Tensor) -> Tensor:
        """The inverse of `pieces`: a tensor ``[B, *shape]``, shaped as `like`; it may share memory with a piece."""
        views = list(self._views(like))
        if len(views) == 1 and views[0].is_contiguous() and like.is_contiguous():
            return pieces[0].reshape(like.shape)
        whole = torch.empty_like(like, dtype=pieces[0].dtype)
        for view, piece in zip(self._views(whole), pieces, strict=True):
            view.copy_(piece.reshape(view.shape))
        return whole

    @property
    def _kernel(self) -> bool:
        return self.unfold or self.offsets

    def _columns(self, stack: Tensor) -> int:
        """How many trailing dimensions of a view are inputs."""
        return stack.ndim - 2 if self.unfold else 1

    def _outputs(self, shape: Sequence[int]) -> int:
        """Outputs of one matrix before it is split."""
        first, second = shape[:2] if self._kernel else shape[-2:]
        return second if self.transposed else first // self.groups

    def _views(self, stack: Tensor) -> Iterator[Tensor]:
        """Views ``[B, ..., run, outer, size, inner, *inputs]``, one for each run of pieces of one size."""
        oriented = self._oriented(stack)
        rows = oriented.ndim - self._columns(stack) - 1
        sizes = self.split or (oriented.shape[rows],)
        patterns = torch.unflatten(oriented, rows, (self.outer, sum(sizes), self.inner))
        start = 0
        for size, run in itertools.groupby(sizes):
            length = sum(run)
            piece = patterns.narrow(rows + 1, start, length)
            yield torch.unflatten(piece, rows + 1, (-1, size)).movedim(rows + 1, rows)
            start += length

    def _oriented(self, stack: Tensor) -> Tensor:
        """View ``[B, ..., outputs, *inputs]``."""
        if not self._kernel:
            return stack.mT if self.transposed else stack
        grouped = torch.unflatten(stack, 1, (self.groups, -1))
        grouped = grouped.transpose(2, 3) if self.transposed else grouped
        return grouped.movedim((2, 3), (-2, -1)) if self.offsets else grouped


def filled(part: Any, layout: Layout) -> Any:
    """A part with a layout in the place of those that it leaves open, however deep in it they stand."""
    return _relaid(part, lambda own: layout if own == Layout() else own)


def without_layouts(part: Any) -> Any:
    """A part with plain layouts only."""
    return _relaid(part, lambda own: Layout())


def _relaid(part: Any, change: Callable[[Layout], Layout]) -> Any:
    if isinstance(part, Layout):
        return change(part)
    inner = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    changes = {name: _relaid(value, change) for name, value in inner.items() if isinstance(value, Part)}
    return part.replace(**changes) if changes else part
