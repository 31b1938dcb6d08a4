"""Different storages for the two kinds of averages."""

from __future__ import annotations

import dataclasses

import torch

from metrize.moments.base import Kind, Moments
from metrize.moments.dense import Dense


@dataclasses.dataclass(frozen=True)
class Split(Moments):
    """One storage for averages of the gradient and another for averages of its squares.

    Args:
        linear: storage of averages with signs, such as momentum.
        square: storage of averages of squares.
    """

    linear: Moments = dataclasses.field(default_factory=Dense)
    square: Moments = dataclasses.field(default_factory=Dense)

    @property
    def projects(self) -> bool:  # type: ignore[override]
        return self.linear.projects or self.square.projects

    def with_squares(self, storage: Moments) -> Moments:
        return self.replace(square=storage)

    def of(self, shape: torch.Size, kind: Kind) -> Moments:
        return (self.linear if kind == "linear" else self.square).of(shape, kind)

    def in_place(self, dtype: torch.dtype) -> bool:
        return self.linear.in_place(dtype) and self.square.in_place(dtype)
