"""Code books: the numbers that codes of a few bits stand for, and the nearest of them."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal, get_args

import torch
from torch import Tensor

Map = Literal["dynamic", "linear", "float8"]
MAPS: tuple[str, ...] = get_args(Map)

_CELLS = 2**15  # upper halves of the floats from -1 to 1
_HALF, _SIGN = torch.tensor(16, dtype=torch.int32), torch.tensor(31, dtype=torch.int32)  # else made at each call


@dataclasses.dataclass(frozen=True)
class CodeBook:
    """Numbers from -1 to 1, in ascending order, and how to find the one that is nearest.

    Floats from -1 to 1 fall into cells by the upper 16 bits of their patterns, and at most one midpoint of neighbouring
    numbers lies in a cell. So the cell and the lower 16 bits decide, and one table does for both: what it has for a
    cell is to be added to the pattern, such that the lower bits make a carry from the midpoint on, and the upper ones
    become the code.

    Args:
        bits: of a code, 8 or 4.
        signed: whether some of the numbers are negative.
        values: the numbers by code, ``[2^bits]``; unused codes at the end stand for 0.
        pairs: the two numbers of a byte of 4-bit codes, as complex ones.
        cells: the table.
    """

    bits: int
    signed: bool
    values: Tensor
    pairs: Tensor
    cells: Tensor

    def nearest(self, ratio: Tensor) -> Tensor:
        """The codes nearest to float32 numbers ``[N]`` from -1 to 1, which are overwritten: ``[N bits / 8]``.

        Between two numbers equally near it is the one farther from 0. Of the result the lower byte counts.
        """
        pattern = _ascending_(ratio, self.signed)
        codes = self.cells.index_select(0, pattern >> _HALF).add_(pattern).bitwise_right_shift_(_HALF)
        if self.bits == 8:
            return codes
        two = codes.to(torch.uint8).view(torch.int16)  # the first code of each pair in the lower byte
        return two | two >> 4

    def numbers(self, codes: Tensor) -> Tensor:
        """What bytes of codes stand for, ``[N bits / 8] -> [N]``."""
        if self.bits == 8:
            return self.values.index_select(0, codes.to(torch.int32))
        return torch.view_as_real(self.pairs.index_select(0, codes.to(torch.int32))).view(-1)


@functools.lru_cache
def code_book(kind: Map, bits: int, signed: bool, dtype: torch.dtype, device: torch.device) -> CodeBook:
    """The book of a map, with numbers in a dtype and tables on a device."""
    numbers = numbers_of(kind, bits, signed)
    values = torch.nn.functional.pad(numbers, (0, 2**bits - len(numbers))).to(device, dtype)
    first, second = torch.meshgrid(values[:16], values[:16], indexing="xy")
    return CodeBook(bits, signed, values, torch.complex(first, second).flatten(), _cells(numbers).to(device))


def numbers_of(kind: Map, bits: int, signed: bool) -> Tensor:
    """The numbers of a map in ascending order, in float64.

    ``"dynamic"`` (arXiv:2110.02861): 0, 1, and for each of ``bits - 1`` exponents e the middles of ``2^e`` equal parts
    of [0.1, 1], and of twice as many without signs, times ``10^(e - bits + 2)``; with signs their negatives too.
    ``"linear"``: ``k / 2^bits`` from k = 1, so that nothing but a block of zeros is read as 0; with signs
    ``k / (2^(bits - 1) - 1)`` with k of either sign. ``"float8"``: the finite numbers of the format e4m3, over the
    largest one.
    """
    if kind == "dynamic":
        positive = torch.cat([_decade(e, bits, signed) for e in range(bits - 1)])
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        return torch.cat([-positive if signed else positive[:0], positive, ends]).sort().values
    if kind == "linear":
        top = 2 ** (bits - 1) - 1 if signed else 2**bits
        return torch.arange(-top if signed else 1, top + 1, dtype=torch.float64) / top
    numbers = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
    wanted = numbers.isfinite() & (~numbers.signbit() | (numbers < 0) & signed)  # a single zero
    return numbers[wanted].sort().values / 448


def _decade(e: int, bits: int, signed: bool) -> Tensor:
    parts = 2**e if signed else 2 ** (e + 1)
    edges = torch.linspace(0.1, 1, parts + 1, dtype=torch.float64)
    return (edges[1:] + edges[:-1]) / 2 * 10.0 ** (e - bits + 2)


def _ascending_(ratio: Tensor, signed: bool) -> Tensor:
    """Bit patterns of floats from -1 to 1 as integers from 0 that ascend with negative, and with positive floats.

    Bit 30 is 0 for such a float, and so it tells the negative ones once their bits are turned over. Without signs it is
    the pattern of the magnitude.
    """
    if not signed:
        return ratio.abs_().view(torch.int32)
    pattern = ratio.view(torch.int32)
    return pattern.bitwise_xor_(pattern >> _SIGN)


def _cells(numbers: Tensor) -> Tensor:
    middles = ((numbers[1:] + numbers[:-1]) / 2).float()
    middles = torch.where(middles < 0, torch.nextafter(middles, torch.zeros(())), middles)  # away from 0 where equal
    first = torch.arange(_CELLS, dtype=torch.int32) << 16
    least, most = (torch.where(p >= 2**30, ~p, p).view(torch.float32) for p in (first, first | 0xFFFF))
    below = torch.searchsorted(middles, least, out_int32=True, right=True)
    inside = torch.searchsorted(middles, most, out_int32=True, right=True) - below
    used = (least >= -1) & (most <= 1)
    assert bool((inside[used] <= 1).all()), "two midpoints in one cell"
    middle = _ascending_(middles, signed=True)[below.clamp(max=len(middles) - 1)]
    carry = torch.where(inside == 1, 0x10000 - (middle & 0xFFFF), 0)
    return (below << 16) + carry.to(torch.int32) - first
