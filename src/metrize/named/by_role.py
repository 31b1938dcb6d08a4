"""Groups by role, for optimizers that treat the tensors of a model differently."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from metrize.groups import Params, named_members
from metrize.roles import Role, infer
from metrize.roles.sandbox import Example

Entry = Tensor | tuple[str, Tensor]
Options = Callable[[Role], dict[str, Any]]


def by_role(
    params: Params,
    options: Options,
    role_of: Callable[[Tensor], Role] | None = None,
    example: Example | None = None,
) -> Params:
    """Parameter groups with the options that each role asks for.

    Args:
        params: a module, whose roles are inferred; anything else is taken as it is, unless `role_of` knows better.
        options: of a group with parameters of this role.
        role_of: the role of a parameter that comes without its module, and whose group names no norm or recipe.
        example: what one forward pass of a module takes, for roles that are known better; see `metrize.plan`.
    """
    if isinstance(params, nn.Module):
        roles = infer(params, example).roles
        return _grouped([(entry, roles[entry[0]]) for entry in named_members(params)], options)
    if role_of is None:
        return params
    entries: list[Any] = list(params)
    if not entries or not isinstance(entries[0], dict):
        return _grouped(_with_roles(entries, role_of), options)
    return [part for group in entries for part in _settled(group, options, role_of)]


def _settled(group: dict[str, Any], options: Options, role_of: Callable[[Tensor], Role]) -> list[dict[str, Any]]:
    if "norm" in group or "recipe" in group:
        return [group]
    parts = _grouped(_with_roles(group["params"], role_of), options)
    return [{**group, **part, **{k: v for k, v in group.items() if k != "params"}} for part in parts]


def _with_roles(entries: Iterable[Any], role_of: Callable[[Tensor], Role]) -> list[tuple[Entry, Role]]:
    return [(entry, role_of(entry[1] if isinstance(entry, tuple) else entry)) for entry in entries]


def _grouped(found: list[tuple[Entry, Role]], options: Options) -> list[dict[str, Any]]:
    groups: dict[Role, dict[str, Any]] = {}
    for entry, role in found:
        groups.setdefault(role, {"params": [], **options(role)})["params"].append(entry)
    return list(groups.values())
