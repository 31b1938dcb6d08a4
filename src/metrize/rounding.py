"""How a 16-bit parameter takes in a step that was computed in 32 bits."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from metrize.part import Part, Spec


@dataclasses.dataclass(frozen=True)
class Rounding(Part, abstract=True):
    """From float32 to a parameter's bfloat16, once in a step. Parameters of other dtypes are written as they are."""

    exact: ClassVar[bool] = True
    """Whether a plain copy says all that `narrow_` says."""

    def state_spec(self, shape: torch.Size, dtype: torch.dtype) -> Spec:
        """State kept for one parameter of this shape and dtype."""
        return {}

    def widen(self, stored: Tensor, rest: Tensor | None) -> Tensor:
        """A 16-bit parameter, or a piece of one, in float32.

        Args:
            stored: the parameter.
            rest: the piece of ``state["rounding.rest"]`` that belongs to it, where there is one.
        """
        return stored.float()

    def narrow_(self, stored: Tensor, wide: Tensor, rest: Tensor | None, draw: int) -> None:
        """Write float32 numbers to a 16-bit parameter, or to a piece of one.

        Args:
            stored: the parameter, overwritten.
            wide: what it shall be, same shape.
            rest: as for `widen`, updated.
            draw: tells the random numbers of this piece and step from those of all others.
        """
        stored.copy_(wide)

    def draw(self, state: dict[str, Tensor], piece: int = 0) -> int:
        """The ``draw`` of a piece of one parameter in the running step, from its state."""
        return 0


@dataclasses.dataclass(frozen=True)
class Nearest(Rounding):
    """To the nearest number; steps below half of its last digit are lost."""


@dataclasses.dataclass(frozen=True)
class Stochastic(Rounding):
    """Up or down at random, ``P(up) = (x - low) / (high - low)``, so that small steps count on average.

    Random numbers come from a generator that is made for each parameter and step from a seed in the state, so that
    a resumed run draws what the straight run would have drawn.

    Args:
        seed: of the whole optimizer; each parameter's own is kept with it.
    """

    seed: int = 0

    exact: ClassVar[bool] = False

    def state_spec(self, shape: torch.Size, dtype: torch.dtype) -> Spec:
        return {"rounding.seed": ((), torch.int64)} if dtype == torch.bfloat16 else {}

    def narrow_(self, stored: Tensor, wide: Tensor, rest: Tensor | None, draw: int) -> None:
        if stored.dtype != torch.bfloat16:
            stored.copy_(wide)
            return
        generator = torch.Generator(wide.device).manual_seed(draw)
        noise = torch.randint(2**16, wide.shape, generator=generator, dtype=torch.int32, device=wide.device)
        stored.copy_(rounded(wide, noise))

    def draw(self, state: dict[str, Tensor], piece: int = 0) -> int:
        if "rounding.seed" not in state:
            return 0
        place, step = int(state["rounding.seed"]), int(state["step"])
        mixed = self.seed * 0xD6E8FEB86659FD93 + place * 0x9E3779B97F4A7C15
        mixed = (mixed + step * 0xC2B2AE3D27D4EB4F + piece * 0x165667B19E3779F9) % 2**64
        return (mixed ^ mixed >> 31) % 2**63


@dataclasses.dataclass(frozen=True)
class Compensated(Rounding):
    """To the nearest number, and what that leaves out is kept in 16 bits more: float32 weights for two bytes each.

    The parameter itself stays the bfloat16 tensor that the model computes with.
    """

    exact: ClassVar[bool] = False

    def state_spec(self, shape: torch.Size, dtype: torch.dtype) -> Spec:
        return {"rounding.rest": (tuple(shape), torch.int16)} if dtype == torch.bfloat16 else {}

    def widen(self, stored: Tensor, rest: Tensor | None) -> Tensor:
        if rest is None:
            return stored.float()
        return (stored.float().view(torch.int32) + rest).view(torch.float32)

    def narrow_(self, stored: Tensor, wide: Tensor, rest: Tensor | None, draw: int) -> None:
        stored.copy_(wide)
        if rest is not None:
            left = wide.contiguous().view(torch.int32) - stored.float().view(torch.int32)
            rest.copy_(left.clamp_(-(2**15), 2**15 - 1))  # a tie may ask for one more


def rounded(wide: Tensor, noise: Tensor) -> Tensor:
    """The bfloat16 numbers, in float32, next to `wide`: below where ``bits + noise`` does not reach the next.

    Args:
        wide: float32.
        noise: int32 from 0 to 65,535, same shape.
    """
    bits = (wide.contiguous().view(torch.int32) + noise) & -(2**16)
    down = wide.abs() > torch.finfo(torch.bfloat16).max  # the next number up is infinite
    return torch.where(down, wide.clamp(*_BOUNDS), bits.view(torch.float32))


_BOUNDS = (torch.finfo(torch.bfloat16).min, torch.finfo(torch.bfloat16).max)
