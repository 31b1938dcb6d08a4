"""From parameter groups to buckets, and the state that belongs to them."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import MutableMapping, Sequence
from typing import Any

from torch import Tensor

from metrize.frames import Frame
from metrize.recipe import parse_recipe
from metrize.spaces import SpaceError
from metrize.spaces.declare import check_point, naming
from metrize.step.assignment import Assignment, Assignments, assign
from metrize.step.bucket import Bucket
from metrize.step.exchange import Exchange
from metrize.step.flat import Flat
from metrize.step.fused import Fused
from metrize.step.group import is_flat_piece_of, name_of, trains
from metrize.step.piecewise import Piecewise
from metrize.step.stacked import Stacked
from metrize.step.state import State, new_state, placeholder
from metrize.step.windows import ShardSpan

EXECUTORS: tuple[type[Bucket], ...] = (Fused, Flat, Piecewise, Stacked)
"""In the order in which they are asked."""

Groups = Sequence[dict[str, Any]]
States = MutableMapping[Tensor, State]


def executor_of(assignment: Assignment) -> type[Bucket]:
    """The first executor that accepts, and pays where the tensor is."""
    able = [executor for executor in EXECUTORS if executor.accepts(assignment)]
    return next((executor for executor in able if executor.pays(assignment)), able[0])


def alike_groups(groups: Groups) -> list[int]:
    """For each group, the first one with equal numbers and recipe: their members can be stepped together."""
    first: dict[Any, int] = {}
    return [first.setdefault(_numbers(at, group), at) for at, group in enumerate(groups)]


def _numbers(at: int, group: dict[str, Any]) -> Any:
    """What must be equal: everything but members and their traits; a group that measures for itself stays alone."""
    if parse_recipe(group["recipe"]).step_size.scope == "group":
        return at
    try:
        return tuple((key, value, hash(value))[:2] for key, value in group.items() if key not in _OF_MEMBERS)
    except TypeError:
        return at


_OF_MEMBERS = frozenset(("params", "param_names", "spaces", "shapes", "name", "skipped_steps", "format"))


def assemble(groups: Groups, states: States, exchange: Exchange) -> list[Bucket]:
    """The buckets of all parameters that this process steps; every parameter has its state then.

    Args:
        groups: of the optimizer.
        states: of its parameters; what is missing is made.
        exchange: says what this process steps of each.
    """
    found: dict[Any, _Members] = {}
    known = {id(p) for p, state in states.items() if "phase" in state}
    executors = functools.cache(executor_of)
    seeded = False
    for group, alike in zip(groups, alike_groups(groups), strict=True):
        assignments = Assignments(group)
        for index, p in enumerate(group["params"]):
            if not trains(p):
                continue
            assignment = assignments.of(index, p)
            _refuse_flat_piece(group, index, assignment)
            seeded = seeded or bool(assignment.seeds)
            target = exchange.local_target(p)
            if target is None:
                states[p].update({} if states[p] else placeholder(assignment.spec))
                continue
            if target is not p:
                assignment = assignments.of(index, target)
            executor = executors(assignment)
            together, contributes = executor.together(assignment), exchange.contributes(p)
            span = exchange.span(p)
            among = id(p) if together is None else together
            key = (alike, executor, p.device, contributes, span is not None, among)
            if key not in found:
                found[key] = _Members(executor, assignment, contributes)
            found[key].add(group, index, target, span)
            _ensure_state(group, index, assignment, executor, target, states[p])
    stagger(groups, states, known)
    if seeded:
        _seed(groups, states)
    return [members.bucket(states) for members in found.values()]


class _Members:
    """What becomes a bucket."""

    def __init__(self, executor: type[Bucket], assignment: Assignment, contributes: bool) -> None:
        self.executor, self.assignment, self.contributes = executor, assignment, contributes
        self.places: list[tuple[dict[str, Any], int]] = []
        self.targets: list[Tensor] = []
        self.spans: list[ShardSpan] = []

    def add(self, group: dict[str, Any], index: int, target: Tensor, span: ShardSpan | None) -> None:
        self.places.append((group, index))
        self.targets.append(target)
        self.spans += [] if span is None else [span]

    def bucket(self, states: States) -> Bucket:
        own = [states[group["params"][index]] for group, index in self.places]
        first = self.places[0][0]
        return self.executor(self.assignment, first, self.places, self.targets, own, self.contributes, self.spans)


def _ensure_state(
    group: dict[str, Any], index: int, assignment: Assignment, executor: type[Bucket], target: Tensor, state: State
) -> None:
    """Make what is missing of the state of a parameter, of which this process steps `target`."""
    if not state:
        with naming(name_of(group, index)):
            assignment.space.check(target)  # which may have been frozen until now
            assignment.check()
    spec = assignment.spec
    for key, value in state.items():
        if key in spec and tuple(value.shape) != tuple(spec[key][0]):  # a kernel would write past the end
            raise ValueError(
                f"parameter {name_of(group, index)!r} has shape {tuple(target.shape)} now, but its state {key} has "
                f"{tuple(value.shape)}; change both together, or delete optimizer.state[parameter] to start afresh"
            )
    missing = spec.keys() - state.keys()
    if missing:
        if not assignment.space.flat:
            with naming(name_of(group, index)):
                check_point(assignment.space, target)
        fresh = new_state(assignment, target, executor.counts_on(assignment, target))
        state.update(fresh if len(missing) == len(spec) else {key: fresh[key] for key in spec if key in missing})
    for key, (_, dtype) in spec.items():
        if state[key].dtype != dtype:
            state[key] = state[key].to(dtype)  # a model converted between steps


def stagger(groups: Groups, states: States, known: set[int]) -> None:
    """Spread the refreshes of new frames over their period, the costly ones first, each where least is to do.

    Args:
        groups: of the optimizer.
        states: of its parameters.
        known: ids of those whose phase stays as it is.
    """
    costs: dict[Frame, dict[Tensor, float]] = defaultdict(dict)
    for group in groups:
        for index, p in enumerate(group["params"]):
            if "phase" in states.get(p, {}):
                assignment = assign(group, index)
                costs[assignment.recipe.frame][p] = assignment.refresh
    for frame, members in costs.items():
        load: dict[int, float] = defaultdict(float)
        places = range(min(frame.period, len(members)))  # a period may be longer than any list
        for p in sorted(members, key=lambda p: (id(p) not in known, -members[p])):
            phase = states[p]["phase"]
            if id(p) not in known:
                phase.fill_(min(places, key=load.__getitem__))
            load[int(phase) % frame.period] += members[p]


def _seed(groups: Groups, states: States) -> None:
    """Give each parameter random numbers of its own: a fresh seed is its place in the optimizer, counted from 1."""
    members = ((group, index, p) for group in groups for index, p in enumerate(group["params"]))
    for place, (group, index, p) in enumerate(members, start=1):
        for key in assign(group, index).seeds if states.get(p) else ():
            if not states[p][key].any():
                states[p][key].fill_(place)


def _refuse_flat_piece(group: dict[str, Any], index: int, assignment: Assignment) -> None:
    """A rule for matrices would take a flat piece of several tensors for a vector, and train something else."""
    if len(assignment.shape) < 2 and is_flat_piece_of(group, index) and not assignment.elementwise:
        raise SpaceError(
            f"parameter {name_of(group, index)!r} is a flat piece of {assignment.numel} numbers that an engine cut "
            f"without regard to dimensions, and {assignment.recipe.rule} needs whole tensors; shard the model with "
            "torch.distributed.fsdp.fully_shard, or use an optimizer that works entry by entry, such as AdamW or Lion"
        )
