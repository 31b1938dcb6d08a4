"""State between how processes keep it and how checkpoints hold it: tensors cut by rows, that load on any number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from metrize.sharding.members import Member
from metrize.sharding.shards import Cut, Line, placed, wrapped
from metrize.sharding.wire import Form, swap
from metrize.step.assignment import on_host
from metrize.step.state import State, placeholder


def published(members: Mapping[Tensor, Member], states: Mapping[Tensor, State]) -> dict[Tensor, State]:
    """The state of cut parameters as checkpoints hold it; one all-to-all for those that are stepped by an owner.

    Args:
        members: the cut parameters.
        states: what this process keeps for them, and for others.
    """
    known = {p: member for p, member in members.items() if states.get(p)}
    found = {p: _wrapped(member, states[p]) for p, member in known.items() if member.family != "owner"}
    owned = [member for member in known.values() if member.family == "owner"]
    for name in dict.fromkeys(_cut(member).line.name for member in owned):
        mine = [member for member in owned if _cut(member).line.name == name]
        found |= _spread(_cut(mine[0]).line, mine, states)
    return found


def taken_over(member: Member, saved: Mapping[str, Any]) -> dict[str, Any]:
    """What this process keeps of the saved state of one parameter; a collective where that is cut."""
    kept = {key: _own_part(member, key, value) for key, value in saved.items()}
    if member.here:
        return kept
    host = {key: value for key, value in kept.items() if on_host(key)}
    return kept | placeholder(member.spec) | host


def agreed(members: Mapping[Tensor, Member], fine: bool) -> bool:
    """Whether it is so on every process that shares a parameter with this one; a collective."""
    lines = {line.name: line for member in members.values() for line in member.lines}
    device = next(iter(members.values())).p.to_local().device
    marks = torch.tensor([not fine], dtype=torch.uint8, device=device)
    for line in lines.values():
        dist.all_reduce(marks, dist.ReduceOp.MAX, group=line.group)
    return not bool(marks)


def _own_part(member: Member, key: str, value: Any) -> Any:
    if not isinstance(value, Tensor) or key not in member.spec:
        return value
    if member.family == "local" and value.ndim:
        return placed(value, member.p)
    return value.full_tensor() if isinstance(value, DTensor) else value


def _wrapped(member: Member, state: State) -> State:
    """State of a parameter of which every process steps its own part, or all step the whole."""
    cut = member.family == "local" and bool(member.lines)
    return {
        key: wrapped(value, member.p, member.spec[key][0]) if cut and key in member.spec and value.ndim else value
        for key, value in state.items()
    }


def _spread(line: Line, members: list[Member], states: Mapping[Tensor, State]) -> dict[Tensor, State]:
    """The state that owners keep, cut over all processes of a line; what has no dimension goes to each."""
    device = members[0].p.to_local().device
    outgoing = [
        [_part(states[m.p][key].to(device), line, rank) for m in members if m.here for key in m.spec]
        for rank in range(line.size)
    ]
    theirs = [[m for m in members if m.owner == rank] for rank in range(line.size)]
    incoming = [[_form(spec, line) for m in each for spec in m.spec.values()] for each in theirs]
    arrived = swap(outgoing, incoming, line.group, device)
    found: dict[Tensor, State] = {}
    for each, tensors in zip(theirs, arrived, strict=True):
        row = iter(tensors)
        for member in each:
            found[member.p] = {key: _contained(member, key, next(row)) for key in member.spec}
    return found


def _part(value: Tensor, line: Line, rank: int) -> Tensor:
    return Cut(line, 0, tuple(value.shape)).part(value, rank) if value.ndim else value


def _form(spec: tuple[tuple[int, ...], torch.dtype], line: Line) -> Form:
    shape, dtype = spec
    return (Cut(line, 0, shape).part_shape(line.rank) if shape else shape), dtype


def _contained(member: Member, key: str, part: Tensor) -> Tensor:
    shape = member.spec[key][0]
    own = part.to("cpu", copy=True) if on_host(key) else part.clone()
    return wrapped(own, member.p, shape, dim=0) if shape else own


def _cut(member: Member) -> Cut:
    assert member.cut is not None
    return member.cut
