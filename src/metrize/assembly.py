"""From the parameters of an optimizer to buckets, and the state that belongs to them."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from metrize.bucket import Bucket, Fused
from metrize.exchange import Exchange
from metrize.frames import Frame
from metrize.framing import point_shape
from metrize.groups import check, is_flat_piece_of, name_of, space_of, trains
from metrize.kinds import alone, by_entry, kind_of
from metrize.linalg import is_sharded
from metrize.recipe import Recipe, parse_recipe
from metrize.spaces import Space, SpaceError
from metrize.spaces.declare import check_point, naming
from metrize.state import drawn, new_state, real, state_spec

if TYPE_CHECKING:
    from metrize.optimizer import Optimizer


def exchange_of(optimizer: Optimizer) -> Exchange:
    """What the parameters need of other processes."""
    if not any(is_sharded(p) for group in optimizer.param_groups for p in group["params"]):
        return Exchange()
    from metrize.sharding import Sharded, members  # slow to load, and of use to few

    trained = [member for p, member in members(optimizer).items() if trains(p)]
    return Sharded(trained) if trained else Exchange()


def assemble(optimizer: Optimizer, exchange: Exchange) -> list[Bucket]:
    """The buckets of all parameters that this process steps; every parameter has its state then."""
    found: dict[Any, tuple[type[Bucket], Recipe, Space, dict[str, Any], list[int], list[Tensor]]] = {}
    known = {id(p) for p, state in optimizer.state.items() if "phase" in state}
    for at, group in enumerate(optimizer.param_groups):
        recipe = parse_recipe(group["recipe"])
        for index, p in enumerate(group["params"]):
            if not trains(p):
                continue
            work, space = exchange.work(p), space_of(group, index, recipe)
            _refuse_flat_piece(recipe, space, group, index)
            if work is None:
                _keep_place(optimizer, group, index)
                continue
            kind = kind_of(recipe, space, work, group)
            sewn = exchange.seam(p) is not None
            key = (at, kind, space, p.dtype, p.device, exchange.counts(p), sewn, *alone(kind, work, index))
            *_, indices, works = found.setdefault(key, (kind, recipe, space, group, [], []))
            indices.append(index)
            works.append(work)
            _ensure_state(optimizer, group, index, work, kind)
    _stagger(optimizer, known)
    _seed(optimizer)
    return [_bucket(optimizer, exchange, *content) for content in found.values()]


def _bucket(
    optimizer: Optimizer,
    exchange: Exchange,
    kind: type[Bucket],
    recipe: Recipe,
    space: Space,
    group: dict[str, Any],
    indices: list[int],
    works: list[Tensor],
) -> Bucket:
    params = [group["params"][i] for i in indices]
    states = [optimizer.state[p] for p in params]
    seams = [seam for p in params if (seam := exchange.seam(p)) is not None]
    return kind(recipe, space, group, indices, works, states, exchange.counts(params[0]), seams)


def _refuse_flat_piece(recipe: Recipe, space: Space, group: dict[str, Any], index: int) -> None:
    """A rule for matrices would take a flat piece of several tensors for a vector, and train something else."""
    p = group["params"][index]
    if is_flat_piece_of(group, index) and not by_entry(recipe, space, p, group):
        raise SpaceError(
            f"parameter {name_of(group, index)!r} is a flat piece of {p.numel()} numbers that an engine cut without "
            f"regard to dimensions, and {recipe.rule} needs whole tensors; shard the model with "
            "torch.distributed.fsdp.fully_shard, or use an optimizer that works entry by entry, such as AdamW or Lion"
        )


def _ensure_state(optimizer: Optimizer, group: dict[str, Any], index: int, work: Tensor, kind: type[Bucket]) -> None:
    """Make what is missing of the state of a parameter, of which this process steps `work`."""
    recipe, p = parse_recipe(group["recipe"]), group["params"][index]
    state, space = optimizer.state[p], space_of(group, index, recipe)
    if not state:
        with naming(name_of(group, index)):
            check(recipe, space, p)  # which may have been frozen until now
    spec = state_spec(recipe, space, work, group)
    for key, value in state.items():
        if key in spec and tuple(value.shape) != tuple(spec[key][0]):  # a kernel would write past the end
            raise ValueError(
                f"parameter {name_of(group, index)!r} has shape {tuple(work.shape)} now, but its state {key} has "
                f"{tuple(value.shape)}; change both together, or delete optimizer.state[parameter] to start anew"
            )
    missing = {key: spec[key] for key in spec.keys() - state.keys()}
    if missing:
        with naming(name_of(group, index)):
            check_point(space, work)
        fresh = new_state(spec, recipe, space, work, work.device if kind is Fused else torch.device("cpu"))
        state.update({key: fresh[key] for key in spec if key in missing})
    for key, (_, dtype) in spec.items():
        state[key] = state[key].to(dtype)  # a model converted between steps


def _keep_place(optimizer: Optimizer, group: dict[str, Any], index: int) -> None:
    """The state of a parameter that another process steps: its keys, which frameworks ask for, and its counts."""
    state = optimizer.state[group["params"][index]]
    if not state:
        from metrize.sharding import placeholder

        state.update(placeholder(optimizer.spec(group, index)))


def _stagger(optimizer: Optimizer, known: set[int]) -> None:
    """Spread the refreshes of new frames over their period, the costly ones first, each where least is to do."""
    costs: dict[Frame, dict[Tensor, float]] = defaultdict(dict)
    for group in optimizer.param_groups:
        recipe = parse_recipe(group["recipe"])
        for index, p in enumerate(group["params"]):
            if "phase" in optimizer.state.get(p, {}):
                shape = point_shape(space_of(group, index, recipe), real(p).shape)
                costs[recipe.frame][p] = recipe.frame.cost(shape)
    for frame, members in costs.items():
        load: dict[int, float] = defaultdict(float)
        places = range(min(frame.period, len(members)))  # a period may be longer than any list
        for p in sorted(members, key=lambda p: (id(p) not in known, -members[p])):
            phase = optimizer.state[p]["phase"]
            if id(p) not in known:
                phase.fill_(min(places, key=load.__getitem__))
            load[int(phase) % frame.period] += members[p]


def _seed(optimizer: Optimizer) -> None:
    """Give each parameter random numbers of its own: a fresh seed is its place in the optimizer, counted from 1."""
    members = (p for group in optimizer.param_groups for p in group["params"])
    for place, p in enumerate(members, start=1):
        for key, seed in optimizer.state.get(p, {}).items():
            if drawn(key) and not seed.any():
                seed.fill_(place)
