"""Every part in every slot, the sentences they make, and a small problem for each."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import itertools
import math
import pickle
import random
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

import metrize
from metrize import (
    Blocks,
    Cover,
    Dense,
    Factored,
    Grassmann,
    Identity,
    Orthogonal,
    Outer,
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

SHAPE = torch.Size((8, 4))
"""Of which every space has a point."""

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


def legal(recipe: Recipe, shape: torch.Size = SHAPE, dtype: torch.dtype = torch.float32) -> bool:
    try:
        if dtype.is_complex:
            recipe.check_complex(dtype)
        recipe.check(recipe.space or Vector(), shape)
    except metrize.SpaceError:
        return False
    return True


def point(recipe: Recipe, seed: int, shape: torch.Size = SHAPE, dtype: torch.dtype = torch.float32) -> Tensor:
    """A random point of the recipe's space."""
    return (recipe.space or Vector()).random_(torch.empty(shape, dtype=dtype), torch.Generator().manual_seed(seed))


@dataclasses.dataclass
class Run:
    """A sentence at work on a quadratic problem, or on the same one of subspaces where these are all that counts.

    Args:
        recipe: the sentence.
        lr: learning rate; a hundred times that for Prodigy, which finds the rest.
    """

    recipe: Recipe
    lr: float = 0.01

    def __post_init__(self) -> None:
        self.p = nn.Parameter(point(self.recipe, seed=1))
        self.goal = point(self.recipe, seed=2)
        self.losses: list[float] = []
        self.optimizer = self.build([("w", self.p)])

    def build(self, params: Any) -> metrize.Optimizer:
        lr = self.lr * (100 if isinstance(self.recipe.step_size, step_sizes.Prodigy) else 1)
        idle = self.recipe.space is not None and self.recipe.space.compact
        return metrize.Optimizer(params, self.recipe, lr=lr, weight_decay=0.0 if idle else 0.01)

    def step(self, steps: int = 1) -> Run:
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss = self.loss()
            self.losses.append(loss.item())
            if not math.isfinite(loss.item()):  # of a rate that is too long for this sentence
                break
            loss.backward()
            self.optimizer.step()
        return self

    def loss(self) -> Tensor:
        difference = self.seen(self.p) - self.seen(self.goal)
        return (torch.linspace(1, 2, len(difference)).unsqueeze(1) * difference.square()).sum()

    def seen(self, p: Tensor) -> Tensor:
        """What the loss knows of a point: all of it, or the projector on its span."""
        if isinstance(self.recipe.space, Grassmann):
            return p @ p.mT
        if isinstance(self.recipe.space, SymplecticGrassmann):
            return p @ _j(p.shape[1]).mT @ p.mT @ _j(p.shape[0])
        return p

    def descends(self) -> bool:
        # some steps are as random as a projection
        return math.isfinite(self.losses[-1]) and min(self.losses[-3:]) < self.losses[0]

    def deepcopied(self) -> Run:
        return copy.deepcopy(self)

    def pickled(self) -> Run:
        return pickle.loads(pickle.dumps(self))

    def resumed(self) -> Run:
        """A fresh run that starts from this one's checkpoint, by the safe loader."""
        file = io.BytesIO()
        torch.save({"weights": self.p.detach(), "optimizer": self.optimizer.state_dict()}, file)
        file.seek(0)
        saved, fresh = torch.load(file, weights_only=True), Run(self.recipe, self.lr)
        with torch.no_grad():
            fresh.p.copy_(saved["weights"])
        fresh.optimizer.load_state_dict(saved["optimizer"])
        return fresh

    def bits(self) -> dict[str, bytes]:
        """Weights and state."""
        kept = {"weights": self.p.detach(), **self.optimizer.state[self.p]}
        return {key: value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for key, value in kept.items()}


def _j(size: int) -> Tensor:
    """``[[0, I], [-I, 0]]``."""
    upper = torch.diag(torch.ones(size // 2), size // 2)
    return upper - upper.mT


def trained(recipe: Recipe, steps: int = 8) -> Run:
    """A run that goes downhill, if a learning rate of the grid does."""
    for lr in (1e-2, 1e-3, 1e-4):
        run = Run(recipe, lr).step(steps)
        if run.descends():
            break
    return run


def check_sentence(recipe: Recipe, save_at: int = 3, steps: int = 8) -> None:
    """All that a legal sentence promises."""
    run = trained(recipe, steps)
    assert run.descends(), f"{recipe} goes from {run.losses[0]} to {run.losses[-1]}"
    space = recipe.space or Vector()
    assert float(space.error_of(run.p)) < 1e-3
    assert metrize.predict({"w": SHAPE}, recipe).state == metrize.state_bytes(run.optimizer)
    half = Run(recipe, run.lr).step(save_at)
    copies: tuple[Callable[[], Run], ...] = (half.deepcopied, half.pickled, half.resumed)
    for way in copies:
        other = way().step(steps - save_at).bits()
        differing = [key for key, value in run.bits().items() if other[key] != value]
        assert not differing, f"{recipe}, {way.__name__} after {save_at} steps: {differing} differ"
