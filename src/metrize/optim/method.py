"""From the arguments of an optimizer, and from a parameter group that replaces some of them, to recipes and numbers."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar, cast

import torch

from metrize.arguments import (
    SYNONYMS,
    arguments_of,
    flag,
    foreign,
    given,
    in_place_of,
    known,
    like,
    named_after,
    number,
    unknown,
)
from metrize.optim.groups import entries_of, named_members
from metrize.part import Part, parse
from metrize.patterns import FACTOR, Rules, listed, no_match, numbers_of
from metrize.recipe import Recipe, as_recipe
from metrize.rules import Around, Rule
from metrize.spaces.base import parse_space

SLOTS = ("space", "frame", "moments", "step_size", "decay", "rounding", "around")
"""What every optimizer takes by keyword, over that of its recipes."""

_KEYS = ("lr", "weight_decay", "maximize", "skip_nonfinite")
# written by this library, by torch's schedulers, or about a kernel that torch's own optimizers choose
_KEPT = {
    "params", "recipe", "norm", "layout", "plan", "format", "d", "spaces", "shapes", "skipped_steps",
    "param_names", "initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr",
    "fused", "foreach", "capturable", "decoupled_weight_decay",
}  # fmt: skip
_OF_NORM = ("norm", "layout")
_NEAR = 0.87  # from where on a key is a slip of the pen, and no word of somebody else's

Given = Recipe | Rule | str | type | None
"""What may stand for a recipe: one, its rule alone, the text of either, an optimizer of the catalogue or its name."""


class Nothing(list[Any]):
    """In the place of parameters, where only the meaning of the other arguments is asked for."""


@dataclasses.dataclass(frozen=True)
class Method:
    """What the arguments of an optimizer mean.

    Args:
        recipe: of parameters of which nothing more is known.
        numbers: of a parameter group.
        divide: makes groups of a module or of a list of parameters, each with its own recipe and numbers.
        slots: given by keyword, over that of every recipe.
        rules: numbers by name, above all others.
    """

    recipe: Recipe
    numbers: Mapping[str, Any]
    divide: Callable[[Any], Any] | None = None
    slots: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rules: Sequence[Mapping[str, Any]] = ()

    def parts(self, entries: Any) -> list[dict[str, Any]]:
        """The groups of a module, or of a list of parameters."""
        found = named_members(entries) if self.divide is None else self.divide(entries)
        return list(found) if found and isinstance(found[0], dict) else [{"params": named_members(found)}]


_Init = TypeVar("_Init", bound=Callable[..., None])


def _is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "metrize"


def _keeping_arguments(init: _Init) -> _Init:
    """A constructor that keeps the arguments of the first call: a parameter group may replace some of them."""

    @functools.wraps(init)
    def kept(self: Called, *positional: Any, **named: Any) -> None:
        outermost = "_maker" not in vars(self)
        if outermost:
            cls = next(cls for cls in type(self).__mro__ if vars(cls).get("__init__") is kept)
            self._maker = type(self) if getattr(type(self), "__init__") is kept else cls  # noqa: B009
            self._arguments = given(cls, positional, named)
            positional, named = in_place_of(cls, self._arguments, positional, named)
        try:
            init(self, *positional, **named)
        except (TypeError, ValueError) as error:
            if not outermost or (told := named_after(self._arguments, error)) is None:
                raise
            raise type(error)(told) from None

    return cast("_Init", kept)


class Called:
    """What every optimizer knows of the call that made it."""

    further: ClassVar[type[Part] | None] = None
    """The part whose arguments this optimizer takes beside its own."""

    marks: ClassVar[tuple[str, ...]] = ()
    """Keys of a parameter group that the class reads beside its arguments."""

    defaults: dict[str, Any]
    _method: Method | None = None  # derived from the two below, which stay with copies
    _maker: type[Called]
    _arguments: Mapping[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not _is_ours(cls):
            return
        if torch.optim.Optimizer not in cls.__bases__:  # the one that is made of recipes has no name to go by
            known[cls.__name__] = cls
        if "__init__" in vars(cls):
            cls.__init__ = _keeping_arguments(cls.__init__)  # type: ignore[method-assign]

    @property
    def method(self) -> Method:
        """What the arguments of this optimizer mean."""
        if self._method is None:
            self._method = method_of(self._maker, self._arguments)
        return self._method

    @classmethod
    def _read(cls, group: dict[str, Any], method: Method) -> dict[str, Any]:
        """A group in the words of this class."""
        own = arguments_of(cls)
        meant = {key: SYNONYMS[key] for key in group if key not in own and SYNONYMS.get(key) in own}
        return {meant.get(key, key): value for key, value in group.items()}

    @classmethod
    def _owner(cls) -> str:
        """This class, as the user calls it."""
        return f"metrize.{cls.__name__}" if _is_ours(cls) else cls.__name__


def method_of(cls: type[Called], arguments: Mapping[str, Any]) -> Method:
    """What these arguments would mean to this class."""
    made: Any = cls
    return cast("Called", made(Nothing(), **arguments)).method


def understood(given: Given) -> Recipe | type[Called]:
    """A recipe from what may stand for one; or an optimizer of the catalogue.

    Raises:
        TypeError, ValueError: it is none, with what would be.
    """
    read: Any = (known.get(given) or parse(given)) if isinstance(given, str) else given
    if isinstance(read, type) and issubclass(read, Called):
        return read
    if (recipe := Recipe() if read is None else as_recipe(read)) is not None:
        return recipe
    if isinstance(given, str):
        raise ValueError(f"{given!r} is a {type(read).__name__}, not a recipe")
    raise TypeError(
        f"recipe={given!r}: give a recipe, a rule such as metrize.rules.Lion(), the text of either, or an optimizer of "
        "the catalogue or its name, such as 'AdamW'"
    )


def slots_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The slots among some options, read where they are text; a None says nothing."""
    told = {slot: given[slot] for slot in SLOTS if given.get(slot) is not None}
    return {slot: _read(slot, value) for slot, value in told.items()}


