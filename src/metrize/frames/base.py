"""The contract of a frame, and the one that changes nothing."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from metrize.part import Part, Spec


@dataclasses.dataclass(frozen=True)
class Frame(Part):
    """A linear change of coordinates in which the averages are kept."""

    def state_spec(self, shape: torch.Size, dtype: torch.dtype) -> Spec:
        """State the frame keeps for one parameter."""
        return {}

    def enter(self, coords: Tensor, state: dict[str, Tensor]) -> Tensor:
        """Coordinates of the space -> coordinates of the averages."""
        raise NotImplementedError

    def leave(self, direction: Tensor, state: dict[str, Tensor]) -> Tensor:
        """The inverse of `enter`."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Identity(Frame):
    """The coordinates of the space itself."""

    def enter(self, coords: Tensor, state: dict[str, Tensor]) -> Tensor:
        return coords

    def leave(self, direction: Tensor, state: dict[str, Tensor]) -> Tensor:
        return direction
