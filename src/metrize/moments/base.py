"""The contract of a storage, and the handle a rule works with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from metrize.linalg import alongside
from metrize.moments.stream import Cut, Stream
from metrize.part import Part, Spec

Made = TypeVar("Made")
Kind = Literal["linear", "square"]
"""What an average is of: the gradient, and so it has signs and turns with the coordinates; or its squares."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """Which average is meant, and how its storage and the rule see it.

    Args:
        name: such as ``exp_avg``; keys of the state begin with it.
        kind: ``"linear"`` or ``"square"``.
        shape: of the average of one parameter.
        dtype: of the arithmetic.
        points: the rule's view of a stack ``[B, *shape]``.
    """

    name: str
    kind: Kind
    shape: torch.Size
    dtype: torch.dtype
    points: Callable[[Tensor], Tensor]

    def stored(self, value: Tensor) -> Tensor:
        """A value in the rule's view, as the stack ``[B, *shape]`` that the storage sees."""
        if value.shape[1:] == self.shape:
            return value
        stack = value.new_empty(value.shape[0], *self.shape)
        self.points(stack).copy_(value)
        return stack


@dataclasses.dataclass(frozen=True)
class Moments(Part, abstract=True):
    """A storage for averages.

    One that can work on pieces of a tensor, so that no temporary is as large as the tensor, answers `stream`.
    """

    streams: ClassVar[bool] = False
    """Whether a step can go through an average piece by piece."""

    elementwise: ClassVar[bool] = False
    """Whether every entry is kept by itself, where it lies, so that a part of a tensor can be kept without the rest."""

    projects: ClassVar[bool] = False
    """Whether averages are kept in a subspace, of a rank that a small tensor does not reach."""

    ahead: ClassVar[bool] = False
    """Whether an average can be used only once it has seen the whole tensor."""

    rereads: ClassVar[bool] = True
    """Whether what `Stream.again` says is what `Stream.update` said."""

    lends: ClassVar[bool] = False
    """Whether `Stream.again` gives what was kept, to be changed in place, and `Stream.give_back` takes that."""

    align: ClassVar[int] = 1
    """Pieces begin at multiples of so many numbers."""

    def check_shape(self, shape: torch.Size) -> None:
        """Refuse averages of a shape this storage has no answer for.

        Raises:
            ValueError: with the reason and the remedy.
        """

    def with_squares(self, storage: Moments) -> Moments:
        """This storage with another for averages of squares, if it has one of their own."""
        return self

    def of(self, shape: torch.Size, kind: Kind) -> Moments:
        """The storage that averages of this logical shape and kind really have; all else is asked of that one."""
        return self

    def layout(self, shape: torch.Size) -> tuple[int, ...] | None:
        """The shape in which this storage sees a tensor that goes through it in pieces; None: any will do."""
        return None

    def stream(self, slot: Slot, state: dict[str, Tensor]) -> Stream:
        """One step of an average, piece by piece; `state` is stacked, ``[B, ...]`` each."""
        raise NotImplementedError

    def state_spec(self, name: str, shape: torch.Size, dtype: torch.dtype, kind: Kind) -> Spec:
        """What one average called `name` keeps for a parameter whose averages have this logical shape and dtype."""
        raise NotImplementedError

    def in_place(self, dtype: torch.dtype) -> bool:
        """Whether `read` hands out the stored tensor itself, in this dtype."""
        return False

    def read(self, slot: Slot, state: dict[str, Tensor]) -> Tensor:
        """The average in the dtype of the arithmetic, stacked ``[B, *shape]``; may be the stored tensor itself."""
        raise NotImplementedError

    def write(self, slot: Slot, state: dict[str, Tensor], value: Tensor) -> None:
        """Keep a value ``[B, *shape]``, which may be what `read` returned, changed in place."""
        raise NotImplementedError

    def update(
        self, slot: Slot, state: dict[str, Tensor], value: Tensor, decay: float | Tensor, gain: float | Tensor
    ) -> Tensor:
        """``a <- decay a + gain x``, with ``x^2`` in place of x where the average is of squares.

        Args:
            slot: which average.
            state: stacked, ``[B, ...]`` each.
            value: x in the rule's view.
            decay: a number, or one for each parameter that broadcasts against `value`.
            gain: as `decay`.

        Returns:
            The average as the rule shall use it in this step, in the rule's view: what was stored may know less.
        """
        stack = self.read(slot, state)
        average = slot.points(stack)
        accumulate_(average, value, decay, gain, slot.kind)
        self.write(slot, state, stack)
        return average