def filled(recipe: Recipe, slots: Mapping[str, Any]) -> Recipe:
    """A recipe with some slots given: what is ``around`` goes around its rule.

    Raises:
        TypeError: something that does not belong in its slot.
    """
    around, others = slots.get("around"), {slot: part for slot, part in slots.items() if slot != "around"}
    if around is None:
        return recipe.replace(**others)
    if not isinstance(around, Around):
        raise TypeError(f"around={around!r}: give a rule that goes around another, such as rules.Cautious()")
    return recipe.replace(**others, rule=around.over(recipe.rule))


def groups_of(optimizer: Called, group: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The groups that one of the user's becomes, checked and ready for torch.

    A group is what the same optimizer would make of its parameters with the group's options in the place of its own
    arguments. In a group with a recipe of its own they are the numbers of that recipe.

    Raises:
        TypeError: an option that nothing reads, or a value of a wrong kind.
        ValueError: a number out of range.
    """
    group = optimizer._maker._read(dict(group), optimizer.method)
    entries, recipe = entries_of(group.pop("params")), group.pop("recipe", None)
    meant = None if recipe is None else understood(recipe)
    exported = "format" in group  # a group of an optimizer, as it stands there
    own_rules = group.get("rules") is not None
    apart = not (meant is None or isinstance(meant, type))  # with a recipe of its own
    if meant is None or isinstance(meant, type):
        method = _replaced(optimizer, meant, group)
    else:
        method = Method(meant, {}, None, slots_of(group), rules_of(group.pop("rules", None)))
        group = {key: value for key, value in group.items() if key not in SLOTS}
    whole = apart or any(key in group for key in _OF_NORM)
    parts = [{"params": named_members(entries)}] if whole else method.parts(entries)
    if own_rules:
        check_rules(method.rules, [entry[0] for part in parts for entry in part["params"] if isinstance(entry, tuple)])
    ruled = [
        pair for part in parts for pair in _by_rule(part, () if exported else method.rules or optimizer.method.rules)
    ]
    made = [_complete(optimizer, method, part, group, numbers) for part, numbers in ruled]
    if not exported:
        told = {
            key: value for part in [*parts, *(numbers for _, numbers in ruled), group] for key, value in part.items()
        }
        _refuse_unknown(optimizer, told, [part["recipe"] for part in made], apart)
    return [{**part, **checked(part, optimizer.defaults), "recipe": repr(part["recipe"])} for part in made]


def checked(group: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a group, or else of the defaults, as Python's own.

    Raises:
        TypeError: one is no number.
        ValueError: one is out of range.
    """
    recipe, all_of_them = group["recipe"], {**defaults, **group}
    defaults_of_recipe = recipe.hyper()
    numbers = {key: number(key, all_of_them[key]) for key in ("lr", "weight_decay")}
    numbers |= {key: flag(key, all_of_them[key]) for key in ("maximize", "skip_nonfinite")}
    for key, default in defaults_of_recipe.items():
        value = all_of_them.get(key, default)
        numbers[key] = None if value is None and key in recipe.rule.optional else like(key, value, default)
    for key in ("lr", "weight_decay"):
        if not float(numbers[key]) >= 0:
            raise ValueError(f"{key}={numbers[key]}: a number of at least 0")
    recipe.check_hyper(numbers)
    return numbers


def _replaced(optimizer: Called, named: type[Called] | None, group: dict[str, Any]) -> Method:
    """The method with the group's options, which are taken out of it, in the place of arguments."""
    cls, own = (optimizer._maker, optimizer._arguments) if named is None else (named, {})
    arguments = arguments_of(cls)
    told = {key: _read(key, group.pop(key)) for key in [*group] if key in arguments}
    if "eps" in told and isinstance(pair := own.get("eps"), tuple | list) and _single(told["eps"]):
        told["eps"] = (told["eps"], *pair[1:])
    if named is None and not told:
        return dataclasses.replace(optimizer.method, numbers={})
    return method_of(cls, {**own, **told})


def rules_of(rules: Rules) -> list[Mapping[str, Any]]:
    """The rules of an optimizer, which give numbers.

    Raises:
        TypeError: one gives something else.
    """
    for pattern, numbers in (pair for mapping in listed(rules) for pair in mapping.items()):
        if not isinstance(numbers, Mapping):
            raise TypeError(
                f"rules={{{pattern!r}: {numbers!r}}}: the rules of an optimizer give numbers, such as "
                "{'weight_decay': 0}; metrize.plan takes rules with recipes"
            )
        for key in [*SLOTS, *_OF_NORM, "recipe", "params"]:
            if key in numbers:
                raise TypeError(
                    f"rules={{{pattern!r}: ...}}: {key!r} is no number; metrize.plan takes rules with recipes"
                )
    return listed(rules)


def check_rules(rules: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Refuse a pattern that picks nothing.

    Raises:
        ValueError: it matches none of the names, or there are none.
    """
    for pattern in (pattern for mapping in rules for pattern in mapping):
        if not names:
            raise ValueError("rules go by name; hand over the module, or model.named_parameters()")
        if not fnmatch.filter(names, pattern):
            raise ValueError(no_match(pattern, names))


def _by_rule(
    part: Mapping[str, Any], rules: Sequence[Mapping[str, Any]]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """A part as parts of equal rules, and what these say."""
    found: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for entry in part["params"]:
        numbers = numbers_of(entry[0], rules) if rules and isinstance(entry, tuple) else {}
        alike = next((of for of, known in found if known == numbers), None)
        if alike is None:
            found.append((alike := {**part, "params": []}, numbers))
        alike["params"].append(entry)
    return found or [(dict(part), {})]


def _complete(
    optimizer: Called, method: Method, part: Mapping[str, Any], group: Mapping[str, Any], ruled: Mapping[str, Any]
) -> dict[str, Any]:
    """A part with all that its group, the method and the rules say."""
    recipe = filled(part.get("recipe", method.recipe), {**optimizer.method.slots, **method.slots})
    recipe = _in_norm(recipe, group)
    spared = {key: value for key, value in recipe.hyper().items() if key not in optimizer.defaults}
    rest = {key: value for key, value in group.items() if key not in _OF_NORM}
    whole = {**spared, **method.numbers, **part, **rest, **ruled, "recipe": recipe}
    whole.pop(FACTOR, None)
    factors = [number(FACTOR, told[FACTOR]) for told in (part, group, ruled) if FACTOR in told]
    return whole | {"lr": math.prod(factors, start=whole.get("lr", optimizer.defaults["lr"]))} if factors else whole


def _in_norm(recipe: Recipe, group: Mapping[str, Any]) -> Recipe:
    """The recipe in the group's own norm, or in its norm of the group's layout."""
    for key in _OF_NORM:
        value = _read(key, group.get(key))
        if value is None:
            continue
        norm = value
        if key == "layout":
            norm = recipe.rule.in_norm()
            if not hasattr(norm, "layout"):
                raise TypeError(f"layout={value!r} for a group whose rule is {recipe.rule}, which reads none")
            norm = norm.replace(layout=value)
        recipe = recipe.with_norm(norm)
    return recipe


def _refuse_unknown(optimizer: Called, group: Mapping[str, Any], recipes: list[Recipe], apart: bool) -> None:
    own = arguments_of(optimizer._maker)
    numbers = {key: None for recipe in recipes for key in recipe.hyper()}
    options = [*dict.fromkeys([*own, *numbers])]
    for key in group.keys() - numbers.keys() - optimizer.defaults.keys() - _KEPT - {*optimizer._maker.marks}:
        if apart and key in own:
            raise TypeError(f"{key!r} in a group with a recipe of its own says nothing; write it into that recipe")
        near = difflib.get_close_matches(key, options, n=1, cutoff=_NEAR)
        if near or foreign(key, group[key]):
            raise TypeError("in a parameter group: " + unknown(key, optimizer._maker._owner(), options))


def _read(key: str, value: Any) -> Any:
    """The value of an option, a part from its text.

    Raises:
        ValueError: a text that is no part, with the name of the option.
    """
    if not isinstance(value, str) or key == "decay" or key not in (*SLOTS, *_OF_NORM, "first_moment"):
        return value
    try:
        return parse_space(value) if key == "space" else parse(value)
    except ValueError as error:
        raise ValueError(f"{key}={value!r}: {error}") from None


def _single(value: Any) -> bool:
    return not isinstance(value, tuple | list)
