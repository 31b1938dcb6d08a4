"""Loading: nothing is taken over before everything fits, and every tensor keeps its own dtype."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from metrize.linalg import is_sharded
from metrize.part import Spec
from metrize.recipe import Recipe, parse_recipe
from metrize.resume import (
    FORMAT,
    Source,
    arranged,
    averages_of,
    check_origin,
    check_place,
    differences,
    other_meaning,
    read,
    read_foreign,
)
from metrize.step.assignment import Assignment, assignment_of, on_host
from metrize.step.group import name_of, space_of

Optimizer = torch.optim.Optimizer  # one of this library, which imports this module

__all__ = ["FORMAT", "load", "save"]


def save(optimizer: Optimizer, base_state_dict: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Torch's own method, and the state of sharded parameters in a form that loads on any number of processes.

    The user's own hooks see that form.
    """

    def publish(_: Any, packed: dict[str, Any]) -> None:
        ids = [i for group in packed["param_groups"] for i in group["params"]]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        public = published(members(optimizer.param_groups), optimizer.state)
        for identity, parameter in zip(ids, parameters, strict=True):
            if parameter in public:
                packed["state"][identity] = public[parameter]

    if not _sharded(optimizer):
        return base_state_dict()
    from metrize.sharding import members, published

    hook = optimizer.register_state_dict_post_hook(publish, prepend=True)
    try:
        return base_state_dict()
    finally:
        hook.remove()


def _show(group: dict[str, Any], states: Mapping[Tensor, dict[str, Any]]) -> None:
    """What a step size has found, in the group again."""
    for key in parse_recipe(group["recipe"]).step_size.shown():
        found = (states[p][key] for p in group["params"] if key in states.get(p, {}))
        known = next((value for value in found if value.numel() == 1), None)  # of another process it is empty
        if known is not None:
            group[key] = float(known)


def _sharded(optimizer: Optimizer) -> bool:
    return any(is_sharded(p) for group in optimizer.param_groups for p in group["params"])


def load(optimizer: Optimizer, state_dict: Any, base_load: Callable[[dict[str, Any]], None]) -> None:
    """Check a checkpoint against the optimizer, then load it through torch's own method.

    Torch casts every floating point state to the parameter's dtype (pytorch/pytorch#43706), so it is given the groups
    alone, after the user's own pre-hooks ran, and the state is put in before the user's post-hooks run. The recipes are
    the optimizer's, the numbers of groups the checkpoint's.

    Args:
        optimizer: which takes the state over.
        state_dict: the checkpoint.
        base_load: ``torch.optim.Optimizer.load_state_dict``, bound.

    Raises:
        ValueError: what does not fit, by name; nothing is changed then.
    """
    states: dict[Tensor, dict[str, Any]] = {}

    def set_aside(_: Any, final: dict[str, Any]) -> dict[str, Any]:
        groups, told = _together(optimizer, lambda: _fit(optimizer, final, states))
        for text in told:
            warnings.warn(text, UserWarning, stacklevel=8)
        return {**final, "state": {}, "param_groups": groups}

    def put_back(_: Any) -> None:
        for parameter, saved in states.items():
            kept = local(parameter, saved)
            optimizer.state[parameter] = {key: _own(key, value, parameter) for key, value in kept.items()}
        for group in optimizer.param_groups:
            _show(group, optimizer.state)

    local = _taker(optimizer)
    _together(optimizer, lambda: read_groups(optimizer, state_dict))
    hooks = [
        optimizer.register_load_state_dict_pre_hook(set_aside),
        optimizer.register_load_state_dict_post_hook(put_back, prepend=True),
    ]
    try:
        base_load(state_dict)
    finally:
        for hook in hooks:
            hook.remove()


def _taker(optimizer: Optimizer) -> Callable[[Tensor, dict[str, Any]], dict[str, Any]]:
    """From the saved state of a parameter to what this process keeps of it."""
    if not _sharded(optimizer):
        return lambda parameter, saved: saved
    from metrize.sharding import members, taken_over

    found = members(optimizer.param_groups)
    return lambda parameter, saved: taken_over(found[parameter], saved) if parameter in found else saved


def _own(key: str, value: Any, parameter: Tensor) -> Any:
    if key == "step" and isinstance(value, int | float):
        return torch.tensor(float(value))
    if not isinstance(value, Tensor):
        return value
    # a saved count of steps may lie on the host or beside the parameter; either serves
    return value.clone() if on_host(key) and value.device.type == "cpu" else value.to(parameter.device, copy=True)