@dataclasses.dataclass(frozen=True)
class Streaming(Moments, abstract=True):
    """A storage whose only way to take a step is `stream`: a whole tensor is one piece."""

    streams: ClassVar[bool] = True

    def layout(self, shape: torch.Size) -> tuple[int, ...]:
        """The shape in which this storage sees a tensor."""
        return tuple(shape)

    def update(
        self, slot: Slot, state: dict[str, Tensor], value: Tensor, decay: float | Tensor, gain: float | Tensor
    ) -> Tensor:
        stream, cut = self.stream(slot, state), Cut(self.layout(slot.shape))
        piece = slot.stored(value).reshape(value.shape[0], *cut.layout)
        decay, gain = per_member(decay, piece), per_member(gain, piece)
        if self.ahead:
            stream.observe(cut, piece, decay, gain)
            stream.settle()
        average = stream.again(cut) if self.ahead else stream.update(cut, piece, decay, gain)
        stream.close()
        return slot.points(average.expand_as(piece).reshape(value.shape[0], *slot.shape))


def accumulate_(average: Tensor, value: Tensor, decay: float | Tensor, gain: float | Tensor, kind: Kind) -> None:
    """``a <- decay a + gain x`` in place, or with ``x^2``; tensors broadcast."""
    if kind == "linear" and not isinstance(gain, Tensor) and not isinstance(decay, Tensor) and decay == 1 - gain:
        average.lerp_(value, gain)
        return
    if isinstance(decay, Tensor) or decay != 1:
        average.mul_(decay)
    if isinstance(gain, Tensor):
        average.add_(value * gain) if kind == "linear" else average.addcmul_(value * gain, value)
    elif kind == "square":
        average.addcmul_(value, value, value=gain)
    else:
        average.add_(value, alpha=gain)


