"""From what a user hands over to parameter groups with names and spaces."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metrize.linalg import is_sharded
from metrize.part import Part
from metrize.recipe import Recipe, parse_recipe
from metrize.spaces import Space, SpaceError, Vector
from metrize.spaces.base import parse_space
from metrize.spaces.declare import check_point, declared_space, naming, remind
from metrize.step.assignment import Assignment, Assignments, as_real, assignment_of
from metrize.step.exchange import Exchange
from metrize.step.group import name_of, space_of, trains

Params = nn.Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]
"""What every optimizer takes: a module, parameters, named parameters, or groups of any of these."""


def entries_of(params: Any) -> Any:
    """A module as it is, anything else as a list of parameters, named or not.

    Raises:
        TypeError: something that is no parameter.
        ValueError: some have names and some have none, or one has no shape yet.
    """
    if isinstance(params, set):
        raise TypeError("parameters in a set have another order in every run; hand over a list")
    if isinstance(params, nn.Module):
        _refuse_lazy(list(params.named_parameters()))
        return params
    entries = [params] if isinstance(params, Tensor) else list(params)
    named = [entry for entry in entries if isinstance(entry, tuple)]
    for entry in entries:
        tensor = entry[-1] if isinstance(entry, tuple) and len(entry) == 2 else entry
        if not isinstance(tensor, Tensor):
            raise TypeError(f"optimizer can only optimize Tensors, but one of the params is {torch.typename(tensor)}")
    if named and len(named) < len(entries):
        raise ValueError("all optimizer params should be with/without names. Some param names are missing")
    _refuse_lazy(named or [(f"#{index} of its group", p) for index, p in enumerate(entries)])
    return entries


def _refuse_lazy(members: list[tuple[str, Tensor]]) -> None:
    for name, p in members:
        if isinstance(p, nn.parameter.UninitializedParameter):
            raise ValueError(
                f"parameter {name!r} of a lazy module has no shape yet; run one forward first, then build the optimizer"
            )


def name_alike(groups: list[dict[str, Any]], group: dict[str, Any]) -> None:
    """Make up names where some groups have them and others, or the new one, have not: torch wants all or none."""
    named = ["param_names" in other for other in groups]
    named.append("param_names" in group or any(isinstance(entry, tuple) for entry in group["params"]))
    if all(named) or not any(named):
        return
    for at, (other, has) in enumerate(zip([*groups, group], named, strict=True)):
        if not has:
            other["param_names"] = [f"param_groups[{at}]['params'][{i}]" for i in range(len(other["params"]))]


def named_members(params: Any) -> Any:
    """A module as its named parameters, each once; anything else as it is.

    The module's declared spaces are written on its parameters, which lose them when a module is copied.
    """
    if not isinstance(params, nn.Module):
        return params
    remind(params)
    return list(params.named_parameters())


def settle(group: dict[str, Any], recipe: Recipe) -> None:
    """Check every trained parameter of a group; record declared spaces and shapes under ``"spaces"`` and ``"shapes"``.

    The records outlive the parameter objects, which frameworks exchange after construction.

    Raises:
        SpaceError: a tensor its space cannot hold, a point off its space, or two different spaces for one tensor.
    """
    recorded = group.get("spaces") or (None,) * len(group["params"])
    if len(recorded) != len(group["params"]):
        raise ValueError(f"the group records {len(recorded)} spaces for {len(group['params'])} parameters")
    spaces: list[str | None] = []
    checked: dict[Any, Space] = {}  # by all that a check depends on, but for the numbers of a point
    with naming(lambda: name_of(group, len(spaces))):
        for parameter, known in zip(group["params"], recorded, strict=True):
            declared = declared_space(parameter) or known
            if trains(parameter):
                kind = (declared, parameter.shape, parameter.dtype, parameter.device, parameter.layout)
                if kind not in checked:
                    checked[kind] = _checked(group, recipe, declared, parameter)
                if not checked[kind].flat:
                    check_point(checked[kind], parameter)
            spaces.append(declared)
    group["spaces"] = tuple(spaces)
    group["shapes"] = tuple(tuple(p.shape) for p in group["params"])


def _checked(group: dict[str, Any], recipe: Recipe, declared: str | None, parameter: Tensor) -> Space:
    """The space of a parameter that fits there and that the recipe can train."""
    _agree(recipe, declared)
    space = recipe.space or (parse_space(declared) if declared else Vector())
    if parameter.is_complex() and space.flat:
        recipe.check_complex(parameter.dtype)
    recipe.check(space, as_real(parameter).shape)
    space.check(parameter)
    assignment_of(recipe, space, parameter, group).check()
    return space


def newly_declared(group: dict[str, Any]) -> list[int]:
    """Parameters whose declaration came to light after the group was settled (a copied module's first forward)."""
    return [
        i
        for i, (p, known) in enumerate(zip(group["params"], group["spaces"], strict=True))
        if (declared := declared_space(p)) is not None and declared != known
    ]


def _agree(recipe: Recipe, declared: str | None) -> None:
    if recipe.space is not None and declared is not None and repr(recipe.space) != declared:
        raise SpaceError(
            f"declared to live on {parse_space(declared)} with metrize.constrain, and this optimizer was told "
            f"{recipe.space}; leave out `space`, or change the declaration"
        )


def coverage(groups: Sequence[dict[str, Any]]) -> tuple[int, int] | None:
    """How many trained tensors have a basis, and how many there are; None where no recipe asks for one."""
    if not _basis_parts(groups):
        return None
    found = [assignment.projected for assignment in _trained(groups)]
    return sum(found), len(found)


def warn_of_idle_ranks(groups: Sequence[dict[str, Any]]) -> None:
    """Tell a user whose low-rank optimizer has no tensor to project that it is the plain one."""
    found = coverage(groups)
    if found is None or found[0] or not found[1]:
        return
    part = _basis_parts(groups)[0]
    size = getattr(part, "rank", None)
    rank = "" if size is None else f"(rank={size})"
    side = max((min(a.shape) for a in _trained(groups) if len(a.shape) > 1), default=0)
    why = (
        "its rule keeps no average that this storage projects; choose another rule or storage"
        if size is not None and size < side
        else f"the largest matrix's smaller side is {side}; use a rank below it, usually a quarter, or an optimizer "
        "without a rank"
    )
    warnings.warn(
        f"{type(part).__name__}{rank} projects none of {found[1]} parameters, so that this is the plain optimizer: "
        f"{why}",
        UserWarning,
        stacklevel=6,
    )


def warn_of_lost_steps(group: dict[str, Any], recipe: Recipe) -> None:
    short = [name_of(group, i) for i, p in enumerate(group["params"]) if p.dtype == torch.float16 and trains(p)]
    if short and recipe.step_size.starts_small:
        warnings.warn(
            f"parameter {short[0]!r} is float16, which loses the first steps of {recipe.step_size}, so that it may "
            "never move; train it in bfloat16, where nothing is lost, or in float32",
            UserWarning,
            stacklevel=5,
        )


def warn_of_idle_decay(group: dict[str, Any], recipe: Recipe) -> None:
    spaces = [space_of(group, i, recipe) for i in range(len(group["params"]))]
    if float(group["weight_decay"]) and spaces and all(space.compact for space in spaces):
        warnings.warn(
            f"weight_decay={group['weight_decay']} does nothing here: every parameter of this group lives on a space "
            f"such as {spaces[0]} where the norm of a point is constant",
            UserWarning,
            stacklevel=4,
        )


def _basis_parts(groups: Sequence[dict[str, Any]]) -> list[Part]:
    """The frames and storages that work in fewer or other coordinates than those of the tensor."""
    recipes = [parse_recipe(group["recipe"]) for group in groups]
    frames: list[Part] = [recipe.frame for recipe in recipes if not recipe.frame.trivial]
    return [*frames, *(recipe.moments for recipe in recipes if recipe.moments.projects)]


def _trained(groups: Sequence[dict[str, Any]]) -> list[Assignment]:
    known = [(group, Assignments(group)) for group in groups]
    return [a.of(index, p) for group, a in known for index, p in enumerate(group["params"]) if trains(p)]


def exchange_of(groups: list[dict[str, Any]]) -> Exchange:
    """What the parameters need of other processes."""
    if not any(is_sharded(p) for group in groups for p in group["params"]):
        return Exchange()
    from metrize.sharding import Sharded, members  # slow to load, and of use to few

    trained = [member for p, member in members(groups).items() if trains(p)]
    return Sharded(trained) if trained else Exchange()
