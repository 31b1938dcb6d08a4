"""A step over several processes: gradients go to who uses them, and results come back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from metrize.sharding.members import Member
from metrize.sharding.shards import Cut, Line, gradient, placed, wrapped
from metrize.sharding.wire import form, swap
from metrize.step.exchange import Exchange
from metrize.step.windows import ShardSpan


class Parcel:
    """A cut parameter during its steps: the part this process has, and the tensor that its bucket steps.

    Args:
        member: the parameter.
    """

    def __init__(self, member: Member) -> None:
        self.member, self.local = member, member.p.to_local().detach()
        shape, kind, device = tuple(member.p.shape), member.p.dtype, self.local.device
        if member.family == "local":
            self.work = self.local
        else:
            self.work = torch.empty(shape if member.here else (0,), dtype=kind, device=device)
        self.grad: Tensor | None = None
        self.filled = False  # whether `work` holds the parameter; alike on all processes
        self._seen: tuple[int, int] | None = None

    @property
    def cut(self) -> Cut:
        """How an owned parameter is cut."""
        assert self.member.cut is not None
        return self.member.cut

    @property
    def changed(self) -> bool:
        """Whether someone else wrote to the parameter since it was last looked at."""
        return self.member.family != "local" and self.filled and self._versions() != self._seen

    def fill(self, whole: Tensor | None) -> None:
        """Take in the whole parameter as it is now; None where another process steps it."""
        if whole is not None and self.member.flat:
            self.work.data = whole
        elif whole is not None:
            self.work.copy_(whole)  # in place: the space has looked at this very tensor
        self.filled, self._seen = True, self._versions()

    def end_step(self) -> None:
        """The step is over; a whole tensor of no further use is let go, as an owner's memory has better uses."""
        self.work.grad = self.grad = None
        self._seen = self._versions()
        if self.member.family != "local" and self.member.flat:
            self.work.data, self.filled = self.work.new_empty(0), False

    def _versions(self) -> tuple[int, int]:
        # what is written through the container is not counted by the part, nor the other way round
        return self.member.p._version, self.local._version

    def load(self) -> list[Tensor]:
        """This process's share of what its owner needs for a step."""
        return [self.sent_grad()] if self.filled else [self.sent_grad(), self.local]

    def sent_grad(self) -> Tensor:
        """The gradient in the parameter's dtype; zeros where this process has none."""
        return torch.zeros_like(self.local) if self.grad is None else self.grad.to(self.local.dtype)