@dataclasses.dataclass
class Averages:
    """What a rule sees of its state: averages by name, shaped like the coordinates, however they are stored.

    What `update`, `again`, `raise_` and `read` return may be the kept tensor itself, so a rule computes with it and
    never changes it in place; nor the coordinates, which may be the gradient itself.

    Args:
        moments: the storage.
        state: stacked state of a bucket, ``[B, ...]`` each.
        slots: the averages of the rule, by name.
        delay: first steps in which the frame only looks, and which the rule does not count.
        small_keys: keys of what the rule keeps beside its averages, where they differ from its own names for it.
    """

    moments: Moments
    state: dict[str, Tensor]
    slots: dict[str, Slot]
    delay: int = 0
    small_keys: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self._observed: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._made: dict[str, Any] = {}

    def update(self, name: str, value: Tensor, decay: float | Tensor, gain: float | Tensor) -> Tensor:
        """``a <- decay a + gain x`` (``x^2`` for squares); the average to use now, not to be changed in place.

        Args:
            name: of the average.
            value: x, ``[B, *coordinates]``.
            decay: a number, or ``[B]``.
            gain: a number, or ``[B]``.
        """
        if name in self._observed:
            return self.again(name)
        decay, gain = per_member(decay, value), per_member(gain, value)
        return self._storage(name).update(self.slots[name], self.state, value, decay, gain)

    def observe(self, name: str, value: Tensor, decay: float | Tensor, gain: float | Tensor) -> None:
        """As `update`, for an average that is used later in this step: `again`, `whiten` and `update` give it then."""
        self._observed[name] = self.update(name, value, decay, gain)

    def observed(self, name: str) -> bool:
        """Whether an average was observed in this step."""
        return name in self._observed

    def again(self, name: str) -> Tensor:
        """The average that was observed in this step, not to be changed in place."""
        return self._observed[name]

    def whiten(
        self, name: str, value: Tensor, floor: float, clamped: bool = False, scale: float | Tensor = 1.0
    ) -> Tensor:
        """``scale x / sqrt(a + floor)``, a fresh tensor, with an average that was observed in this step; its last use.

        Args:
            name: of the average.
            value: x, ``[B, *coordinates]``.
            floor: added to the average.
            clamped: the floor is the least value of the average instead.
            scale: a number, or ``[B, *batch]``.
        """
        average = self.again(name)
        if not self._owns(name):
            bounded = average.clamp(min=floor) if clamped else average + floor
        else:
            bounded = average.clamp_(min=floor) if clamped else average.add_(floor)
        root = bounded.sqrt_()
        result = torch.div(value, root, out=root if root.shape == value.shape else None)
        if isinstance(scale, Tensor):
            scale = scale.to(result).reshape(scale.shape + (1,) * (result.ndim - scale.ndim))
        return result.mul_(scale) if isinstance(scale, Tensor) or scale != 1 else result

    def root(self, name: str, average: Tensor) -> Tensor:
        """Root of what `update` returned, a fresh tensor; the last use of that average."""
        return average.sqrt_() if self._owns(name) else average.sqrt()

    def raise_(self, name: str, value: Tensor) -> Tensor:
        """``a <- max(a, x)`` entry by entry; the largest so far, not to be changed in place."""
        slot, storage = self.slots[name], self._storage(name)
        stack = storage.read(slot, self.state)
        largest = slot.points(stack)
        torch.maximum(largest, value, out=largest)
        storage.write(slot, self.state, stack)
        return largest

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """What all pieces of a step have in common, such as a number for each parameter, made at the first."""
        if name not in self._made:
            self._made[name] = make()
        made: Made = self._made[name]
        return made

    def add(self, name: str, share: Tensor) -> None:
        """Add to a sum over the whole tensor that a later pass of this step uses: ``[B, *batch]``."""
        self._sums[name] = self._sums[name] + share if name in self._sums else share

    def total(self, name: str) -> Tensor:
        """The sum of all that was added in the passes before."""
        return self._sums[name]

    def read(self, name: str) -> Tensor:
        """The average as it was kept, in the rule's view; not to be changed in place."""
        slot = self.slots[name]
        return slot.points(self._storage(name).read(slot, self.state))

    def turn(self, kind: Kind, turn: Callable[[Tensor], Tensor | None], member: int | None = None) -> None:
        """Change the coordinates of all averages of one kind, of one member or of all.

        Args:
            kind: of which averages.
            turn: average -> average; None leaves it as it is stored, for storages that change what is written twice.
            member: which one, seen as a stack of one.
        """
        state = self.state if member is None else {key: kept[member : member + 1] for key, kept in self.state.items()}
        for slot in self.slots.values():
            if slot.kind == kind:
                storage = self._storage(slot.name)
                stack = storage.read(slot, state)
                average = slot.points(stack)
                turned = turn(average)
                if turned is None:
                    continue
                # what is compressed twice is not what it was: only members that did turn are written
                rows = [] if storage.in_place(slot.dtype) else _differing(turned, average)
                average.copy_(turned)
                for row in rows:
                    storage.write(slot, {key: kept[row] for key, kept in state.items()}, stack[row])

    def small(self, name: str) -> Tensor:
        """State that is kept as it is, such as one number for each point: ``[B, *batch]``."""
        return self.state[self.small_keys.get(name, name)]

    @property
    def step(self) -> Tensor:
        """Steps the rule has taken for each parameter, this one included: ``[B]`` in float64."""
        return self.state["step"].double() - self.delay

    @property
    def count(self) -> float | Tensor:
        """`step` as one number, where it is the same for all parameters."""
        step = self.step
        return float(step[0]) if len(step) == 1 or bool((step == step[0]).all()) else step

    def _owns(self, name: str) -> bool:
        """Whether an average is a copy that may be changed at its last use."""
        return False

    def _storage(self, name: str) -> Moments:
        slot = self.slots[name]
        return self.moments.of(slot.shape, slot.kind)


def _differing(a: Tensor, b: Tensor) -> list[slice]:
    """The members of two stacks that are not equal."""
    differ = (a != b).flatten(1).any(1)
    return [slice(i, i + 1) for i in differ.nonzero().flatten().tolist()]


def per_member(value: float | Tensor, like: Tensor) -> float | Tensor:
    """A number, or ``[B]`` in the dtype and on the device of a stack and shaped to multiply it."""
    return alongside(value, like).reshape(-1, *(1,) * (like.ndim - 1)) if isinstance(value, Tensor) else value
