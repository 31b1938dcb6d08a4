"""Every number of an average, as it is."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import torch
from torch import Tensor

from metrize.moments.base import Kind, Moments, Slot, accumulate_
from metrize.moments.stream import Cut, Stream
from metrize.part import Spec, choice

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


@dataclasses.dataclass(frozen=True)
class Dense(Moments):
    """Dense storage.

    Args:
        dtype: ``None`` keeps float32 (float64 for float64 parameters) whatever the parameter's dtype;
            ``"bfloat16"`` halves the memory and rounds at every write.

    Raises:
        ValueError: an unknown dtype.
    """

    dtype: Literal["bfloat16", "float32", "float64"] | None = None

    streams: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True
    lends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.dtype is not None:
            choice(self, "dtype", tuple(_DTYPES))

    def state_spec(self, name: str, shape: torch.Size, dtype: torch.dtype, kind: Kind) -> Spec:
        return {name: (tuple(shape), dtype if self.dtype is None else _DTYPES[self.dtype])}

    def in_place(self, dtype: torch.dtype) -> bool:
        return self.dtype is None or _DTYPES[self.dtype] == dtype

    def read(self, slot: Slot, state: dict[str, Tensor]) -> Tensor:
        return state[slot.name].to(slot.dtype)

    def write(self, slot: Slot, state: dict[str, Tensor], value: Tensor) -> None:
        if state[slot.name] is not value:
            state[slot.name].copy_(value)

    def stream(self, slot: Slot, state: dict[str, Tensor]) -> Stream:
        return _DenseStream(slot, state[slot.name])


class _DenseStream(Stream):
    def __init__(self, slot: Slot, stored: Tensor) -> None:
        self.slot, self.stored = slot, stored

    @property
    def fresh(self) -> bool:  # type: ignore[override]
        return self.stored.dtype != self.slot.dtype

    def update(self, cut: Cut, value: Tensor, decay: float | Tensor, gain: float | Tensor) -> Tensor:
        average = self.again(cut)
        accumulate_(average, value, decay, gain, self.slot.kind)
        self.give_back(cut, average)
        return average

    def give_back(self, cut: Cut, average: Tensor) -> None:
        kept = cut.of(self.stored)
        if average.dtype != kept.dtype:
            kept.copy_(average)

    def again(self, cut: Cut) -> Tensor:
        return cut.of(self.stored).to(self.slot.dtype)
