"""A step over several processes: gradients go to who uses them, and results come back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import distribute_tensor

from metrize.exchange import Exchange
from metrize.seams import Seam
from metrize.sharding.members import Member
from metrize.sharding.shards import Line, gradient
from metrize.sharding.wire import Form, swap


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
        self._seen: tuple[int, int] | None = None

    @property
    def changed(self) -> bool:
        """Whether someone else wrote to the parameter since it was last looked at."""
        return self.member.family != "local" and self._versions() != self._seen

    def look(self) -> None:
        """Note the parameter as it is now."""
        self._seen = self._versions()

    def _versions(self) -> tuple[int, int]:
        # what is written through the container is not counted by the part, nor the other way round
        return self.member.p._version, self.local._version

    def sent_grad(self) -> Tensor:
        """The gradient in the parameter's dtype; zeros where this process has none."""
        return torch.zeros_like(self.local) if self.grad is None else self.grad.to(self.local.dtype)


class Sharded(Exchange):
    """What crosses processes in a step, for all parameters together.

    One all-to-all brings gradients to the owners of their tensors, with the marks by which all processes decide alike
    whether to step; one brings the new parameters back. Without owned tensors the marks are one small all-reduce. A
    parameter that someone wrote to since the last step is sent to its owner by one more. The sums of step sizes that
    look at the whole model are an all-reduce.

    Args:
        members: the cut parameters, in the order of the optimizer.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.parcels = [Parcel(member) for member in members]
        self.lines = list({line.name: line for member in members for line in member.lines}.values())
        self._fetch([parcel for parcel in self.parcels if parcel.member.family != "local"])
        self._by_parameter: dict[Tensor, Parcel] = {parcel.member.p: parcel for parcel in self.parcels}
        self._used: list[Parcel] = []

    def work(self, p: Tensor) -> Tensor | None:
        parcel = self._by_parameter.get(p)
        return p if parcel is None else parcel.work if parcel.member.here else None

    def counts(self, p: Tensor) -> bool:
        parcel = self._by_parameter.get(p)
        apart = parcel is not None and parcel.member.family != "gathered"
        names = {line.name for line in parcel.member.lines} if apart and parcel is not None else set()
        return all(line.rank == 0 for line in self.lines if line.name not in names)

    def seam(self, p: Tensor) -> Seam | None:
        parcel = self._by_parameter.get(p)
        cut = None if parcel is None or parcel.member.family != "local" else parcel.member.cut
        if cut is None or cut.dim:  # other cuts leave no entries side by side, and may round differently
            return None
        row = math.prod(cut.shape[1:]) * (2 if p.is_complex() else 1)
        return Seam(cut.bounds(cut.line.rank)[0] * row, cut.shape[0] * row)

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
        self._fetch([parcel for parcel, mark in zip(self.parcels, changed, strict=True) if mark])
        self._used = [parcel for parcel, mark in zip(self.parcels, present, strict=True) if mark]
        for parcel in self.parcels:
            parcel.work.grad = None
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
        owned = [parcel for parcel in self._used if parcel.member.family == "owner"]
        for line in self.lines:
            mine = [parcel for parcel in owned if _line(parcel).name == line.name]
            if mine:
                self._return(line, mine)
        for parcel in self._used:
            if parcel.member.family == "gathered":
                p = parcel.member.p
                spread = distribute_tensor(parcel.work, p.device_mesh, p.placements, src_data_rank=None)
                parcel.local.copy_(spread.to_local())
            parcel.look()
            parcel.work.grad = parcel.grad = None
        self._used = []

    @property
    def _device(self) -> torch.device:
        return self.parcels[0].local.device

    def _all_reduce(self, tensor: Tensor, how: dist.ReduceOp.RedOpType) -> None:
        for line in self.lines:
            dist.all_reduce(tensor, how, group=line.group)

    def _exchange_gradients(self, marks: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """The marks that any process made, and whole gradients of owned tensors by place."""
        owned = [parcel for parcel in self.parcels if parcel.member.family == "owner"]
        if len(self.lines) == 1 and owned:  # the marks travel with the gradients
            return self._collect(self.lines[0], owned, marks, gradients=True)
        self._all_reduce(marks, dist.ReduceOp.MAX)
        received: dict[int, Tensor] = {}
        for line in self.lines:
            mine = [parcel for parcel in owned if _line(parcel).name == line.name]
            if mine:
                received |= self._collect(line, mine, marks, gradients=True)[1]
        return marks, received

    def _collect(
        self, line: Line, parcels: list[Parcel], marks: Tensor, gradients: bool
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """One all-to-all of parts to their owners: the marks of all, and the whole tensors of those owned here."""
        outgoing = [[marks] for _ in range(line.size)]
        incoming: list[list[Form]] = [[(tuple(marks.shape), marks.dtype)] for _ in range(line.size)]
        mine = [parcel for parcel in parcels if parcel.member.here]
        for parcel in parcels:
            outgoing[parcel.member.owner].append(parcel.sent_grad() if gradients else parcel.local)
        for rank in range(line.size):
            incoming[rank] += [(_cut(parcel).part_shape(rank), parcel.local.dtype) for parcel in mine]
        arrived = swap(outgoing, incoming, line.group, marks.device)
        joined = torch.stack([each[0] for each in arrived]).amax(0)
        parts = zip(*(each[1:] for each in arrived), strict=True)
        return joined, {id(p): torch.cat(part, _cut(p).dim) for p, part in zip(mine, parts, strict=True)}

    def _whole_gradient(self, parcel: Parcel, received: dict[int, Tensor]) -> Tensor | None:
        """What the bucket of this process needs."""
        member, p = parcel.member, parcel.member.p
        if member.family == "owner":
            return received.get(id(parcel))
        if member.family == "local":
            return parcel.sent_grad() if parcel.grad is None else parcel.grad
        part = type(p).from_local(
            parcel.sent_grad(), p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride()
        )
        return part.full_tensor()

    def _fetch(self, parcels: list[Parcel]) -> None:
        """Take parameters as they are now to who steps them."""
        for line in self.lines:
            mine = [p for p in parcels if p.member.family == "owner" and _line(p).name == line.name]
            if mine:
                none = torch.zeros(1, dtype=torch.uint8, device=self._device)
                received = self._collect(line, mine, none, gradients=False)[1]
                for parcel in mine:
                    if id(parcel) in received:
                        parcel.work.copy_(received[id(parcel)])
        for parcel in parcels:
            if parcel.member.family == "gathered":
                parcel.work.copy_(parcel.member.p.full_tensor())
            parcel.look()

    def _return(self, line: Line, parcels: list[Parcel]) -> None:
        """One all-to-all of the owners' results."""
        mine = [parcel for parcel in parcels if parcel.member.here]
        outgoing = [[_cut(parcel).part(parcel.work, rank) for parcel in mine] for rank in range(line.size)]
        theirs = [[p for p in parcels if p.member.owner == rank] for rank in range(line.size)]
        incoming = [[(tuple(p.local.shape), p.local.dtype) for p in each] for each in theirs]
        arrived = swap(outgoing, incoming, line.group, self._device)
        for parcels_of, tensors in zip(theirs, arrived, strict=True):
            for parcel, tensor in zip(parcels_of, tensors, strict=True):
                parcel.local.copy_(tensor)


def _cut(parcel: Parcel):  # type: ignore[no-untyped-def]
    assert parcel.member.cut is not None
    return parcel.member.cut


def _line(parcel: Parcel) -> Line:
    line: Line = _cut(parcel).line
    return line