class Sharded(Exchange):
    """What crosses processes in a step, for all parameters together.

    One all-to-all brings gradients and parameters to the owners of their tensors, with the marks by which all processes
    decide alike whether to step; one brings the new parameters back. Without owned tensors the marks are one small
    all-reduce. Points on a manifold stay with their owner, and travel only after someone else wrote to them, by one
    all-to-all more. The sums of step sizes that look at the whole model are an all-reduce.

    Args:
        members: the cut parameters, in the order of the optimizer.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.parcels = [Parcel(member) for member in members]
        self.lines = list({line.name: line for member in members for line in member.lines}.values())
        self._fetch(self.parcels)
        self._by_parameter: dict[Tensor, Parcel] = {parcel.member.p: parcel for parcel in self.parcels}
        self._used: list[Parcel] = []

    def local_target(self, p: Tensor) -> Tensor | None:
        parcel = self._by_parameter.get(p)
        return p if parcel is None else parcel.work if parcel.member.here else None

    def contributes(self, p: Tensor) -> bool:
        parcel = self._by_parameter.get(p)
        apart = parcel is not None and parcel.member.family != "gathered"
        names = {line.name for line in parcel.member.lines} if apart and parcel is not None else set()
        return all(line.rank == 0 for line in self.lines if line.name not in names)

    def span(self, p: Tensor) -> ShardSpan | None:
        parcel = self._by_parameter.get(p)
        cut = None if parcel is None or parcel.member.family != "local" else parcel.member.cut
        if cut is None or cut.dim:  # other cuts leave no entries side by side, and may round differently
            return None
        row = math.prod(cut.shape[1:]) * (2 if p.is_complex() else 1)
        return ShardSpan(cut.bounds(cut.line.rank)[0] * row, cut.shape[0] * row)

    def agree(self, flag: bool) -> bool:
        """Whether it is so on every process."""
        marks = torch.tensor([not flag], dtype=torch.uint8, device=self._device)
        self._all_reduce(marks, dist.ReduceOp.MAX)
        return not bool(marks)

    def open(self, finite: bool) -> bool:
        for parcel in self.parcels:
            parcel.grad = gradient(parcel.member.p)
        own = [not finite, *(p.grad is not None for p in self.parcels), *(p.changed for p in self.parcels)]
        marks, received = self._exchange_gradients(torch.tensor(own, dtype=torch.uint8, device=self._device))
        bad, *rest = marks.tolist()
        if bad:
            for parcel in self.parcels:
                parcel.grad = None
            return False
        present, changed = rest[: len(self.parcels)], rest[len(self.parcels) :]
        for parcel in self.parcels:
            if not parcel.filled and parcel.member.family == "owner":
                parcel.fill(received[id(parcel)][1] if parcel.member.here else None)
        written = [parcel for parcel, mark in zip(self.parcels, changed, strict=True) if mark]
        self._fetch([*written, *(p for p in self.parcels if not p.filled)])
        self._used = [parcel for parcel, mark in zip(self.parcels, present, strict=True) if mark]
        for parcel in self._used:
            parcel.work.grad = self._whole_gradient(parcel, received)
        return True

    def sum(self, statistics: list[Tensor]) -> None:
        if statistics:
            joined = torch.cat([total.reshape(-1) for total in statistics]).to(self._device)
            self._all_reduce(joined, dist.ReduceOp.SUM)
            for total, part in zip(statistics, torch.split(joined, [t.numel() for t in statistics]), strict=True):
                total.copy_(part.view_as(total))

    def close(self) -> None:
        for parcel in self._used:
            parcel.work.grad = None  # before room for messages is made
        for line in self.lines:
            mine = _along(line, self._used)
            if mine:
                self._return(line, mine)
        for parcel in self._used:
            if parcel.member.family == "gathered":
                parcel.local.copy_(placed(parcel.work, parcel.member.p))
        for parcel in self.parcels:
            parcel.end_step()
        self._used = []

    @property
    def _device(self) -> torch.device:
        return self.parcels[0].local.device

    def _all_reduce(self, tensor: Tensor, how: dist.ReduceOp.RedOpType) -> None:
        for line in self.lines:
            dist.all_reduce(tensor, how, group=line.group)

    def _exchange_gradients(self, marks: Tensor) -> tuple[Tensor, dict[int, list[Tensor]]]:
        """The marks that any process made, and what arrived for the tensors that are stepped here."""
        if len(self.lines) == 1 and _along(self.lines[0], self.parcels):  # the marks travel with the gradients
            return self._collect(self.lines[0], self.parcels, marks, Parcel.load)
        self._all_reduce(marks, dist.ReduceOp.MAX)
        received: dict[int, list[Tensor]] = {}
        for line in self.lines:
            if _along(line, self.parcels):
                received |= self._collect(line, self.parcels, marks, Parcel.load)[1]
        return marks, received

    def _collect(
        self, line: Line, parcels: Sequence[Parcel], marks: Tensor, load: Callable[[Parcel], list[Tensor]]
    ) -> tuple[Tensor, dict[int, list[Tensor]]]:
        """One all-to-all of parts to their owners: the marks of all, and the whole tensors of those owned here."""
        loads = {id(parcel): load(parcel) for parcel in _along(line, parcels)}
        mine = [parcel for parcel in _along(line, parcels) if parcel.member.here]
        outgoing = [[marks] for _ in range(line.size)]
        for parcel in _along(line, parcels):
            outgoing[parcel.member.owner] += loads[id(parcel)]
        incoming = [
            [form(marks), *((p.cut.part_shape(rank), each.dtype) for p in mine for each in loads[id(p)])]
            for rank in range(line.size)
        ]
        arrived = swap(outgoing, incoming, line.group, marks.device)
        joined = torch.stack([each[0] for each in arrived]).amax(0)
        rows = zip(*(each[1:] for each in arrived), strict=True)
        return joined, {id(p): [torch.cat(next(rows), p.cut.dim) for _ in loads[id(p)]] for p in mine}

    def _whole_gradient(self, parcel: Parcel, received: dict[int, list[Tensor]]) -> Tensor | None:
        """What the bucket of this process needs."""
        member = parcel.member
        if member.family == "owner":
            return received[id(parcel)][0] if member.here else None
        if member.family == "local":
            return parcel.sent_grad() if parcel.grad is None else parcel.grad
        return wrapped(parcel.sent_grad(), member.p, tuple(member.p.shape)).full_tensor()

    def _fetch(self, parcels: Sequence[Parcel]) -> None:
        """Take parameters as they are now to who steps them."""
        none = torch.zeros(1, dtype=torch.uint8, device=self._device)
        received: dict[int, list[Tensor]] = {}
        for line in self.lines:
            if _along(line, parcels):
                received |= self._collect(line, parcels, none, lambda parcel: [parcel.local])[1]
        for parcel in parcels:
            if parcel.member.family == "gathered":
                parcel.fill(parcel.member.p.full_tensor())
            elif parcel.member.family == "owner":
                parcel.fill(received[id(parcel)][0] if parcel.member.here else None)
            parcel.filled = True

    def _return(self, line: Line, parcels: list[Parcel]) -> None:
        """One all-to-all of the owners' results."""
        mine = [parcel for parcel in parcels if parcel.member.here]
        outgoing = [[parcel.cut.part(parcel.work, rank) for parcel in mine] for rank in range(line.size)]
        theirs = [[p for p in parcels if p.member.owner == rank] for rank in range(line.size)]
        incoming = [[form(p.local) for p in each] for each in theirs]
        arrived = swap(outgoing, incoming, line.group, self._device)
        for parcels_of, tensors in zip(theirs, arrived, strict=True):
            for parcel, tensor in zip(parcels_of, tensors, strict=True):
                parcel.local.copy_(tensor)


def _along(line: Line, parcels: Sequence[Parcel]) -> list[Parcel]:
    """Those that have an owner on this line."""
    return [parcel for parcel in parcels if parcel.member.family == "owner" and parcel.cut.line.name == line.name]
