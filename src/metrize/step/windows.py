"""Parts of a tensor, stepped by a kernel just as it would step them within the whole tensor."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

_WINDOW = 64  # entries; a multiple of the length of any vector register


@dataclasses.dataclass(frozen=True)
class ShardSpan:
    """Where a part lies in the whole tensor, by entries in memory order.

    A one-pass kernel takes entries by the vector and the last few of a tensor one by one, and the two may round
    differently. So a part is stepped by windows of the whole tensor: full ones where they lie, and those that reach
    beyond the part as copies, of which only the part's own entries count.

    Args:
        start: first entry of the part.
        total: entries of the whole.
    """

    start: int
    total: int

    def pieces(self, part: Tensor) -> list[Tensor]:
        """The part in pieces that a kernel may change: its inner windows in place, and copies of windows at its ends.

        Args:
            part: dense; seen in memory order.
        """
        flat = part.as_strided((part.numel(),), (1,))
        return [
            self._window(flat, first, end) if copied else flat[first:end]
            for first, end, copied in self._cuts(len(flat))
        ]

    def write_back(self, part: Tensor, pieces: list[Tensor]) -> None:
        """Keep what a kernel made of the copies."""
        flat = part.as_strided((part.numel(),), (1,))
        for (first, end, copied), piece in zip(self._cuts(len(flat)), pieces, strict=True):
            if copied:
                at = (self.start + first) % _WINDOW
                flat[first:end] = piece[at : at + end - first]

    def _cuts(self, length: int) -> Iterator[tuple[int, int, bool]]:
        """Begin and end of each piece within the part, and whether its window reaches beyond."""
        end = self.start + length
        inner = min(-(-self.start // _WINDOW) * _WINDOW, end)
        outer = end if end == self.total else max(end // _WINDOW * _WINDOW, inner)
        if self.start < inner:
            yield 0, inner - self.start, True
        if inner < outer:
            yield inner - self.start, outer - self.start, False
        if outer < end:
            yield outer - self.start, length, True

    def _window(self, flat: Tensor, first: int, end: int) -> Tensor:
        at = (self.start + first) % _WINDOW
        beginning = self.start + first - at
        window = torch.zeros(min(_WINDOW, self.total - beginning), dtype=flat.dtype, device=flat.device)
        window[at : at + end - first] = flat[first:end]
        return window


State = dict[str, list[Tensor]]


def by_windows(
    spans: Sequence[ShardSpan],
    params: list[Tensor],
    grads: list[Tensor],
    state: State,
    kernel: Callable[[list[Tensor], list[Tensor], State], None],
) -> None:
    """Call a kernel on the pieces of all members, and keep what it did to copies.

    Args:
        spans: where each member lies.
        params: the parts, changed in place.
        grads: of the parts.
        state: of the parts, by key; numbers are given with each piece.
        kernel: takes parameters, gradients and state.
    """
    kept = {"param": params} | {key: values for key, values in state.items() if values[0].ndim}
    lent = {key: [span.pieces(t) for span, t in zip(spans, values, strict=True)] for key, values in kept.items()}
    counts = [len(pieces) for pieces in lent["param"]]
    numbers = {key: _repeated(state[key], counts) for key in state.keys() - kept.keys()}
    joined = {key: list(itertools.chain.from_iterable(pieces)) for key, pieces in lent.items()}
    pieces = joined.pop("param")
    gradients = [piece for span, grad in zip(spans, grads, strict=True) for piece in span.pieces(grad)]
    if pieces:
        kernel(pieces, gradients, joined | numbers)
    for key, parts in kept.items():
        for span, part, own in zip(spans, parts, lent[key], strict=True):
            span.write_back(part, own)


def _repeated(values: list[Tensor], counts: list[int]) -> list[Tensor]:
    return [value for value, count in zip(values, counts, strict=True) for _ in range(count)]
