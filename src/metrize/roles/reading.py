"""The layout of a matrix, from the dimensions that its uses sum over."""

from __future__ import annotations

from collections.abc import Sequence

from metrize.norms import Layout
from metrize.roles.role import solid
from metrize.roles.trace import Use


def reading(shape: tuple[int, ...], uses: Sequence[Use]) -> Layout | None:
    """The layout that its uses as a factor of products or as a kernel tell; None where no layout says it.

    Args:
        shape: of the parameter.
        uses: of the parameter; those of other kinds do not count.
    """
    for use in uses:
        if use.how == "conv":
            return _kernel(shape, use)
        if use.how == "matrix":
            return _matrix(shape, [use for use in uses if use.how == "matrix"])
    return None


def _kernel(shape: tuple[int, ...], use: Use) -> Layout | None:
    if len(shape) == 2:  # a matrix that was given a kernel of one entry
        return Layout(transposed=use.transposed)
    return Layout(unfold=True, groups=use.groups, transposed=use.transposed)


def _matrix(shape: tuple[int, ...], uses: Sequence[Use]) -> Layout | None:
    last, dims, outputs = len(shape) - 1, set(solid(shape)), set(uses[0].outputs)
    contracted = set(uses[0].contracted) or (dims - outputs)
    if any(use.partial for use in uses):
        return None
    if last == 1 and not outputs and len(contracted) == 2:  # a factor of a weight is read as it is stored
        return Layout()
    if len(shape) > 2 and 0 not in contracted and contracted == dims - {0} and outputs <= {0}:
        return Layout(unfold=True)
    # outputs along leading dimensions are those of a bank whose matrices share one input
    if contracted == {last} and (last - 1 in outputs or not outputs):
        return Layout(split=_blocks(shape[last - 1], uses))
    if contracted == {last - 1} and (last in outputs or not outputs):
        return Layout(transposed=True, split=_blocks(shape[last], uses))
    return None


def _blocks(outputs: int, uses: Sequence[Use]) -> tuple[int, ...]:
    """Sizes of the slices that the outputs are used in; empty where they are used as a whole."""
    spans = sorted({use.span for use in uses if use.span[1]})
    ends = [start + size for start, size in spans]
    adjacent = [start for start, _ in spans] == [0, *ends[:-1]] and ends[-1:] == [outputs]
    return tuple(size for _, size in spans) if adjacent and len(spans) > 1 else ()
