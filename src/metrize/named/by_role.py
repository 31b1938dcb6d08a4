"""Groups by role, for optimizers that treat the tensors of a model differently."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from metrize.groups import Params, named_members
from metrize.linalg import is_flat_piece
from metrize.norms import Layout
from metrize.part import parse
from metrize.recipe import Recipe
from metrize.roles import Role, infer
from metrize.roles.rules import filled
from metrize.roles.sandbox import Example
from metrize.spaces import SpaceError

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
    return [part for group in entries for part in by_shape(group, options, role_of)]


def read_as_matrices(group: dict[str, Any], method: str, recipe: str) -> dict[str, Any]:
    """A group of parameters that come without their module, with the layout that its norm leaves open.

    That is what the group names as its ``layout``; else kernels of convolutions are unfolded, ``[out, in * k * k]``.

    Args:
        group: a parameter group; one that names its own ``recipe`` and no layout is taken as it is.
        method: the name of the optimizer's class, for errors.
        recipe: of the optimizer, as a sentence.

    Raises:
        SpaceError: a vector in a group without a norm of its own, by name.
        TypeError: a layout that is none, or for a recipe that has no use for it.
    """
    members = named_members(group["params"])
    if isinstance(members, set) or ("recipe" in group and "layout" not in group):
        return group
    entries = [members] if isinstance(members, Tensor) else list(members)
    if not {"norm", "recipe"} & group.keys():
        _refuse_vectors(entries, method)
    kernels = any(p.ndim > 2 for _, p in _named(entries))
    return _read({**group, "params": entries}, recipe, Layout(unfold=kernels))


def told_layout(group: dict[str, Any]) -> Layout | None:
    """What a group names as its ``layout``, as a part or a sentence.

    Raises:
        TypeError: something else.
    """
    layout = _part(group.get("layout"))
    if not isinstance(layout, Layout | None):
        raise TypeError(f"layout={layout!r}: give a metrize.norms.Layout, such as Layout(unfold=True)")
    return layout


def _read(group: dict[str, Any], recipe: str, default: Layout) -> dict[str, Any]:
    """The group whose open layouts, in its norm or recipe or the optimizer's, are filled in."""
    told, slot = told_layout(group), "norm" if "norm" in group else "recipe"
    rest = {key: value for key, value in group.items() if key != "layout"}
    own = _part(group.get(slot, recipe))
    read = filled(own, told or default)
    if slot == "norm" and "recipe" not in group:
        rest["recipe"] = measured(_part(recipe), read)
    if read != own:
        return {**rest, slot: read}
    if told not in (None, Layout()):
        raise TypeError(f"layout={told} for a group that reads its tensors without an open layout: {own}")
    return rest


def measured(recipe: Recipe, norm: Any) -> Recipe:
    """The recipe with a step size that measures this norm, if it measures any."""
    own = {"norm": norm} if hasattr(recipe.step_size, "norm") else {}
    return recipe.replace(step_size=recipe.step_size.replace(**own))


def _refuse_vectors(entries: Iterable[Any], method: str) -> None:
    for name, p in _named(entries):
        if p.ndim < 2 and not p.is_complex() and not is_flat_piece(p):
            raise SpaceError(
                f"parameter {name!r} has shape {tuple(p.shape)}, and {method} trains matrices, which have two "
                f"dimensions at least; hand over the module, metrize.{method}(model), which gives every parameter what "
                "suits its role, or put this one into a group with a recipe of its own, such as recipe='Recipe()'. A "
                "framework that makes the groups itself, such as the Trainer, takes a factory (docs: guide/frameworks)"
            )


def _named(entries: Iterable[Any]) -> list[tuple[str, Tensor]]:
    """The tensors among the entries, by name or by place in the group; torch refuses all else."""
    pairs = [e if isinstance(e, tuple) else (f"#{index} of its group", e) for index, e in enumerate(entries)]
    return [(str(pair[0]), pair[1]) for pair in pairs if len(pair) == 2 and isinstance(pair[1], Tensor)]


def _part(told: Any) -> Any:
    return parse(told) if isinstance(told, str) else told


def by_shape(group: dict[str, Any], options: Options, role_of: Callable[[Tensor], Role]) -> list[dict[str, Any]]:
    """A group cut by the roles of its parameters, of which it says more itself where it names a norm or a recipe.

    Args:
        group: a parameter group without a module.
        options: of a group with parameters of this role; what the group says itself counts more.
        role_of: the role of a parameter that comes without its module.
    """
    members = named_members(group["params"])
    if {"norm", "recipe"} & group.keys() or isinstance(members, set):
        return [group]
    own = {key: value for key, value in group.items() if key not in ("params", "layout")}
    parts = _grouped(_with_roles([members] if isinstance(members, Tensor) else members, role_of), options)
    return [{**part, **own} for part in parts] or [{**own, "params": []}]


def _with_roles(entries: Iterable[Any], role_of: Callable[[Tensor], Role]) -> list[tuple[Entry, Role]]:
    return [(entry, role_of(entry[1] if isinstance(entry, tuple) else entry)) for entry in entries]


def _grouped(found: list[tuple[Entry, Role]], options: Options) -> list[dict[str, Any]]:
    groups: dict[Role, dict[str, Any]] = {}
    for entry, role in found:
        groups.setdefault(role, {"params": [], **options(role)})["params"].append(entry)
    return list(groups.values())
