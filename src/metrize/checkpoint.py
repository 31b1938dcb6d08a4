"""Loading: nothing is taken over before everything fits, and every tensor keeps its own dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from metrize.linalg import is_sharded
from metrize.step.assignment import on_host
from metrize.step.group import name_of

if TYPE_CHECKING:
    from metrize.optimizer import Optimizer

FORMAT = 1
"""Version of what `state_dict` holds."""

_LATER = frozenset({"rounding.rest"})
"""State that older checkpoints of the same recipe may lack; it starts at zero."""


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


def _sharded(optimizer: Optimizer) -> bool:
    return any(is_sharded(p) for group in optimizer.param_groups for p in group["params"])


def load(optimizer: Optimizer, state_dict: dict[str, Any], base_load: Callable[[dict[str, Any]], None]) -> None:
    """Check a checkpoint against the optimizer, then load it through torch's own method.

    Torch casts every floating point state to the parameter's dtype (pytorch/pytorch#43706), so the saved tensors are
    set aside after the user's own hooks ran and put back before the user's post-hooks run.

    Args:
        optimizer: which takes the state over.
        state_dict: the checkpoint.
        base_load: ``torch.optim.Optimizer.load_state_dict``, bound.

    Raises:
        ValueError: what does not fit, by name; nothing is changed then.
    """
    saved: dict[int, dict[str, Any]] = {}
    ids: list[int] = []

    def set_aside(_: Any, final: dict[str, Any]) -> None:
        _check(optimizer, final)
        saved.update(final["state"])
        ids.extend(i for group in final["param_groups"] for i in group["params"])

    shapes = [group["shapes"] for group in optimizer.param_groups]  # of what is there, whatever was saved

    def put_back(_: Any) -> None:
        for group, own in zip(optimizer.param_groups, shapes, strict=True):
            group["shapes"] = own
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for identity, parameter in zip(ids, parameters, strict=True):
            if identity in saved:
                kept = local(parameter, saved[identity])
                optimizer.state[parameter] = {k: _own(k, v, parameter) for k, v in kept.items()}

    local = _taker(optimizer)
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


def _check(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    saved_groups, groups = state_dict["param_groups"], optimizer.param_groups
    if len(saved_groups) != len(groups):
        raise ValueError(
            f"the checkpoint has {len(saved_groups)} parameter groups and this optimizer has {len(groups)}"
        )
    for at, (saved, group) in enumerate(zip(saved_groups, groups, strict=True)):
        _check_group(at, saved, group)
        for index, identity in enumerate(saved["params"]):
            kept = state_dict["state"].get(identity)
            if kept:
                _check_state(name_of(group, index), kept, optimizer.spec({**group, **_numbers(saved)}, index))


def _numbers(saved: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in saved.items() if key not in ("params", "param_names")}


def _check_group(at: int, saved: dict[str, Any], group: dict[str, Any]) -> None:
    if "recipe" not in saved:
        raise ValueError(f"group {at} of the checkpoint names no recipe: it was not written by this library")
    if saved.get("format") != FORMAT:
        raise ValueError(f"the checkpoint has format {saved.get('format')}, and this version reads format {FORMAT}")
    if saved["recipe"] != group["recipe"]:
        raise ValueError(
            f"group {at} of the checkpoint was trained with {saved['recipe']}, and this optimizer has "
            f"{group['recipe']}; build the optimizer with the checkpoint's recipe"
        )
    if len(saved["params"]) != len(group["params"]):
        raise ValueError(
            f"group {at} of the checkpoint has {len(saved['params'])} parameters and this optimizer's has "
            f"{len(group['params'])}"
        )
    for index, (was, now) in enumerate(zip(saved["spaces"], group["spaces"], strict=True)):
        if was != now:
            raise ValueError(
                f"parameter {name_of(group, index)!r} was trained on {was or 'a vector space'} in the checkpoint, and "
                f"is declared on {now or 'a vector space'} here; declare it alike before loading"
            )


def _check_state(name: str, kept: dict[str, Any], spec: dict[str, tuple[tuple[int, ...], torch.dtype]]) -> None:
    if not kept.keys() >= spec.keys() - _LATER:
        raise ValueError(
            f"parameter {name!r}: the checkpoint keeps {sorted(kept)}, and this optimizer keeps {sorted(spec)}"
        )
    for key, (shape, dtype) in spec.items():
        if key not in kept:
            continue
        value = kept[key]
        if key == "step" and isinstance(value, int | float):
            continue
        if not isinstance(value, Tensor):
            raise ValueError(f"parameter {name!r}: {key} is {value!r} in the checkpoint, and no tensor")
        if tuple(value.shape) != tuple(shape) or value.dtype != dtype:
            raise ValueError(
                f"parameter {name!r}: {key} has shape {tuple(value.shape)} and dtype {value.dtype} in the checkpoint, "
                f"and shape {tuple(shape)} and dtype {dtype} here"
            )
