"""Codes of a few bits, with a scale for each block of numbers."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from metrize.moments.base import Kind, Moments, Slot, accumulate_
from metrize.moments.dense import Dense
from metrize.moments.quantized_codes import MAPS, CodeBook, Map, code_book
from metrize.moments.stream import Cut, Stream
from metrize.part import Spec, choice


@dataclasses.dataclass(frozen=True)
class Quantized(Moments):
    """Averages in 8 or 4 bits, with a scale for each block (arXiv:2110.02861, arXiv:2309.01507).

    A tensor is read row by row and cut into blocks. Of a block it keeps its largest magnitude s and for each number x
    the code of the number that is nearest to ``x / s`` in a map of numbers up to 1. The fresh gradient enters the
    uncompressed average, and that one is used before it is rounded again. Numbers too small beside the largest one of
    their block are read as 0.

    Args:
        bits: 8 or 4.
        block: numbers that share a scale.
        map: ``"dynamic"``: numbers with as many digits as their exponent leaves bits for; ``"linear"``: equally spaced
            ones, and for squares none that is 0; ``"float8"``: those of the format e4m3.
        squares: the map for averages of squares; None: `map`, and for 4 bits ``"linear"``, because a denominator that
            was rounded to 0 makes a step too long.
        signed: averages of squares take a map with signs as well.
        smallest: tensors with fewer numbers are stored densely.
        whole_blocks: tensors whose numbers do not fill their last block are stored densely.

    Raises:
        ValueError: an unknown option or a number out of range.
    """

    bits: Literal[8, 4] = 8
    block: int = 256
    map: Map = "dynamic"
    squares: Map | None = None
    signed: bool = False
    smallest: float = 4096
    whole_blocks: bool = False

    streams: ClassVar[bool] = True
    rereads: ClassVar[bool] = False
    lends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        choice(self, "map", MAPS)
        if self.squares is not None:
            choice(self, "squares", MAPS)
        if self.bits not in (8, 4) or (self.bits == 4 and "float8" in (self.map, self.squares)):
            raise ValueError(f"Quantized(bits={self.bits!r}): 8 or 4, and 8 for 'float8'")
        if not isinstance(self.block, int) or self.block < 2 or self.block % 2:
            raise ValueError(f"Quantized(block={self.block!r}): an even number of at least 2")
        if not self.smallest >= 0:
            raise ValueError(f"Quantized(smallest={self.smallest!r}): a number of at least 0")

    def map_of(self, kind: Kind) -> Map:
        """The map for averages of one kind."""
        squares: Map = "linear" if self.bits == 4 else self.map
        return self.map if kind == "linear" else self.squares or squares

    @property
    def align(self) -> int:  # type: ignore[override]
        return self.block

    def of(self, shape: torch.Size, kind: Kind) -> Moments:
        count = math.prod(shape)
        dense = count < max(self.smallest, 1) or (self.whole_blocks and count % self.block)
        return Dense() if dense else self

    def state_spec(self, name: str, shape: torch.Size, dtype: torch.dtype, kind: Kind) -> Spec:
        count = math.prod(shape)
        codes, scales = -(-count * self.bits // 8), -(-count // self.block)
        return {f"{name}.code": ((codes,), torch.uint8), f"{name}.scale": ((scales,), dtype)}

    def stream(self, slot: Slot, state: dict[str, Tensor]) -> _QuantizedStream:
        codes, scales = state[f"{slot.name}.code"], state[f"{slot.name}.scale"]
        signed = self.signed or slot.kind == "linear"
        book = code_book(self.map_of(slot.kind), self.bits, signed, slot.dtype, codes.device)
        return _QuantizedStream(slot.kind, book, self.block, codes, scales)

    def read(self, slot: Slot, state: dict[str, Tensor]) -> Tensor:
        return self.stream(slot, state).again(Cut(tuple(slot.shape)))

    def write(self, slot: Slot, state: dict[str, Tensor], value: Tensor) -> None:
        self.stream(slot, state).give_back(Cut(tuple(slot.shape)), value.clone())


@dataclasses.dataclass
class _QuantizedStream(Stream):
    kind: Kind
    book: CodeBook
    block: int
    codes: Tensor
    scales: Tensor

    def update(self, cut: Cut, value: Tensor, decay: float | Tensor, gain: float | Tensor) -> Tensor:
        average = self.again(cut)
        accumulate_(average, value, decay, gain, self.kind)
        self.give_back(cut, average.clone())
        return average

    def again(self, cut: Cut) -> Tensor:
        """The average of a piece as it was kept until this step."""
        codes, scales = self._kept(cut)
        count, size = cut.stop - cut.start, self.block * self.book.bits // 8
        numbers = self.book.numbers(_filled(codes, size)).view(*scales.shape, self.block).mul_(scales.unsqueeze(2))
        numbers = numbers.flatten(1)[:, :count] if count % self.block else numbers
        return numbers.reshape(codes.shape[0], *cut.shape)

    def give_back(self, cut: Cut, average: Tensor) -> None:
        """Round a piece, whose numbers are overwritten."""
        codes, scales = self._kept(cut)
        blocks = _filled(average, self.block).view(*scales.shape, self.block)
        largest = blocks.amax(2)
        if self.book.signed:
            largest = torch.maximum(largest, blocks.amin(2).neg_())
        largest.nan_to_num_(nan=0.0, posinf=0.0)  # where no guard stands before, such a block starts from zero
        # 0 / 0 has a code too, and with a scale of 0 it is read as 0
        found = self.book.nearest(blocks.div_(largest.unsqueeze(2)).float().view(-1)).view(codes.shape[0], -1)
        codes.copy_(found if found.shape == codes.shape else found[:, : codes.shape[1]])
        scales.copy_(largest)

    def _kept(self, cut: Cut) -> tuple[Tensor, Tensor]:
        """Codes and scales of a piece, which begins with a block and ends with one or with the tensor."""
        count, bits = cut.stop - cut.start, self.book.bits
        codes = self.codes.narrow(1, cut.start * bits // 8, -(-count * bits // 8))
        return codes, self.scales.narrow(1, cut.start // self.block, -(-count // self.block))


def _filled(stack: Tensor, size: int) -> Tensor:
    """All numbers of rows ``[B, ...]``, one row after the other, each filled up with zeros to a multiple of `size`."""
    missing = -(stack.numel() // stack.shape[0]) % size
    if missing:
        stack = torch.nn.functional.pad(stack.reshape(stack.shape[0], -1), (0, missing))
    return stack.reshape(-1)
