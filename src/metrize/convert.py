"""Checkpoints for an optimizer that keeps its averages in another way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metrize.linalg import is_sharded
from metrize.part import Spec
from metrize.recipe import Recipe, parse_recipe
from metrize.resume import (
    Source,
    arranged,
    averages_of,
    check_origin,
    check_place,
    other_meaning,
    read,
    read_foreign,
    stacked_alone,
)
from metrize.spaces.base import compute_dtype
from metrize.step.assignment import Assignment, assignment_of, on_host
from metrize.step.group import name_of, space_of
from metrize.step.state import new_state

_HOST = torch.device("cpu")


@torch.no_grad()
def convert_state(state_dict: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A checkpoint whose averages are stored as an optimizer stores them, for its `load_state_dict`.

    Each average is read with the storage that wrote it and written with the optimizer's own: from float32 to 8 or 4
    bits, to factors, to rank 1 or to another dtype, and back. What a smaller storage leaves out is lost. Rule, frame,
    step size and space have to be the same in what their state means. Also read are the state dicts of Adam, AdamW,
    SGD, Adagrad, NAdam, Adafactor and Muon of ``torch.optim``, and of Adam, AdamW and Lion in 8 bits of bitsandbytes.

    Args:
        state_dict: of an optimizer of this library or of those named; it is not changed.
        optimizer: that shall go on; it is not changed.

    Returns:
        a state dict that ``optimizer.load_state_dict`` takes.

    Raises:
        ValueError: what cannot be carried over, by the name of a parameter.

    Example:
        >>> model = torch.nn.Linear(4, 4)
        >>> old = metrize.AdamW(model)
        >>> new = metrize.SMMF(model)
        >>> new.load_state_dict(metrize.convert_state(old.state_dict(), new))
    """
    own = next((parse_recipe(group["recipe"]) for group in optimizer.param_groups), None)
    saved = read(state_dict, lambda at, group, states: read_foreign(own, at, group, states))
    found = arranged(saved, optimizer.param_groups, optimizer.defaults)
    result: dict[str, Any] = {"state": {}, "param_groups": []}
    place = 0
    for group, new in zip(optimizer.param_groups, found, strict=True):
        params = list(range(place, place + len(group["params"])))
        result["param_groups"].append({**new.group, "params": params})
        for index, source in enumerate(new.sources):
            if source is not None:
                _check_meaning(source, group, name_of(group, index))
                kept = _converted({**new.group, "params": group["params"]}, index, source, place + index + 1)
                if kept:
                    result["state"][params[index]] = kept
        place += len(params)
    return result


def _converted(group: dict[str, Any], index: int, source: Source, seed: int) -> dict[str, Any]:
    """The state of one parameter; `seed` is its place in the optimizer, counted from 1."""
    recipe, name = parse_recipe(group["recipe"]), name_of(group, index)
    check_place(group, index, source)
    if not source.state:
        return {}
    p, space = group["params"][index], space_of(group, index, recipe)
    whole = p.full_tensor() if is_sharded(p) else p
    kept = {key: value.full_tensor() if is_sharded(value) else value for key, value in source.state.items()}
    if isinstance(kept.get("step"), float | int):
        kept["step"] = torch.tensor(float(kept["step"]))
    hyper = {**source.group.recipe.hyper(), **group, **source.group.numbers}
    if source.group.origin:
        kept = _in_arithmetic(kept, whole.dtype)
    old = _written(source.group.recipe, space, whole, hyper, kept, name)
    new = assignment_of(recipe, space, whole, group)
    state = new_state(new, whole, _HOST)
    was, now = ({key: slot.kind for key, slot in each.slots.items()} for each in (old, new))
    _check_averages(was, now, name)
    read_back = averages_of(old, kept)
    taken: set[str] = set()
    for key, slot in new.slots.items():
        storage = new.storages[key]
        own = storage.state_spec(slot.name, slot.shape, slot.dtype, slot.kind)
        taken |= own.keys()
        if old.storages[key] == storage and all(old.spec.get(k) == form for k, form in own.items()):
            state |= {k: kept[k].clone() for k in own}  # the same numbers in the same storage, to the bit
            continue
        for drawn in own.keys() & set(new.seeds):
            state[drawn].fill_(seed)
        storage.write(slot, stacked_alone(state), read_back[key].to(slot.dtype))
    _carry_rest(state, kept, new.spec.keys() - taken, name)
    return state | {key: value for key, value in kept.items() if key not in old.spec and key not in new.spec}


def _carry_rest(state: dict[str, Tensor], kept: dict[str, Any], keys: set[str], name: str) -> None:
    """What is no average: counts, bases, points and numbers, in the dtype of the new state."""
    for key in keys:
        value = kept.get(key)
        if isinstance(value, Tensor) and value.shape == state[key].shape:
            state[key] = value.to(state[key].dtype, copy=True)
        elif key != "master" and not key.startswith("rounding."):  # these start from the weights
            raise ValueError(
                f"parameter {name!r}: {key} of shape {tuple(state[key].shape)} is kept here, and the checkpoint has "
                f"{'none' if value is None else tuple(value.shape)}; it cannot be made of what there is"
            )


def _check_meaning(source: Source, group: dict[str, Any], name: str) -> None:
    """Refuse averages that mean something else under the recipe of the optimizer's group."""
    recipe = parse_recipe(group["recipe"])
    if source.group.origin:
        check_origin(source.group, recipe, group, name)
        return
    was = source.group.recipe
    told = other_meaning(was, recipe, kin=True)
    keeps = [part.state_spec(torch.Size((2, 2)), torch.float32).keys() for part in (was.step_size, recipe.step_size)]
    if keeps[0] != keeps[1]:  # one that keeps something scales what enters the averages
        told += [f"step_size {was.step_size} -> {recipe.step_size}"]
    if told:
        raise ValueError(f"parameter {name!r}: its averages cannot be carried over to another {', '.join(told)}")


def _check_averages(was: dict[str, Any], now: dict[str, Any], name: str) -> None:
    if was != now:
        raise ValueError(
            f"parameter {name!r}: the checkpoint keeps the averages {', '.join(sorted(was)) or 'none'}, and this "
            f"optimizer {', '.join(sorted(now)) or 'none'}; they cannot be made of one another"
        )


def _in_arithmetic(kept: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Averages of another library, which may keep them in the parameter's dtype."""
    wide = compute_dtype(dtype)
    casts = {key: torch.float32 if on_host(key) else wide for key in kept}
    return {key: value.to(casts[key]) if isinstance(value, Tensor) else value for key, value in kept.items()}


def _written(
    recipe: Recipe, space: Any, p: Tensor, hyper: dict[str, Any], kept: dict[str, Any], name: str
) -> Assignment:
    """What the recipe keeps for a parameter of the dtype that it had then."""
    spec: Spec = {}
    for dtype in (p.dtype, torch.float32, torch.float64, torch.bfloat16):
        found = assignment_of(recipe, space, torch.empty(p.shape, dtype=dtype, device="meta"), hyper)
        spec = found.spec
        fits = [
            isinstance(kept.get(key), Tensor) and kept[key].dtype == kind and tuple(kept[key].shape) == tuple(shape)
            for key, (shape, kind) in spec.items()
        ]
        if all(fits):
            return found
    wrong = [key for key, fit in zip(spec, fits, strict=True) if not fit]
    raise ValueError(f"parameter {name!r}: the state {', '.join(wrong)} of the checkpoint is not what its recipe keeps")
