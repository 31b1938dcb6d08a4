"""Every part in every slot, the sentences they make, and a small problem for each."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import random
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from metrize import (
    Blocks,
    Cover,
    Dense,
    Factored,
    Grassmann,
    Identity,
    Lorentz,
    Orthogonal,
    Outer,
    PoincareBall,
    Product,
    Quantized,
    RandomProjection,
    RankOne,
    Recipe,
    Space,
    Sphere,
    Split,
    Stiefel,
    SymplecticGrassmann,
    SymplecticStiefel,
    Vector,
    frames,
    norms,
    rules,
    step_sizes,
)
from metrize.decay import DECAYS as _DECAYS
from metrize.decay import Decay
from metrize.frames import Frame
from metrize.moments import Moments
from metrize.norms import Norm
from metrize.part import Part
from metrize.rules import Rule
from metrize.step_sizes import StepSize
from metrize.testing.problem import SHAPE, Run, goes_on, keeps_its_word, legal, point, trained, went_downhill

__all__ = ["SHAPE", "legal", "point"]  # which are those of every problem

SPACES: tuple[Space, ...] = (
    Vector(),
    Stiefel(),
    Stiefel(section="transported", retraction="geodesic"),
    Grassmann(),
    Orthogonal(blocks=2),
    Sphere(),
    Sphere(axis=-1),
    Product(Stiefel(), 5, Vector()),
    SymplecticStiefel(),
    SymplecticStiefel(form="full"),
    SymplecticGrassmann(),
    Lorentz(),
    PoincareBall(),
)
FRAMES: tuple[Frame, ...] = (
    Identity(),
    frames.Eigenbasis(period=2),
    frames.GaLore(rank=2, period=2),
    frames.COAP(rank=2, period=2, reproject=2),
    frames.APOLLO(rank=2, period=2),
    frames.OnlineSubspace(rank=2),
)
MOMENTS: tuple[Moments, ...] = (
    Dense(),
    Dense("bfloat16"),
    Factored(),
    Outer(),
    Cover(),
    Blocks("rows"),
    RankOne(),
    Quantized(smallest=0, block=16),
    RandomProjection(rank=2, period=2),
    Split(RankOne(), Factored()),
)
NORMS: tuple[Norm, ...] = (
    norms.MaxEntry(),
    norms.Frobenius(),
    norms.RMS(),
    norms.RowNorm(),
    norms.ColumnNorm(),
    norms.SignHead(),
    norms.Nuclear(),
    norms.Schatten(),
    norms.Spectral(),
)
RULES: tuple[Rule, ...] = (
    rules.Gradient(),
    rules.Momentum(),
    rules.Adam(),
    rules.Adam("scalar"),
    rules.ScheduledAdam(),
    rules.FrozenAdam(),
    rules.FAdam(),
    rules.AdaGrad(),
    rules.Whitened(),
    rules.ClippedAverage(),
    rules.CAME(),
    rules.HFac(),
    rules.Shampoo(),
    rules.Lion(),
    rules.Cautious(),
    rules.Mars(),
    rules.Centralized(),
    rules.GradientLimited(),
    rules.UpdateLimited(),
    *map(rules.Steepest, NORMS),
)
STEP_SIZES: tuple[StepSize, ...] = (
    step_sizes.Given(),
    step_sizes.Decaying(),
    step_sizes.Relative(),
    step_sizes.DualNorm(),
    step_sizes.Prodigy(d0=1e-2),
)
DECAYS: tuple[Decay, ...] = tuple(_DECAYS)

SLOTS: dict[type[Part], tuple[Part, ...]] = {
    Space: SPACES,
    Frame: FRAMES,
    Moments: MOMENTS,
    Norm: NORMS,
    Rule: RULES,
    StepSize: STEP_SIZES,
}


def options(part: Part) -> Iterator[Part]:
    """The part with each of its named options taken once, where that is allowed."""
    hints = get_type_hints(type(part))
    for field in dataclasses.fields(part):
        for value in _choices(hints[field.name]):
            if value != getattr(part, field.name):
                with contextlib.suppress(ValueError):  # it asks for another option
                    yield part.replace(**{field.name: value})


def _choices(hint: Any) -> tuple[Any, ...]:
    if hint is bool:
        return (True, False)
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(itertools.chain.from_iterable(map(_choices, get_args(hint))))


OPTIONS: dict[str, tuple[Any, ...]] = {
    slot: tuple(dict.fromkeys(option for part in parts for option in options(part)))
    for slot, parts in {
        "space": SPACES,
        "frame": FRAMES,
        "moments": MOMENTS,
        "rule": RULES,
        "step_size": STEP_SIZES,
        "norm": NORMS,
    }.items()
}
"""Every named option of every part."""


def every(decays: tuple[Decay, ...] = DECAYS) -> Iterator[Recipe]:
    """All sentences of these parts, legal or not."""
    return itertools.starmap(Recipe, itertools.product(SPACES, FRAMES, MOMENTS, RULES, STEP_SIZES, decays))


def sample(count: int, seed: int, fits: bool | None = None) -> list[Recipe]:
    """Some of them, the same ones for a seed; of those that are legal or not, if that is asked for."""
    draw = random.Random(seed)
    found: list[Recipe] = []
    while len(found) < count:
        recipe = Recipe(*map(draw.choice, (SPACES, FRAMES, MOMENTS, RULES, STEP_SIZES, DECAYS)))
        if fits is None or legal(recipe) is fits:
            found.append(recipe)
    return found


class OnSubspaces(Run):
    """A run whose loss knows of subspaces what counts there, with a hundred times the rate for Prodigy."""

    @property
    def rate(self) -> float:
        return self.lr * (100 if isinstance(self.recipe.step_size, step_sizes.Prodigy) else 1)  # it finds the rest

    def seen(self, p: Tensor) -> Tensor:
        """What the loss knows of a point: all of it, or the projector on its span."""
        if isinstance(self.recipe.space, Grassmann):
            return p @ p.mT
        if isinstance(self.recipe.space, SymplecticGrassmann):
            return p @ _j(p.shape[1]).mT @ p.mT @ _j(p.shape[0])
        return p


def _j(size: int) -> Tensor:
    """``[[0, I], [-I, 0]]``."""
    upper = torch.diag(torch.ones(size // 2), size // 2)
    return upper - upper.mT


def check_sentence(recipe: Recipe, save_at: int = 3, steps: int = 8) -> None:
    """All that a legal sentence promises."""

    def begin(lr: float) -> OnSubspaces:
        return OnSubspaces(recipe, lr)

    run = trained(begin, steps)
    went_downhill(run)
    keeps_its_word(run)
    goes_on(begin, run, save_at)
