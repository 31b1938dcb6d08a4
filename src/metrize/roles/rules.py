"""From a role to a recipe, and from what a user writes to either."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from metrize.moments import Blocks
from metrize.norms import Layout, SignHead, Spectral
from metrize.norms.layout import filled
from metrize.part import Part, parse
from metrize.patterns import added
from metrize.recipe import Recipe, as_recipe
from metrize.roles.role import KINDS, Role
from metrize.rules import Adam, Rule, Steepest

Answer = Recipe | Rule | Role | str | Mapping[str, Any] | None
"""What a user may say about a parameter: a recipe, its rule alone, the text of either, numbers such as
``{"weight_decay": 0, "lr_mult": 0.1}`` with or without a ``"recipe"``, the role it has, or None to leave it out."""

_MATRIX = Recipe(rule=Steepest(norm=Spectral()))
_SMALL = Recipe(rule=Adam())
_NO_DECAY = {"weight_decay": 0.0}
# A row that was not looked up keeps an old direction in its momentum. Divided by its own second moment it fades as in
# Adam; made to unit length it would be stepped for ever.
_ROWS = Recipe(moments=Blocks("rows"), rule=Adam())


@dataclasses.dataclass(frozen=True)
class Choice:
    """How a parameter is trained.

    Args:
        recipe: None leaves it out.
        numbers: options of its parameter group beside the recipe.
        keeps: the recipe stays what it was, and the numbers are added to those that are there.
    """

    recipe: Recipe | None
    numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    keeps: bool = False

    def over(self, old: Choice) -> Choice:
        """This answer where another one was."""
        return Choice(old.recipe, added(old.numbers, self.numbers)) if self.keeps else self

    def read_by(self, layout: Layout) -> Choice:
        """The same with every layout that was left open filled in."""
        recipe = None if self.recipe is None else filled(self.recipe, layout)
        return dataclasses.replace(self, recipe=recipe)


DEFAULTS: dict[str, Choice] = {
    "hidden": Choice(_MATRIX),
    "input": Choice(Recipe(rule=Steepest(norm=Spectral("muon")))),
    "head": Choice(Recipe(rule=Steepest(norm=SignHead()))),
    "tied": Choice(Recipe(rule=Steepest(norm=SignHead()))),
    "embedding": Choice(_ROWS, _NO_DECAY),
    "conv": Choice(_MATRIX),
    "recurrent": Choice(_MATRIX),
    "expert": Choice(_MATRIX),
    "lora-a": Choice(_SMALL),
    "lora-b": Choice(_MATRIX),
    "bilinear": Choice(_MATRIX),
    "router": Choice(_SMALL, _NO_DECAY),
    "gain": Choice(_SMALL, _NO_DECAY),
    "bias": Choice(_SMALL, _NO_DECAY),
    "scalar": Choice(_SMALL, _NO_DECAY),
    "elementwise": Choice(_SMALL, _NO_DECAY),
}
"""What each role is trained with unless told otherwise. Matrices decay, if anything does; rows and vectors do not."""


def table(roles: Mapping[str, Answer]) -> dict[str, Choice]:
    """The defaults with a user's answers for some roles.

    Raises:
        ValueError: an unknown role, or an answer that is none.
    """
    for kind in roles:
        if kind not in KINDS:
            raise ValueError(f"roles={{{kind!r}: ...}}: a role is one of {', '.join(map(repr, KINDS))}")
    answers = {kind: understood(answer) for kind, answer in roles.items()}
    for kind, answer in answers.items():
        if isinstance(answer, Role):
            raise ValueError(f"roles={{{kind!r}: {answer}}}: a role is trained with a recipe and not with a role")
    told = {kind: answer.over(DEFAULTS[kind]) for kind, answer in answers.items() if isinstance(answer, Choice)}
    return DEFAULTS | told


def understood(answer: Answer) -> Choice | Role:
    """What a user's answer means.

    Raises:
        ValueError: a text or a mapping that is no answer.
        TypeError: anything else.
    """
    if answer is None:
        return Choice(None)
    if isinstance(answer, Mapping):
        return _of_group(answer)
    part: Part = parse(answer) if isinstance(answer, str) else answer
    if isinstance(part, Role):
        return part
    if (recipe := as_recipe(part)) is None:
        raise TypeError(f"{answer!r} is no recipe, no rule and no role")
    return Choice(recipe)


def _of_group(options: Mapping[str, Any]) -> Choice:
    rest = {key: value for key, value in options.items() if key != "recipe"}
    if "recipe" not in options:
        return Choice(None, rest, keeps=True)
    choice = understood(options["recipe"])
    if not isinstance(choice, Choice) or choice.recipe is None:
        raise ValueError(f'{dict(options)!r}: "recipe" is a recipe, a rule, or the text of either')
    return Choice(choice.recipe, rest)
