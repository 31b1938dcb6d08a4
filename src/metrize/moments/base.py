"""The contract of a storage, and the handle a rule works with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from metrize.part import Part, Spec


@dataclasses.dataclass(frozen=True)
class Moments(Part):
    """A storage for averages that have the shape of a parameter."""

    def state_spec(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Spec:
        """What one average called `name` keeps for a parameter of this logical shape and dtype."""
        raise NotImplementedError

    def in_place(self, dtype: torch.dtype) -> bool:
        """Whether `read` hands out the stored tensor itself, in this dtype."""
        return False

    def read(self, name: str, state: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
        """The average in the dtype of the arithmetic, stacked ``[B, *shape]``; may be the stored tensor itself."""
        raise NotImplementedError

    def write(self, name: str, state: dict[str, Tensor], value: Tensor) -> None:
        """Keep a value that `read` returned and the rule changed in place."""
        raise NotImplementedError


@dataclasses.dataclass
class Averages:
    """What a rule sees of its state: averages by name, shaped like the points, however they are stored.

    Args:
        moments: the storage.
        state: stacked state of a bucket, ``[B, ...]`` each.
        points: the space's view of a stack as points.
        dtype: of the arithmetic.
    """

    moments: Moments
    state: dict[str, Tensor]
    points: Callable[[Tensor], Tensor]
    dtype: torch.dtype
    _open: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def read(self, name: str) -> Tensor:
        """The average, as a tensor the rule may change in place before `keep`."""
        self._open[name] = self.moments.read(name, self.state, self.dtype)
        return self.points(self._open[name])

    def turn(self, names: tuple[str, ...], turn: Callable[[Tensor], Tensor]) -> None:
        """Change the coordinates of averages that are linear in the gradient."""
        for name in names:
            average = self.read(name)
            average.copy_(turn(average))
        self.keep()

    def keep(self) -> None:
        """Store every average that was read."""
        for name, value in self._open.items():
            self.moments.write(name, self.state, value)
        self._open.clear()

    def small(self, name: str) -> Tensor:
        """State that is kept as it is, such as one number for each point: ``[B, *batch]``."""
        return self.state[name]

    @property
    def step(self) -> Tensor:
        """Steps taken by each parameter, this one included: ``[B]`` in float64."""
        return self.state["step"].double()
