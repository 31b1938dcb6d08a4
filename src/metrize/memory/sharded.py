"""Bytes that processes hold and send, told before there are any."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from metrize.memory.predicted import Build, Target, Temporaries, batch_of, built, names_of
from metrize.optim.optimizer import Optimizer
from metrize.part import Spec
from metrize.step.assignment import assign
from metrize.step.exchange import Exchange, reduce_statistics
from metrize.step.group import trains
from metrize.step.state import placeholder

if TYPE_CHECKING:
    from metrize.sharding import Member
    from metrize.sharding.shards import Cut, Layout

_Parts = Callable[[Callable[[tuple[int, ...]], int | bool]], Tensor]
"""Measures the part of a tensor that each process has, given its shape."""


@dataclasses.dataclass(frozen=True)
class RankPrediction:
    """Bytes of one process, without activations and what the engine gathers for a forward pass.

    Args:
        parameters: its parts.
        gradients: their gradients.
        state: of the optimizer, exactly as it will be.
        copies: whole points on manifolds that it steps for all, kept beside its parts.
        temporary: the most that a step needs beside, an estimate from above: whole gradients and parameters, messages,
            temporaries of arithmetic.
        sent: to other processes in a step, where nobody else wrote to the weights. An all-reduce of b bytes over R
            processes counts as ``2 b (R - 1) / R``.
    """

    parameters: int
    gradients: int
    state: int
    copies: int
    temporary: int
    sent: int

    @property
    def total(self) -> int:
        """All that is held: everything but `sent`."""
        return self.parameters + self.gradients + self.state + self.copies + self.temporary


@dataclasses.dataclass(frozen=True)
class ShardedPrediction:
    """Bytes of every process of a line over which all parameters are cut by rows.

    Args:
        ranks: of each process.
        collectives: that each takes part in, in a step.
        owners: who steps a parameter as a whole, by its name; of others every process steps its own part.
    """

    ranks: tuple[RankPrediction, ...]
    collectives: int
    owners: dict[str, int]

    @property
    def mean(self) -> RankPrediction:
        """Over the processes."""
        return self._over(lambda values: round(sum(values) / len(values)))

    @property
    def most(self) -> RankPrediction:
        """The largest of each number; they need not be one process's."""
        return self._over(max)

    def _over(self, joined: Callable[[list[int]], int]) -> RankPrediction:
        return RankPrediction(*map(joined, map(list, zip(*map(dataclasses.astuple, self.ranks), strict=True))))


def predict_sharded(
    target: Target, recipe: Build, ranks: int, *, dtype: torch.dtype = torch.float32
) -> ShardedPrediction:
    """The bytes of training a model that `fully_shard` cuts over processes, without starting or allocating any.

    Who steps what is asked of the function that a run asks. Of a mesh with replicas (HSDP) `ranks` are those of one
    replica: nothing of a step crosses replicas.

    Args:
        target: a module, which may live on the meta device and is not touched; or shapes.
        recipe: a recipe, an optimizer of the catalogue, or a function from parameters to an optimizer.
        ranks: processes over which each parameter is cut, R.
        dtype: of the parameters, where only shapes are given.

    Raises:
        SpaceError: a parameter that the recipe cannot train, by name.
        ValueError: fewer than one process.
    """
    from metrize.sharding import members  # slow to load, and of use to few

    if ranks < 1:
        raise ValueError(f"ranks={ranks}: at least 1")
    optimizer = built(target, recipe, dtype)
    members_of = members(optimizer.param_groups, functools.partial(_cut_by_rows, ranks))
    found = {p: member for p, member in members_of.items() if trains(p)}
    return _Count(optimizer, found, ranks).result()


def _cut_by_rows(ranks: int, p: Tensor) -> Layout | None:
    """How `fully_shard` cuts a parameter; it leaves numbers alone."""
    from metrize.sharding.shards import Cut, Layout, Line

    if not p.ndim:
        return None
    return Layout(ranks == 1, Cut(Line("all", 0, ranks), 0, tuple(p.shape)) if ranks > 1 else None)