def _together(optimizer: Optimizer, work: Callable[[], Any]) -> Any:
    """Do what may refuse a checkpoint; in a sharded run all processes go on, or none does."""
    refusal, result = None, None
    try:
        result = work()
    except ValueError as error:
        refusal = error
    if _sharded(optimizer):
        from metrize.sharding import agreed, members

        if not agreed(members(optimizer.param_groups), refusal is None) and refusal is None:
            refusal = ValueError("another process of this run refuses its part of the checkpoint; its error says why")
    if refusal is not None:
        raise refusal
    return result


def read_groups(optimizer: Optimizer, state_dict: Any) -> list[Any]:
    """The groups of a checkpoint, whoever wrote it."""
    own = next((parse_recipe(group["recipe"]) for group in optimizer.param_groups), None)
    return read(state_dict, lambda at, group, states: read_foreign(own, at, group, states))


def _fit(
    optimizer: Optimizer, state_dict: dict[str, Any], states: dict[Tensor, dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The groups as they shall be, and what a user should know; `states` is filled with those of parameters."""
    found = arranged(read_groups(optimizer, state_dict), optimizer.param_groups, optimizer.defaults)
    groups, changed, fresh, place = [], [], [], 0
    for at, (own, new) in enumerate(zip(optimizer.param_groups, found, strict=True)):
        count = len(own["params"])
        _check_numbers(at, new.group)
        told: list[str] = []
        for index, source in enumerate(new.sources):
            if source is not None:
                if source.group.origin:
                    check_origin(source.group, parse_recipe(own["recipe"]), own, name_of(own, index))
                told += _check_parameter(at, {**new.group, "params": own["params"]}, index, source)
                if source.state:
                    states[own["params"][index]] = source.state
            if (source is None or not source.state) and own["params"][index].requires_grad:
                fresh.append(name_of(own, index))
        changed += [f"group {at}: {text}" for text in dict.fromkeys(told)]
        groups.append({**new.group, "params": list(range(place, place + count))})
        place += count
    return groups, _told(changed, fresh if states else [])


def _told(changed: list[str], fresh: list[str]) -> list[str]:
    found = []
    if changed:
        settings = "; ".join(changed)
        found.append(f"the checkpoint was written with other settings, and this optimizer keeps its own: {settings}")
    if fresh:
        names = ", ".join(map(repr, fresh[:3])) + (f" and {len(fresh) - 3} more" if fresh[3:] else "")
        found.append(f"the checkpoint holds no state of {names}: their averages start from zero")
    return found


def _check_numbers(at: int, group: dict[str, Any]) -> None:
    for key in ("lr", "weight_decay"):
        value = group[key]
        if isinstance(value, str | bool) or not isinstance(value, Tensor | float | int) or not float(value) >= 0:
            raise ValueError(f"group {at} of the checkpoint has {key}={value!r}: a number of at least 0 is expected")
    try:
        parse_recipe(group["recipe"]).rule.check_hyper(group)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"group {at} of the checkpoint: {error}") from None


def _check_parameter(at: int, group: dict[str, Any], index: int, source: Source) -> list[str]:
    """Refuse what does not fit one parameter; else what differs in its recipe."""
    saved, recipe, name = source.group, parse_recipe(group["recipe"]), name_of(group, index)
    check_place(group, index, source)
    spec = _spec(recipe, group, index)
    changed: list[str] = []
    if not saved.origin:
        was, now = (each.replace(frame=each.frame.told(group)) for each in (saved.recipe, recipe))
        changed = differences(was, now)
    kept_then = _spec(saved.recipe, {**group, **saved.numbers}, index)
    if _of_rounding(kept_then) != _of_rounding(spec) or _lacks_rounding(source, spec):
        # a setting, whose state starts from the weights
        kept_then = {key: form for key, form in kept_then.items() if not _rounds(key)} | _of_rounding(spec)
    if saved.recipe != recipe and (other_meaning(saved.recipe, recipe) or kept_then != spec) and not saved.origin:
        raise ValueError(_other_state(at, saved.recipe, recipe, name, kept_then, spec))
    if saved.origin and kept_then != spec:
        raise ValueError(
            f"parameter {name!r} was trained by {saved.origin}, whose averages are kept in another way here: "
            f"{_differing(kept_then, spec)}; {_WAY_ON}"
        )
    if source.state:
        kept = source.state
        if saved.recipe.rounding != recipe.rounding or _lacks_rounding(source, spec):
            fresh = {key: torch.zeros(shape, dtype=dtype) for key, (shape, dtype) in _of_rounding(spec).items()}
            kept = {key: value for key, value in kept.items() if not _rounds(key)} | fresh
        if saved.origin:
            kept = {key: _cast(value, spec.get(key)) for key, value in kept.items()}
        saved.states[source.index] = kept
        _check_state(name, kept, spec)
        _check_reading(saved.recipe, recipe, group, index, kept)
    return changed


_WAY_ON = "metrize.convert_state(state_dict, optimizer) carries averages from one storage or dtype to another"


def _rounds(key: str) -> bool:
    return key.startswith("rounding.")


def _lacks_rounding(source: Source, spec: Spec) -> bool:
    """Whether a state was written before its kind of parameter was rounded as it is now."""
    return bool(source.state) and not _of_rounding(spec).keys() <= source.state.keys()


def _of_rounding(spec: Spec) -> Spec:
    return {key: form for key, form in spec.items() if _rounds(key)}


def _spec(recipe: Recipe, group: dict[str, Any], index: int) -> Spec:
    return _assigned(recipe, group, index).spec


def _assigned(recipe: Recipe, group: dict[str, Any], index: int) -> Assignment:
    """What a recipe would say about a parameter of this group."""
    space = space_of(group, index, parse_recipe(group["recipe"]))
    return assignment_of(recipe, space, group["params"][index], {**recipe.hyper(), **group})


def _differing(was: Spec, now: Spec) -> str:
    keys = [key for key in {**was, **now} if was.get(key) != now.get(key)]
    more = ", ..." if len(keys) > 3 else ""
    return ", ".join(f"{key} {_form(was.get(key))} -> {_form(now.get(key))}" for key in keys[:3]) + more


def _form(form: tuple[tuple[int, ...], torch.dtype] | None) -> str:
    return "none" if form is None else f"{tuple(form[0])} {str(form[1]).removeprefix('torch.')}"


def _other_state(at: int, was: Recipe, now: Recipe, name: str, old: Spec, new: Spec) -> str:
    told = other_meaning(was, now)
    why = f"their averages are not the same ({', '.join(told)})" if told else _differing(old, new)
    return (
        f"group {at} of the checkpoint was trained with {was}, and this optimizer has {now}: of parameter "
        f"{name!r}, {why}; build the optimizer with the checkpoint's recipe, or where its rule, frame and space are "
        f"the same: {_WAY_ON}"
    )


def _cast(value: Any, form: tuple[tuple[int, ...], torch.dtype] | None) -> Any:
    if form is None or not isinstance(value, Tensor | float | int):
        return value
    return torch.as_tensor(value).to(form[1])


def _check_reading(was: Recipe, now: Recipe, group: dict[str, Any], index: int, kept: dict[str, Any]) -> None:
    """Refuse a storage that reads other numbers from the same tensors."""
    if was.moments == now.moments:
        return
    old, new = (_assigned(recipe, group, index) for recipe in (was, now))
    if old.storages == new.storages:
        return
    whole = {key: value.full_tensor() if is_sharded(value) else value for key, value in kept.items()}
    before, after = averages_of(old, whole), averages_of(new, whole)
    if not all(torch.equal(before[key], after[key]) for key in after):
        told = ", ".join(differences(was.moments, now.moments, "moments"))
        raise ValueError(
            f"parameter {name_of(group, index)!r}: its averages mean other numbers here ({told}); {_WAY_ON}"
        )


def _check_state(name: str, kept: dict[str, Any], spec: dict[str, tuple[tuple[int, ...], torch.dtype]]) -> None:
    if not kept.keys() >= spec.keys():
        raise ValueError(
            f"parameter {name!r}: the checkpoint keeps {sorted(kept)}, and this optimizer keeps {sorted(spec)}"
        )
    for key, (shape, dtype) in spec.items():
        value = kept[key]
        if key == "step" and isinstance(value, int | float):
            continue
        if not isinstance(value, Tensor):
            raise ValueError(f"parameter {name!r}: {key} is {value!r} in the checkpoint, and no tensor")
        if tuple(value.shape) != tuple(shape) or value.dtype != dtype:
            raise ValueError(
                f"parameter {name!r}: {key} has shape {tuple(value.shape)} and dtype {value.dtype} in the checkpoint, "
                f"and shape {tuple(shape)} and dtype {dtype} here"
                + (f"; {_WAY_ON}" if tuple(value.shape) == tuple(shape) else "")
            )
