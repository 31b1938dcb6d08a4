"""One recipe on one kind of tensor, and all that follows from the two."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection
from typing import Any, Literal

import torch
from torch import Tensor

from metrize.decay import Convention
from metrize.moments import Moments, Slot
from metrize.part import Spec, offers
from metrize.recipe import Recipe, parse_recipe
from metrize.rounding import Compensated, Rounding
from metrize.rules import Kernel, Metric, Rule
from metrize.rules.base import DIRECTION, Pass
from metrize.spaces import Space, SpaceError
from metrize.spaces.base import compute_dtype
from metrize.step.group import space_of
from metrize.step_sizes import StepSize

_ACCESS = ("read", "write", "update")
_OF_SPACE = ("points", "section_at", "turn", "lift", "move_", "shrink_", "polish_")

Memory = Literal["contiguous", "dense", "gaps"]
"""How a tensor lies in memory: in the order of its dimensions, in another one, or with gaps."""


@dataclasses.dataclass(frozen=True)
class Assignment:
    """What a recipe says about one kind of tensor; asked once for all tensors alike, and read by everyone.

    Executors, the memory predictor, sharding and checkpoints all read this one value, so that no two of them can come
    to different answers.

    Args:
        recipe: of the parameter group.
        space: where the tensor lives.
        shape: of the whole tensor; complex numbers count as pairs.
        stored: dtype of the parameter, of one number of the pair where it is complex.
        device: type of the device.
        memory: how the tensor lies in memory.
        variant: what in the numbers of the group decides how the rule is carried out.
        numbers: of a group with that variant.
    """

    recipe: Recipe
    space: Space
    shape: torch.Size
    stored: torch.dtype
    device: str
    memory: Memory
    variant: Any
    numbers: dict[str, Any] = dataclasses.field(compare=False, repr=False)

    @functools.cached_property
    def dtype(self) -> torch.dtype:
        """Of the arithmetic."""
        return compute_dtype(self.stored)

    @functools.cached_property
    def rounding(self) -> Rounding:
        """How a 16-bit parameter takes in a step: nothing may be lost where the first ones are below its last digit."""
        lost = _copies(self.recipe.rounding) and self.recipe.step_size.starts_small and self.space.flat
        return Compensated() if lost and self.stored == torch.bfloat16 else self.recipe.rounding

    @functools.cached_property
    def copies(self) -> bool:
        """Whether a plain copy is all that writing a parameter takes."""
        return not self.narrow or self.master or _copies(self.rounding)

    @functools.cached_property
    def numel(self) -> int:
        """Numbers of the tensor."""
        return math.prod(self.shape)

    @functools.cached_property
    def narrow(self) -> bool:
        """Whether the parameter has fewer bits than the arithmetic."""
        return self.stored != self.dtype

    @property
    def master(self) -> bool:
        """A point rounded to 16 bits is off its space by a percent, so the point itself is kept apart."""
        return not self.space.flat and self.narrow

    @functools.cached_property
    def decay(self) -> Convention:
        """The convention of weight decay."""
        return self.recipe.convention

    @functools.cached_property
    def batch(self) -> tuple[int, ...]:
        """Leading dimensions that count points within one parameter."""
        return self.space.batch_shape(self.shape)

    @functools.cached_property
    def points(self) -> torch.Size:
        """The shape of a parameter seen as points: ``[*batch, *point]``."""
        return self._seen.shape[1:]

    @functools.cached_property
    def framed(self) -> torch.Size:
        """The shape of those coordinates of one point that a frame works on."""
        return self.space.framed(self._seen).shape[1 + len(self.batch) :]

    @functools.cached_property
    def coords(self) -> torch.Size:
        """The shape of one parameter's coordinates in the frame."""
        return self.recipe.frame.shape(self.points)

    @functools.cached_property
    def metric(self) -> Metric:
        """What the rule may know of the space."""
        free = math.prod(self.recipe.frame.shape(self.shape)) if self.space.flat else self.space.dim(self.shape)
        return Metric(self.space.sq_norm, max(1, free))  # of an empty tensor it is 0

    @functools.cached_property
    def slots(self) -> dict[str, Slot]:
        """The averages, by name: of the parameter's shape and seen through the space, or of the frame's shape."""
        kept, points = (self.shape, self.space.points) if self.recipe.frame.trivial else (self.coords, _as_they_are)
        kinds = self.recipe.rule.averages_of(kept, self.numbers)
        return {name: Slot(name, kind, kept, self.dtype, points) for name, kind in kinds.items()}

    @functools.cached_property
    def storages(self) -> dict[str, Moments]:
        """The storage that each average really has."""
        return {name: self.recipe.moments.of(slot.shape, slot.kind) for name, slot in self.slots.items()}

    @functools.cached_property
    def declared(self) -> dict[str, Spec]:
        """Everything that is kept for one parameter, by the part that declares it."""
        recipe, space, shape = self.recipe, self.space, self.shape
        averages: Spec = {}
        for name, storage in self.storages.items():
            slot = self.slots[name]
            own = storage.state_spec(name, slot.shape, self.dtype, slot.kind)
            if twice := sorted(own.keys() & averages.keys()):
                raise SpaceError(_doubled(recipe, twice[0], "rule", "rule"))
            averages |= own
        declared = {
            "optimizer": {"step": ((), torch.float32)}
            | ({"master": (tuple(shape), self.dtype)} if self.master else {}),
            "rounding": self.rounding.state_spec(shape, self.stored) if space.flat else {},
            "space": space.state_spec(shape, self.stored),
            "frame": self._frame_spec(),
            "moments": averages,
            "step_size": recipe.step_size.state_spec(shape, self.dtype),
        }
        taken = {key for spec in declared.values() for key in spec}
        own = recipe.rule.small_spec(self.coords, self.batch, self.dtype, self.numbers)
        return declared | {"rule": {f"rule.{key}" if key in taken else key: kept for key, kept in own.items()}}

    @functools.cached_property
    def small(self) -> dict[str, str]:
        """Keys of what the rule keeps beside its averages, by the rule's own names for it."""
        own = self.recipe.rule.small_spec(self.coords, self.batch, self.dtype, self.numbers)
        return dict(zip(own, self.declared["rule"], strict=True))

    @functools.cached_property
    def spec(self) -> Spec:
        """`declared` as one: key -> (shape, dtype). Allocation, memory reports and checkpoints read this."""
        return {key: kept for part in self.declared.values() for key, kept in part.items()}

    def check(self) -> None:
        """Refuse parts that do not go together, that keep a state by one name, or averages called like counts.

        Raises:
            SpaceError: with the reason and the remedy.
        """
        self.recipe.check(self.space, self.shape)
        if self._clash:
            raise SpaceError(self._clash)

    @functools.cached_property
    def _clash(self) -> str:
        """Names of state that do not go together; empty where all do."""
        if reserved := [name for name in self.slots if on_host(name)]:
            return (
                f"rule={self.recipe.rule} has an average called {reserved[0]!r}; names that end in "
                f"{', '.join(_HOST)} are those of counts, so give it another one"
            )
        owners: dict[str, str] = {}
        for part, spec in self.declared.items():
            for key in spec:
                if key in owners:
                    return _doubled(self.recipe, key, owners[key], part)
                owners[key] = part
        return ""

    @functools.cached_property
    def counts(self) -> frozenset[str]:
        """Keys of `spec` that decide what to compute, so that reading them must not wait for a device."""
        return frozenset(filter(on_host, self.spec))

    @functools.cached_property
    def seeds(self) -> tuple[str, ...]:
        """Keys of `spec` that are seeds, so that what they lead to depends on the place of every entry."""
        return tuple(key for key in self.spec if key.rpartition(".")[2] == "seed")

    @functools.cached_property
    def projected(self) -> bool:
        """Whether the frame or a storage works in fewer or other coordinates than those of the tensor."""
        return bool(self.declared["frame"]) or any(storage.projects for storage in self.storages.values())

    @functools.cached_property
    def passes(self) -> tuple[Pass, ...]:
        """How the rule goes through a tensor in pieces; empty where it cannot."""
        ahead = frozenset(name for name, storage in self.storages.items() if storage.ahead)
        return passes_of(self.recipe.rule, self.numbers, ahead)

    @functools.cached_property
    def elementwise(self) -> bool:
        """Whether any part of the tensor can be stepped without the rest, but for the sums of the step size."""
        recipe = self.recipe
        alone = recipe.frame.trivial and recipe.step_size.by_entry and self.decay.elementwise
        alone = alone and offers(recipe.step_size, "by_entry", "rate", "scaled", "velocity", "measure")
        if not (
            self.plain
            and alone
            and offers(recipe.rule, "elementwise", *DIRECTION)
            and recipe.rule.elementwise(self.numbers)
        ):
            return False
        return all(storage.elementwise for storage in self.storages.values()) and not self.seeds

    @functools.cached_property
    def kernel(self) -> Kernel | None:
        """Torch's one-pass kernel for exactly this update of a vector space, given averages in memory."""
        return self.recipe.kernel(self.numbers) if self.plain else None

    @functools.cached_property
    def plain(self) -> bool:
        """Whether lift is the identity and move is addition, so that neither has to be called."""
        return self.space.flat and offers(self.space, "flat", *_OF_SPACE)

    @functools.cached_property
    def frame_moves(self) -> bool:
        """Whether the frame moves the points itself."""
        alone = self.recipe.frame.moves and offers(self.recipe.frame, "move_", "leave")
        return alone and self.linear and not self.decay.needs_velocity

    @functools.cached_property
    def in_place(self) -> frozenset[str]:
        """Averages that may be used and changed where they lie, entry by entry."""
        return frozenset(
            name
            for name, storage in self.storages.items()
            if storage.elementwise and storage.in_place(self.dtype) and offers(storage, "elementwise", *_ACCESS)
        )

    @functools.cached_property
    def streams(self) -> bool:
        """Whether all averages can be gone through piece by piece."""
        return all(storage.streams and offers(storage, "stream", *_ACCESS) for storage in self.storages.values())

    @functools.cached_property
    def given(self) -> bool:
        """Whether the rate is the group's ``lr`` and nothing else."""
        step_size = self.recipe.step_size
        return step_size.given and offers(step_size, "given", "rate", "scaled", "velocity")

    @functools.cached_property
    def linear(self) -> bool:
        """Whether a velocity is the direction times minus the rate, and a move its addition."""
        return self.plain and type(self.recipe.step_size).velocity is StepSize.velocity

    @functools.cached_property
    def gains(self) -> bool:
        """Whether the rule multiplies the step once the frame was left."""
        return type(self.recipe.rule).gain is not Rule.gain

    @functools.cached_property
    def flops(self) -> float:
        """Multiplications of a step, roughly: those of the frame, or else products with the shorter side."""
        short = min(math.prod(self.shape[1:]), self.shape[0]) if len(self.shape) > 1 else 0
        return self.numel + (self.recipe.frame.work(self.shape) or self.numel * short)

    @functools.cached_property
    def refresh(self) -> float:
        """Work of one refresh of the frame's basis, in any unit."""
        return self.recipe.frame.cost(self.framed)

    @functools.cached_property
    def _seen(self) -> Tensor:
        return self.space.points(torch.empty(1, *self.shape, device="meta"))

    def _frame_spec(self) -> Spec:
        """What `Frame.state_spec` says of one point, for each of the points; counts are of the parameter."""
        if self.recipe.frame.trivial:
            return {}
        spec = self.recipe.frame.state_spec(self.framed, self.dtype)
        return {
            key: (kept if key in OF_PARAMETER else (*self.batch, *kept), kind) for key, (kept, kind) in spec.items()
        }


