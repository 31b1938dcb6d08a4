"""The largest of the averages in each slice."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar, Literal

import torch
from torch import Tensor

from metrize.moments.base import Kind, Moments, Slot, Streaming, accumulate_, per_member
from metrize.moments.dense import Dense
from metrize.moments.stream import Cut, Stream
from metrize.part import Spec, choice


@dataclasses.dataclass(frozen=True)
class Cover(Streaming):
    """Averages of squares as one number for each slice along each dimension (SM3, arXiv:1901.11150).

    An entry's average is read as the least number of the slices that it lies in, ``min_i A_i``. Averages with signs,
    and tensors with fewer than two dimensions, are stored densely.

    Args:
        variant: ``"II"`` adds the new square to what is read, ``v = decay min_i A_i + gain g^2``, uses v and keeps the
            largest v of each slice; ``"I"`` adds the largest square of each slice to its number. II is the tighter one.

    Raises:
        ValueError: an unknown variant.
    """

    variant: Literal["II", "I"] = "II"

    def __post_init__(self) -> None:
        choice(self, "variant", ("II", "I"))

    @property
    def ahead(self) -> bool:  # type: ignore[override]
        return self.variant == "I"

    @property
    def rereads(self) -> bool:  # type: ignore[override]
        return self.variant == "I"

    def of(self, shape: torch.Size, kind: Kind) -> Moments:
        return Dense() if kind == "linear" or len(shape) < 2 else self

    def state_spec(self, name: str, shape: torch.Size, dtype: torch.dtype, kind: Kind) -> Spec:
        return {f"{name}.{d}": ((length,), dtype) for d, length in enumerate(shape)}

    def stream(self, slot: Slot, state: dict[str, Tensor]) -> _CoverStream:
        return _CoverStream([state[f"{slot.name}.{d}"] for d in range(len(slot.shape))], self.ahead)

    def read(self, slot: Slot, state: dict[str, Tensor]) -> Tensor:
        return self.stream(slot, state).again(Cut(self.layout(slot.shape)))

    def write(self, slot: Slot, state: dict[str, Tensor], value: Tensor) -> None:
        stream = self.stream(slot, state)
        stream.raise_to(Cut(self.layout(slot.shape)), value)
        torch._foreach_copy_(stream.covers, stream.largest)


class _CoverStream(Stream):
    fresh: ClassVar[bool] = True

    def __init__(self, covers: list[Tensor], ahead: bool) -> None:
        self.covers, self.ahead = covers, ahead
        self.largest = [torch.zeros_like(cover) for cover in covers]

    def observe(self, cut: Cut, value: Tensor, decay: float | Tensor, gain: float | Tensor) -> Tensor | None:
        if not self.ahead:
            return self.update(cut, value, decay, gain)
        self.raise_to(cut, value.square())
        self.decay, self.gain = decay, gain
        return None

    def settle(self) -> None:
        if self.ahead:
            for cover, largest in zip(self.covers, self.largest, strict=True):
                accumulate_(cover, largest, per_member(self.decay, cover), per_member(self.gain, cover), "linear")

    def update(self, cut: Cut, value: Tensor, decay: float | Tensor, gain: float | Tensor) -> Tensor:
        average = self.again(cut)
        accumulate_(average, value, decay, gain, "square")
        self.raise_to(cut, average)
        return average

    def again(self, cut: Cut) -> Tensor:
        parts = [self._part(cut, cover, d) for d, cover in enumerate(self.covers)]
        return functools.reduce(torch.minimum, reversed(parts))  # the last dimensions first: these are small

    def raise_to(self, cut: Cut, piece: Tensor) -> None:
        """Let the slices know the numbers of a piece."""
        for d, largest in enumerate(self.largest):
            part = largest[:, cut.index[d]] if d < len(cut.index) else largest
            torch.maximum(part, piece.flatten(2).amax(2) if piece.ndim > 2 else piece, out=part)
            piece = piece.amax(1)  # what is left to look at is small from here on

    def close(self) -> None:
        if not self.ahead:
            torch._foreach_copy_(self.covers, self.largest)

    def _part(self, cut: Cut, cover: Tensor, dim: int) -> Tensor:
        """The slices along one dimension that a piece meets, shaped to broadcast with it."""
        part = cover[:, cut.index[dim]] if dim < len(cut.index) else cover
        return part.reshape(len(cover), *(-1 if d == dim else 1 for d in range(len(self.covers))))
