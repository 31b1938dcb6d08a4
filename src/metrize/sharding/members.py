"""What each process does with its part of a tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor

from metrize.part import Spec
from metrize.sharding.shards import Cut, Layout, Line, layout_of, lines_of
from metrize.step.assignment import Assignment, assign


@dataclasses.dataclass
class Member:
    """A parameter that is a DTensor, and how it is stepped.

    Args:
        p: the parameter.
        spec: what one process would keep for it: key -> (shape, dtype).
        family: ``"local"``, every process steps the part it has; ``"owner"``, one process steps the whole;
            ``"gathered"``, every process steps the whole.
        flat: whether it lives in a vector space.
        cut: how it is cut; None where it is cut along several lines or not at all.
        owner: who steps it, by place in the line.
    """

    p: DTensor
    spec: Spec
    family: str
    flat: bool
    cut: Cut | None = None
    owner: int = 0

    @property
    def lines(self) -> tuple[Line, ...]:
        """Along which it is cut."""
        return lines_of(self.p)

    @property
    def here(self) -> bool:
        """Whether this process steps it, or its own part of it."""
        return self.family != "owner" or (self.cut is not None and self.owner == self.cut.line.rank)


def members(
    groups: Sequence[dict[str, Any]], layout_of: Callable[[Any], Layout | None] = layout_of
) -> dict[Tensor, Member]:
    """The cut parameters of an optimizer; every process comes to the same answer without a word.

    Args:
        groups: of the optimizer.
        layout_of: how a parameter lies on processes; another answer than that of DTensors tells of processes to come.
    """
    found: dict[Tensor, Member] = {}
    loads: dict[str, list[float]] = {}
    for group in groups:
        mine = []
        for index, p in enumerate(group["params"]):
            layout = layout_of(p)
            if layout is not None:
                assignment = assign(group, index)
                found[p] = _member(assignment, p, layout)
                mine.append((assignment.flops, found[p]))
        _share_out(mine, loads)  # group by group, so that a group that is added leaves the others where they are
    return found


def _member(assignment: Assignment, p: DTensor, layout: Layout) -> Member:
    spec, flat, cut = assignment.spec, assignment.space.flat, layout.cut
    if layout.whole or assignment.elementwise:
        return Member(p, spec, "local", flat, cut)
    return Member(p, spec, "gathered" if cut is None else "owner", flat, cut)


def _share_out(mine: list[tuple[float, Member]], loads: dict[str, list[float]]) -> None:
    """The costly ones first, each to the process that has the least to do."""
    for work, member in sorted(mine, key=lambda pair: -pair[0]):
        if member.family == "owner" and member.cut is not None:
            load = loads.setdefault(member.cut.line.name, [0.0] * member.cut.line.size)
            member.owner = min(range(len(load)), key=load.__getitem__)
            load[member.owner] += work