def assign(group: dict[str, Any], index: int, work: Tensor | None = None) -> Assignment:
    """The assignment of one parameter of a group; that of equal ones is asked for once.

    Args:
        group: the parameter group.
        index: place of the parameter in it.
        work: what is stepped in the parameter's stead, such as the part that this process holds.
    """
    p = group["params"][index] if work is None else work
    recipe = parse_recipe(group["recipe"])
    return assignment_of(recipe, space_of(group, index, recipe), p, group)


class Assignments:
    """The assignments of one group, each looked up once; numbers of the group stay as they are meanwhile.

    Args:
        group: the parameter group.
    """

    def __init__(self, group: dict[str, Any]) -> None:
        self.group = group
        self._known: dict[Any, Assignment] = {}

    def of(self, index: int, work: Tensor) -> Assignment:
        """As `assign`."""
        key = (self.group["spaces"][index], work.shape, work.dtype, work.device, work.stride())
        if key not in self._known:
            self._known[key] = assign(self.group, index, work)
        return self._known[key]


def assignment_of(recipe: Recipe, space: Space, p: Tensor, numbers: dict[str, Any]) -> Assignment:
    """The assignment of a recipe on a tensor.

    Args:
        recipe: what trains it.
        space: where it lives.
        p: the tensor, of which no number is looked at.
        numbers: of the parameter group.
    """
    variant = recipe.rule.variant(numbers)
    key = (recipe, space, p.shape, p.dtype, p.device.type, _memory(p), variant)
    found = _KNOWN.get(key)
    if found is None:
        if len(_KNOWN) >= _MOST:
            _KNOWN.clear()
        found = _KNOWN[key] = Assignment(recipe, space, *_traits(p), variant, dict(numbers))
    return found


