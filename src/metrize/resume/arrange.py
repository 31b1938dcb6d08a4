"""Which saved state belongs to which parameter."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from metrize.recipe import Recipe, parse_recipe
from metrize.resume.saved import FORMAT, SavedGroup
from metrize.rules import Rule
from metrize.spaces.base import parse_space
from metrize.step.group import is_flat_piece_of, name_of, space_of

_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}

Place = tuple[int, int]


@dataclasses.dataclass
class Source:
    """Where the state of one parameter comes from.

    Args:
        group: of the checkpoint.
        index: in that group.
    """

    group: SavedGroup
    index: int

    @property
    def state(self) -> dict[str, Any]:
        return self.group.states[self.index]


@dataclasses.dataclass
class Arranged:
    """A parameter group as it shall be, and where its state comes from.

    Args:
        group: the numbers of the checkpoint, and all else of the optimizer; without ``"params"``.
        sources: of each parameter; None where the checkpoint is not about it.
    """

    group: dict[str, Any]
    sources: list[Source | None]


def arranged(saved: list[SavedGroup], groups: list[dict[str, Any]], defaults: dict[str, Any]) -> list[Arranged]:
    """A checkpoint in the order of an optimizer: by name where both know names, else by place.

    Args:
        saved: the groups of the checkpoint.
        groups: of the optimizer.
        defaults: of the optimizer.

    Raises:
        ValueError: other groups, other counts, or other names.
    """
    about = [at for at, group in enumerate(groups) if _is_about(saved, parse_recipe(group["recipe"]))]
    places = _by_name(saved, [groups[at] for at in about]) or _by_place(saved, [groups[at] for at in about])
    found = [_untouched(group) for group in groups]
    for at, (numbers_of, own) in zip(about, places, strict=True):
        sources: list[Source | None] = [Source(saved[g], i) for g, i in own]
        found[at] = Arranged(_group(saved[numbers_of], groups[at], defaults), sources)
    return found


def _untouched(group: dict[str, Any]) -> Arranged:
    return Arranged({k: v for k, v in group.items() if k != "params"}, [None] * len(group["params"]))


def _alike(one: Rule, other: Rule) -> bool:
    """Whether two rules are of one kind, in norms of one kind."""
    return type(one) is type(other) and type(one.in_norm()) is type(other.in_norm())


def _is_about(saved: list[SavedGroup], recipe: Recipe) -> bool:
    """Torch's Muon trains the hidden matrices alone; the rest is not in its checkpoint."""
    muon = bool(saved) and all(group.origin == "torch.optim.Muon" for group in saved)
    return not muon or any(_alike(recipe.rule, group.recipe.rule) for group in saved)


def _group(saved: SavedGroup, own: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    known = {*defaults, *parse_recipe(own["recipe"]).hyper()}
    told = ("recipe", "spaces", "shapes", "param_names")
    ours = {key: own[key] for key in known if key in own} | saved.numbers
    if "param_names" not in own and saved.names is not None:
        ours["param_names"] = list(saved.names)  # names are better than none
    made = {**ours, **{key: own[key] for key in told if key in own}, "format": FORMAT}
    return {key: made[key] for key in own if key in made} | made  # in one order, which files follow


def _by_place(saved: list[SavedGroup], groups: list[dict[str, Any]]) -> list[tuple[int, list[Place]]]:
    _count_groups(saved, groups)
    for at, (was, group) in enumerate(zip(saved, groups, strict=True)):
        if len(was.states) != len(group["params"]):
            raise ValueError(
                f"group {at} of the checkpoint has {len(was.states)} parameters and this optimizer's has "
                f"{len(group['params'])}"
            )
    return [(at, [(at, index) for index in range(len(group["params"]))]) for at, group in enumerate(groups)]


def _count_groups(saved: list[SavedGroup], groups: list[dict[str, Any]]) -> None:
    if len(saved) != len(groups):
        muon = any(group.origin == "torch.optim.Muon" for group in saved)
        hint = "; build torch's Muon with named parameters, or write param_names into its group" if muon else ""
        raise ValueError(f"the checkpoint has {len(saved)} parameter groups and this optimizer has {len(groups)}{hint}")


def _by_name(saved: list[SavedGroup], groups: list[dict[str, Any]]) -> list[tuple[int, list[Place]]] | None:
    """For each group the one whose numbers it takes, and the places of its parameters; None: names are not known."""
    theirs = [group.names for group in saved if group.names is not None]
    if len(theirs) < len(saved) or not all("param_names" in group for group in groups):
        return None
    ours: list[list[str]] = [list(group["param_names"]) for group in groups]
    if {*_all(theirs)} != {*_all(ours)}:
        theirs, ours = _stripped(theirs), _stripped(ours)
    where = {name: (g, i) for g, names in enumerate(theirs) for i, name in enumerate(names)}
    if not where.keys() == {*_all(ours)} or len(where) != len(_all(ours)) or len(where) != len(_all(theirs)):
        raise ValueError(_other_names({*where}, {*_all(ours)}))
    if saved[0].origin != "torch.optim.Muon":
        _count_groups(saved, groups)
    sets = [{*names} for names in theirs]
    found = []
    for at, names in enumerate(ours):
        alike = sets.index({*names}) if {*names} in sets else at
        numbers_of = alike if alike < len(saved) else where[names[0]][0]
        found.append((numbers_of, [where[name] for name in names]))
    return found


def _all(names: list[list[str]]) -> list[str]:
    return [name for each in names for name in each]


def _stripped(names: list[list[str]]) -> list[list[str]]:
    """Without what wrappers put into names."""
    return [[".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in each] for each in names]


def _other_names(theirs: set[str], ours: set[str]) -> str:
    missing, strange = sorted(ours - theirs), sorted(theirs - ours)
    if not missing and not strange:
        return "names of parameters occur twice, so that their state cannot be told apart; give each its own name"
    parts = []
    untrained = "has state of {}, which this optimizer does not train"
    for names, text in ((missing, "has no state of {}"), (strange, untrained)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(text.format(", ".join(map(repr, names[:3])) + more))
    close = difflib.get_close_matches(missing[0], strange, n=1) if missing else []
    hint = f"; is {missing[0]!r} called {close[0]!r} there? Rename it in the checkpoint's param_names" if close else ""
    return f"the checkpoint {' and '.join(parts)}{hint}"


def check_place(group: dict[str, Any], index: int, source: Source) -> None:
    """Refuse a parameter of another shape or on another space.

    Args:
        group: of the optimizer.
        index: of the parameter.
        source: what was saved of it.

    Raises:
        ValueError: by name.
    """
    name, p, shape = name_of(group, index), group["params"][index], source.group.shapes[source.index]
    here = group["shapes"][index] if is_flat_piece_of(group, index) else tuple(p.shape)
    if shape is not None and shape != here:
        raise ValueError(f"parameter {name!r} has shape {shape} in the checkpoint and shape {here} here")
    declared, recipe = source.group.spaces[source.index], source.group.recipe
    was = recipe.space or (parse_space(declared) if declared else None)
    now = space_of(group, index, parse_recipe(group["recipe"]))
    if repr(was or "") != repr(now if not (now.flat and was is None) else ""):
        raise ValueError(
            f"parameter {name!r} was trained on {was or 'a vector space'} in the checkpoint, and is declared on "
            f"{'a vector space' if now.flat else now} here; declare it alike before loading"
        )
