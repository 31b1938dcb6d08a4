"""How a 16-bit parameter takes in a step that was computed in 32 bits."""

from __future__ import annotations

import dataclasses
import zlib

import torch
from torch import Tensor

from metrize.part import Part, Spec


@dataclasses.dataclass(frozen=True)
class Rounding(Part):
    """From float32 to a parameter's bfloat16, once in a step. Parameters of other dtypes are written as they are."""

    def state_spec(self, shape: torch.Size, dtype: torch.dtype) -> Spec:
        """State kept for one parameter of this shape and dtype."""
        return {}

    def widen(self, stored: Tensor, kept: dict[str, Tensor]) -> Tensor:
        """A parameter, or a piece of one, in float32; not the parameter itself.

        Args:
            stored: the parameter.
            kept: the state's pieces that belong to it.
        """
        return stored.float()

    def narrow_(self, stored: Tensor, wide: Tensor, kept: dict[str, Tensor], draw: int) -> None:
        """Write float32 numbers to the parameter, or to a piece of one.

        Args:
            stored: the parameter, overwritten.
            wide: what it shall be, same shape.
            kept: the state's pieces that belong to it, updated.
            draw: tells the random numbers of this piece and step from those of all others.
        """
        stored.copy_(wide)


@dataclasses.dataclass(frozen=True)
class Nearest(Rounding):
    """To the nearest number; steps below half of its last digit are lost."""


@dataclasses.dataclass(frozen=True)
class Stochastic(Rounding):
    """Up or down at random, ``P(up) = (x - low) / (high - low)``, so that small steps count on average.

    Random numbers come from a generator that is made anew for each parameter and step from a seed in the state, so that
    a resumed run draws what the straight run would have drawn.

    Args:
        seed: of the whole optimizer; each parameter's own is made from it and from its name.
    """

    seed: int = 0

    def state_spec(self, shape: torch.Size, dtype: torch.dtype) -> Spec:
        return {"rounding.seed": ((), torch.int64)} if dtype == torch.bfloat16 else {}

    def narrow_(self, stored: Tensor, wide: Tensor, kept: dict[str, Tensor], draw: int) -> None:
        if stored.dtype != torch.bfloat16:
            stored.copy_(wide)
            return
        generator = torch.Generator(wide.device).manual_seed(draw)
        noise = torch.randint(2**16, wide.shape, generator=generator, dtype=torch.int32, device=wide.device)
        stored.copy_(rounded(wide, noise))


@dataclasses.dataclass(frozen=True)
class Compensated(Rounding):
    """To the nearest number, and what that leaves out is kept in 16 bits more: float32 weights for two bytes each.

    The parameter itself stays the bfloat16 tensor that the model computes with.
    """

    def state_spec(self, shape: torch.Size, dtype: torch.dtype) -> Spec:
        return {"rounding.rest": (tuple(shape), torch.int16)} if dtype == torch.bfloat16 else {}

    def widen(self, stored: Tensor, kept: dict[str, Tensor]) -> Tensor:
        if stored.dtype != torch.bfloat16:
            return stored.float()
        return (stored.float().view(torch.int32) + kept["rounding.rest"]).view(torch.float32)

    def narrow_(self, stored: Tensor, wide: Tensor, kept: dict[str, Tensor], draw: int) -> None:
        stored.copy_(wide)
        if stored.dtype == torch.bfloat16:
            rest = wide.contiguous().view(torch.int32) - stored.float().view(torch.int32)
            kept["rounding.rest"].copy_(rest.clamp_(-(2**15), 2**15 - 1))  # a tie may ask for one more


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


def seed_of(seed: int, name: str) -> int:
    """A parameter's own seed."""
    return (seed * 0x9E3779B1 + zlib.crc32(name.encode())) % 2**31


def draw_of(seed: int, step: int, piece: int = 0) -> int:
    """A seed for one piece of a parameter in one step; neighbours have nothing in common."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xC2B2AE3D27D4EB4F + piece * 0x165667B19E3779F9) % 2**64
    return (mixed ^ mixed >> 31) % 2**63
