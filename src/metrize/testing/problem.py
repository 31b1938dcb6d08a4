"""A small problem for any recipe, and ways to copy a run of it."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
import pickle
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from metrize.memory import predict, state_bytes
from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe
from metrize.spaces import SpaceError, Vector

SHAPE = torch.Size((8, 4))
"""Of which every space of the library has a point."""

Make = Callable[..., Optimizer]
"""From parameters, ``lr`` and ``weight_decay`` to an optimizer."""


def legal(recipe: Recipe, shape: torch.Size = SHAPE, dtype: torch.dtype = torch.float32) -> bool:
    """Whether a recipe has a meaning for a tensor of this shape and dtype."""
    try:
        if dtype.is_complex:
            recipe.check_complex(dtype)
        recipe.check(recipe.space or Vector(), shape)
    except SpaceError:
        return False
    return True


def point(recipe: Recipe, seed: int, shape: torch.Size = SHAPE, dtype: torch.dtype = torch.float32) -> Tensor:
    """A random point of the recipe's space."""
    return (recipe.space or Vector()).random_(torch.empty(shape, dtype=dtype), torch.Generator().manual_seed(seed))


@dataclasses.dataclass
class Run:
    """A recipe at work on a quadratic problem.

    Args:
        recipe: what trains.
        lr: learning rate.
        make: makes the optimizer, if that is not `Optimizer` itself.
        shape: of the parameter.
        dtype: of the parameter.
    """

    recipe: Recipe
    lr: float = 0.01
    make: Make | None = None
    shape: torch.Size = SHAPE
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        self.p = nn.Parameter(point(self.recipe, 1, self.shape, self.dtype))
        self.goal = point(self.recipe, 2, self.shape, self.dtype)
        self.losses: list[float] = []
        self.optimizer = self.build([("w", self.p)])

    def build(self, params: Any) -> Optimizer:
        """The optimizer of these parameters."""
        if self.make is not None:
            return self.make(params, lr=self.rate)
        idle = self.recipe.space is not None and self.recipe.space.compact
        return Optimizer(params, self.recipe, lr=self.rate, weight_decay=0.0 if idle else 0.01)

    @property
    def rate(self) -> float:
        """The learning rate that the optimizer is given."""
        return self.lr

    def step(self, steps: int = 1) -> Self:
        """Take some steps; the run ends where the loss is not finite, as under a rate that is too long."""
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss = self.loss()
            self.losses.append(loss.item())
            if not math.isfinite(loss.item()):
                break
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        return self

    def loss(self) -> Tensor:
        """The weighted square of the distance to the goal."""
        difference = self.seen(self.p) - self.seen(self.goal)
        if not difference.ndim:
            return difference.square()
        weights = torch.linspace(1, 2, len(difference), dtype=self.dtype).reshape(-1, *(1,) * (difference.ndim - 1))
        return (weights * difference.square()).sum()

    def seen(self, p: Tensor) -> Tensor:
        """What the loss knows of a point."""
        return p

    def descends(self) -> bool:
        """Whether the loss went down; some steps are as random as a projection, so the last three count."""
        return math.isfinite(self.losses[-1]) and min(self.losses[-3:]) < self.losses[0]

    def deepcopied(self) -> Self:
        """This run, copied."""
        return self._with(*copy.deepcopy((self.p, self.optimizer)))

    def pickled(self) -> Self:
        """This run, through `pickle`."""
        return self._with(*pickle.loads(pickle.dumps((self.p, self.optimizer))))

    def resumed(self) -> Self:
        """A fresh run that starts from this one's checkpoint, by the safe loader."""
        file = io.BytesIO()
        torch.save({"weights": self.p.detach(), "optimizer": self.optimizer.state_dict()}, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        p = nn.Parameter(saved["weights"])
        optimizer = self.build([("w", p)])
        optimizer.load_state_dict(saved["optimizer"])
        return self._with(p, optimizer)

    def bits(self) -> dict[str, bytes]:
        """Weights and state."""
        kept = {"weights": self.p.detach(), **self.optimizer.state[self.p]}
        return {key: value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for key, value in kept.items()}

    def _with(self, p: nn.Parameter, optimizer: Optimizer) -> Self:
        other = copy.copy(self)
        other.p, other.optimizer, other.losses = p, optimizer, []
        return other


def trained(begin: Callable[[float], Run], steps: int, rates: tuple[float, ...] = (1e-2, 1e-3, 1e-4)) -> Run:
    """A run that goes downhill, if one of these learning rates does.

    Args:
        begin: a fresh run with a learning rate.
        steps: to take.
        rates: to try, one after the other.
    """
    for lr in rates:
        run = begin(lr).step(steps)
        if run.descends():
            break
    return run


def goes_on(begin: Callable[[float], Run], run: Run, save_at: int) -> None:
    """Assert that a copy, a pickle and a checkpoint taken on the way end where the straight run ended, bit for bit.

    Classes that Python cannot import by name, such as those of a function, cannot be pickled, and are only copied.

    Args:
        begin: a fresh run with a learning rate.
        run: the straight run.
        save_at: after how many steps to copy.
    """
    half = begin(run.lr).step(save_at)
    ways: list[Callable[[], Run]] = [half.deepcopied, half.resumed]
    if _importable(run.recipe, type(run.optimizer)):
        ways.append(half.pickled)
    for way in ways:
        other = way().step(len(run.losses) - save_at).bits()
        differing = [key for key, value in run.bits().items() if other.get(key) != value]
        assert not differing, (
            f"{run.recipe}, {way.__name__} after {save_at} steps: {', '.join(differing)} differ from those of the run "
            "that was not interrupted. All that a step depends on has to be in the declared state, the arguments of "
            "the part or the numbers of the group, and state is changed in place; nothing may be kept in attributes or "
            "drawn from torch's global random numbers"
        )


def _importable(*values: Any) -> bool:
    try:
        pickle.dumps(values)
    except (pickle.PicklingError, AttributeError):
        return False
    return True


def went_downhill(run: Run) -> None:
    """Assert that a run did what a direction of descent does."""
    assert run.descends(), (
        f"{run.recipe} goes from {run.losses[0]} to {run.losses[-1]} on a quadratic. A direction is one of ascent, "
        "which the optimizer subtracts: is its sign right, and its length about that of its kind?"
    )


def keeps_its_word(run: Run) -> None:
    """Assert that a run is finite, on its space, and keeps as many bytes as were predicted."""
    assert run.p.isfinite().all(), f"{run.recipe}: after {len(run.losses)} steps the parameter is not finite"
    space = run.recipe.space or Vector()
    error = float(space.error_of(run.p))
    assert error < 1e-3, f"{run.recipe}: after {len(run.losses)} steps the point is {error:.1e} off {space}"
    told = predict({"w": run.shape}, (lambda p: run.build(p)) if run.make else run.recipe, dtype=run.dtype).state
    held = state_bytes(run.optimizer)
    assert told == held, (
        f"{run.recipe} keeps {held} bytes of state, and `metrize.predict` says {told}: a part keeps something that its "
        "`state_spec` or `small_spec` does not declare, or declares another shape or dtype"
    )
