"""From what a user hands over to parameter groups with names and spaces."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metrize.recipe import Recipe, parse_recipe
from metrize.spaces import SpaceError, Vector
from metrize.spaces.base import parse_space
from metrize.spaces.declare import check_point, declared_space, naming, remind
from metrize.step.assignment import Assignment, Assignments, as_real, assignment_of
from metrize.step.group import name_of, trains

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
    spaces = []
    for index, (parameter, known) in enumerate(zip(group["params"], recorded, strict=True)):
        with naming(name_of(group, index)):
            declared = declared_space(parameter) or known
            if trains(parameter):
                _agree(recipe, declared)
                space = recipe.space or (parse_space(declared) if declared else Vector())
                if parameter.is_complex() and space.flat:
                    recipe.check_complex(parameter.dtype)
                recipe.check(space, as_real(parameter).shape)
                space.check(parameter)
                assignment_of(recipe, space, parameter, group).check()
                check_point(space, parameter)
            spaces.append(declared)
    group["spaces"] = tuple(spaces)
    group["shapes"] = tuple(tuple(p.shape) for p in group["params"])


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


def with_basis(groups: Sequence[dict[str, Any]]) -> tuple[int, int] | None:
    """How many trained parameters have a basis, of those in groups that ask for one; None where no group does."""
    asked = _asked(groups)
    return (sum(assignment.projected for assignment in asked), len(asked)) if asked else None


def _asked(groups: Sequence[dict[str, Any]]) -> list[Assignment]:
    """The trained parameters of groups whose frame or storage has bases."""
    asked: list[Assignment] = []
    for group in groups:
        recipe, known = parse_recipe(group["recipe"]), Assignments(group)
        if not recipe.frame.trivial or recipe.moments.projects:
            asked += [known.of(index, p) for index, p in enumerate(group["params"]) if trains(p)]
    return asked


def warn_of_idle_ranks(groups: Sequence[dict[str, Any]]) -> None:
    """Tell a user whose low-rank optimizer has no tensor to project that it is the plain one."""
    asked = _asked(groups)
    if not asked or any(assignment.projected for assignment in asked):
        return
    recipe = asked[0].recipe
    part = recipe.moments if recipe.frame.trivial else recipe.frame
    rank = f"(rank={part.rank})" if hasattr(part, "rank") else ""
    side = max((min(a.shape) for a in asked if len(a.shape) > 1), default=0)
    warnings.warn(
        f"{type(part).__name__}{rank} projects none of {len(asked)} parameters, so that this is the plain optimizer: "
        f"the largest matrix's smaller side is {side}; use a rank below it, usually a quarter, or an optimizer "
        "without a rank",
        UserWarning,
        stacklevel=6,
    )