class _Count:
    """Adds up tensor by tensor what each process has of it.

    Args:
        optimizer: of placeholders.
        members: what is cut, and how it is stepped.
        ranks: number of processes.
    """

    def __init__(self, optimizer: Optimizer, members: dict[Tensor, Member], ranks: int) -> None:
        self.optimizer, self.members, self.size = optimizer, members, ranks
        self.parameters, self.frozen, self.state, self.copies, self.sent = (self._zeros() for _ in range(5))
        self.out, self.into, self.back, self.returned = (self._zeros() for _ in range(4))  # bytes of messages
        self.kernels = Temporaries(ranks)
        self.owners: dict[str, int] = {}
        for group in optimizer.param_groups:
            for index, (name, p) in enumerate(zip(names_of(group), group["params"], strict=True)):
                member = members.get(p)
                if not trains(p):
                    self._frozen(p)
                elif member is None or member.family == "local":
                    self._own_parts(group, index, p, member)
                else:
                    self._whole(group, index, member)
                    self.owners[name] = member.owner

    def result(self) -> ShardedPrediction:
        """All of it together."""
        collectives, sent = self._messages()
        phases = [  # what came in is joined to whole tensors, which stay until the new parameters are under way
            self.out + self.into,
            2 * self.into,
            self.into + self.kernels.most,
            self.into + self.back + self.returned,
        ]
        temporary = torch.stack(phases).amax(0)
        rows = [self.parameters + self.frozen, self.parameters, self.state, self.copies, temporary, self.sent + sent]
        ranks = tuple(RankPrediction(*row) for row in torch.stack(rows, 1).tolist())
        return ShardedPrediction(ranks, collectives, self.owners)

    def _zeros(self) -> Tensor:
        return torch.zeros(self.size, dtype=torch.int64)

    def _frozen(self, p: Tensor) -> None:
        """A tensor that is cut as any other, and needs nothing beside."""
        layout = _cut_by_rows(self.size, p)
        shapes = _shapes(layout and layout.cut, tuple(p.shape), self.size)
        self.frozen += torch.tensor([_bytes(shape, p.dtype) for shape in shapes])

    def _own_parts(self, group: dict[str, Any], index: int, p: Tensor, member: Member | None) -> None:
        """A tensor of which every process steps the part it has, or the whole where nothing is cut."""
        each = _parts(p, member, self.size)
        self.parameters += each(lambda shape: _bytes(shape, p.dtype))
        self.state += each(lambda shape: _held(assign(group, index, _meta(shape, p)).spec))
        for part in {*_shapes(member and member.cut, tuple(p.shape), self.size)}:
            self.kernels.add(each(part.__eq__), *batch_of(group, index, _meta(part, p)))

    def _whole(self, group: dict[str, Any], index: int, member: Member) -> None:
        """A tensor that one process steps."""
        p, here = member.p, torch.arange(self.size) == member.owner
        whole, place = _bytes(tuple(p.shape), p.dtype), sum(value.nbytes for value in placeholder(member.spec).values())
        self.parameters += _parts(p, member, self.size)(lambda shape: _bytes(shape, p.dtype))
        self.state += place + here * (_held(member.spec) - place)
        self.copies += here * (0 if member.flat else whole)
        self.kernels.add(here, *batch_of(group, index, _meta(tuple(p.shape), p)))
        self._send(member, here)

    def _send(self, member: Member, here: Tensor) -> None:
        """Gradients go to the owner, and parameters where it keeps no copy; new parameters come back."""
        from metrize.sharding.wire import room

        parts = _parts(member.p, member, self.size)(lambda shape: room([(shape, member.p.dtype)]))
        loads = 2 if member.flat else 1
        self.out += loads * parts
        self.into += loads * here * parts.sum()
        self.back += here * parts.sum()
        self.returned += parts
        self.sent += ~here * loads * parts + here * (~here * parts).sum()

    def _messages(self) -> tuple[int, int]:
        """Collectives of a step, and what each process sends beside tensors: marks, and sums of step sizes."""
        from metrize.sharding.wire import room

        if self.size == 1 or not self.members:
            return 0, 0
        marks, sums = 1 + 2 * len(self.members), _Sums()
        reduce_statistics(self.optimizer.param_groups, [], sums)
        if self.owners:
            collectives, sent = 2, (self.size - 1) * room([((marks,), torch.uint8)])
        else:
            collectives, sent = 1, self._all_reduce(marks)
        return collectives + bool(sums.bytes), sent + self._all_reduce(sums.bytes)

    def _all_reduce(self, count: int) -> int:
        return 2 * count * (self.size - 1) // self.size


class _Sums(Exchange):
    """Looks at what would be summed over processes."""

    bytes = 0

    def sum(self, statistics: list[Tensor]) -> None:
        self.bytes = sum(total.nbytes for total in statistics)


def _parts(p: Tensor, member: Member | None, ranks: int) -> _Parts:
    shapes = _shapes(None if member is None else member.cut, tuple(p.shape), ranks)

    def each(measure: Callable[[tuple[int, ...]], int | bool]) -> Tensor:
        known = {shape: measure(shape) for shape in set(shapes)}
        return torch.tensor([known[shape] for shape in shapes], dtype=torch.int64)

    return each


@functools.lru_cache(64)
def _shapes(cut: Cut | None, shape: tuple[int, ...], ranks: int) -> list[tuple[int, ...]]:
    return [shape if cut is None else cut.part_shape(rank) for rank in range(ranks)]


def _meta(shape: tuple[int, ...], p: Tensor) -> Tensor:
    return torch.empty(shape, dtype=p.dtype, device="meta")


def _bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def _held(spec: Spec) -> int:
    return sum(_bytes(shape, kind) for shape, kind in spec.values())