_KNOWN: dict[Any, Assignment] = {}
_MOST = 4096  # kinds of tensors; far more than a model has


def _traits(p: Tensor) -> tuple[torch.Size, torch.dtype, str, Memory]:
    seen = as_real(p)
    return seen.shape, seen.dtype, p.device.type, _memory(p)


def _memory(p: Tensor) -> Memory:
    if p.is_contiguous():
        return "contiguous"
    return "dense" if torch.empty_like(p, device="meta").stride() == p.stride() else "gaps"


def _doubled(recipe: Recipe, key: str, first: str, second: str) -> str:
    named = [f"{slot}={getattr(recipe, slot, None)}" if hasattr(recipe, slot) else slot for slot in (first, second)]
    return f"{' and '.join(named)} both keep a state called {key!r}; give one of them another name"


def _as_they_are(stack: Tensor) -> Tensor:
    return stack


def as_real(tensor: Tensor) -> Tensor:
    """Complex numbers as pairs, which is what the arithmetic sees."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


OF_PARAMETER = ("step", "phase")
"""State that a frame keeps for a parameter and not for each of its points."""

_HOST = ("step", "phase", "failures", "seed")


def on_host(key: str) -> bool:
    """Whether a state is a count that decides what to compute, so that reading it must not wait for a device."""
    return key.rpartition(".")[2] in _HOST


def passes_of(rule: Rule, numbers: dict[str, Any], ahead: Collection[str] = ()) -> tuple[Pass, ...]:
    """The rule's passes; none where a subclass overrides what makes a direction, and not `passes`."""
    return rule.passes(numbers, ahead) if offers(rule, "passes", *DIRECTION) else ()


def _copies(rounding: Rounding) -> bool:
    return rounding.exact and offers(rounding, "exact", "widen", "narrow_")
