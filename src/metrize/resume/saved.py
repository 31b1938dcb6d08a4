"""What a checkpoint holds, read and checked for its form."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from metrize.recipe import Recipe, parse_recipe

FORMAT = 1
"""Version of what `state_dict` holds."""

UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""From a state dict of format n to one of format n + 1, by n; what it gets is not changed."""

_RECORDS = ("params", "param_names", "recipe", "spaces", "shapes", "format")


@dataclasses.dataclass
class SavedGroup:
    """A parameter group of a checkpoint, whoever wrote it.

    Args:
        recipe: that it was trained with.
        numbers: lr and the like, and what else the group holds, such as ``initial_lr``.
        states: of each parameter, in this library's keys; empty where there is none.
        names: of the parameters, where they are known.
        spaces: as they were declared.
        shapes: None where they are not known.
        origin: ``"torch.optim.Adam"`` and the like; empty for this library.
        options: of that optimizer, by its own names, which the optimizer that goes on has to share.
    """

    recipe: Recipe
    numbers: dict[str, Any]
    states: list[dict[str, Any]]
    names: list[str] | None
    spaces: list[str | None]
    shapes: list[tuple[int, ...] | None]
    origin: str = ""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


def read(state_dict: Any, foreign: Callable[[int, dict[str, Any], list[Any]], SavedGroup]) -> list[SavedGroup]:
    """The groups of a checkpoint.

    Args:
        state_dict: of an optimizer of this library, or of another one.
        foreign: reads a group that names no recipe, given its place, the group and the states of its parameters.

    Raises:
        ValueError: it has not the form of a checkpoint, or is of a newer format.
    """
    check_form(state_dict)
    if any("recipe" in group for group in state_dict["param_groups"]):
        state_dict = upgraded(state_dict)
        check_form(state_dict)
    groups, states = state_dict["param_groups"], state_dict["state"]
    return [
        (_own if "recipe" in group else foreign)(
            at, group, [states.get(identity) or {} for identity in group["params"]]
        )
        for at, group in enumerate(groups)
    ]


def check_form(state_dict: Any) -> None:
    """Refuse what is no state dict of an optimizer.

    Raises:
        ValueError: naming what is wrong.
    """
    if not isinstance(state_dict, dict):
        raise ValueError(f"a state dict is expected, and not {type(state_dict).__name__}")
    for key, kind in (("state", dict), ("param_groups", list | tuple)):
        if key not in state_dict:
            raise ValueError(f"the checkpoint has no {key!r}: it holds {_few(state_dict)}; is it of an optimizer?")
        if not isinstance(state_dict[key], kind):
            raise ValueError(f"{key!r} of the checkpoint is {type(state_dict[key]).__name__}, which cannot be read")
    if not state_dict["param_groups"]:
        raise ValueError("the checkpoint has no parameter groups")
    known: set[Any] = set()
    for at, group in enumerate(state_dict["param_groups"]):
        if not isinstance(group, dict) or not isinstance(group.get("params"), list | tuple):
            raise ValueError(f"group {at} of the checkpoint lists no params")
        known.update(group["params"])
    if strange := [key for key in state_dict["state"] if key not in known]:
        raise ValueError(f"the checkpoint has state of {_few(strange)}, which is in none of its groups")
    for identity, kept in state_dict["state"].items():
        if kept is not None and not isinstance(kept, dict):
            raise ValueError(f"the state of {identity!r} in the checkpoint is {type(kept).__name__}, and no dict")


def upgraded(state_dict: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of this library in the present format, step by step.

    Raises:
        ValueError: it has no format that this version knows.
    """
    found = {repr(group.get("format")) for group in state_dict["param_groups"]}
    kind = state_dict["param_groups"][0].get("format")
    if len(found) > 1 or type(kind) is not int or not (kind in UPGRADES or kind >= FORMAT):
        told = " and ".join(sorted(found))
        raise ValueError(f"the checkpoint has format {told}, and this version reads format {FORMAT}")
    if kind > FORMAT:
        raise ValueError(
            f"the checkpoint has format {kind}, and this version reads format {FORMAT}: "
            "it was written by a newer version of metrize; upgrade metrize to load it"
        )
    while kind < FORMAT:
        state_dict, kind = UPGRADES[kind](state_dict), kind + 1
    return state_dict


def _own(at: int, group: dict[str, Any], states: list[Any]) -> SavedGroup:
    ids, count = list(group["params"]), len(group["params"])
    names = list(group["param_names"]) if "param_names" in group else None
    for key in ("param_names", "spaces", "shapes"):
        if key in group and len(group[key]) != count:
            raise ValueError(f"group {at} of the checkpoint has {count} parameters and {len(group[key])} {key}")
    order = list(range(count))
    if all(isinstance(identity, str) for identity in ids):
        # a distributed checkpoint is sorted by its own names already, and the group's records are as they were saved
        if names is not None and {*names} == {*ids}:
            order = [names.index(identity) for identity in ids]
        names = None
    spaces, shapes = list(group.get("spaces", [None] * count)), list(group.get("shapes", [None] * count))
    return SavedGroup(
        _recipe(at, group["recipe"]),
        {key: value for key, value in group.items() if key not in _RECORDS},
        states,
        names,
        [spaces[place] for place in order],
        [None if shapes[place] is None else tuple(shapes[place]) for place in order],
    )


def _recipe(at: int, text: Any) -> Recipe:
    try:
        return parse_recipe(text)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"group {at} of the checkpoint was trained with {text}, which this version cannot read ({error}); it "
            "was written by a newer version of metrize, or with a part whose module is not imported"
        ) from None


def _few(keys: Any) -> str:
    listed = [repr(key) for key in keys]
    return ", ".join(listed[:4]) + (", ..." if len(listed) > 4 else "") if listed else "nothing"
