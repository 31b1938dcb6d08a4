"""What is checked: a part, a recipe or an optimizer, seen as a way to build optimizers."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from metrize.arguments import known
from metrize.decay import Convention
from metrize.frames import Frame
from metrize.moments import Moments
from metrize.norms import Norm
from metrize.optim.optimizer import Optimizer
from metrize.part import Part, parse
from metrize.recipe import Recipe, as_recipe
from metrize.rounding import Rounding
from metrize.rules import Rule, Steepest
from metrize.spaces import Space
from metrize.step_sizes import StepSize
from metrize.testing.problem import Run, point

_SLOTS: dict[str, type[Part]] = {
    "space": Space,
    "frame": Frame,
    "moments": Moments,
    "rule": Rule,
    "step_size": StepSize,
    "decay": Convention,
    "rounding": Rounding,
}


@dataclasses.dataclass(frozen=True)
class Subject:
    """A way to build optimizers.

    Args:
        recipe: what they do to a matrix, or all of it.
        cls: the optimizer, if it is more than a recipe.
        options: over its defaults: of the constructor, or numbers of the group.
    """

    recipe: Recipe
    cls: type[Optimizer] | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return str(self.recipe) if self.cls is None else self.cls.__name__

    def build(self, params: Any, **more: Any) -> Optimizer:
        """An optimizer of these parameters; `more` is over `options`."""
        told = {**self.options, **more}
        return Optimizer(params, self.recipe, **told) if self.cls is None else self.cls(params, **told)

    def run(self, lr: float = 0.01, shape: torch.Size | None = None, dtype: torch.dtype = torch.float32) -> Run:
        """A run of it on a small problem."""
        given = {} if shape is None else {"shape": shape}
        return Run(self.recipe, lr, None if self.cls is None and not self.options else self.build, dtype=dtype, **given)

    def within(self, **slots: Part) -> Subject:
        """The same with other parts in some slots."""
        recipe = self.recipe.replace(**slots)
        return Subject(recipe, self.cls, self.options if self.cls is None else {**self.options, **slots})

    def recipes(self, shapes: list[torch.Size]) -> dict[Recipe, dict[str, Any]]:
        """The recipes it gives to tensors of these shapes, and the numbers that belong to each."""
        if self.cls is None:
            return {self.recipe: dict(self.options)}
        params = [nn.Parameter(point(self.recipe, 1, shape)) for shape in shapes]
        optimizer = self.build([(f"w{i}", p) for i, p in enumerate(params)])
        found = {}
        for recipe, group in zip(optimizer.recipes(), optimizer.param_groups, strict=True):
            found[recipe] = {key: group[key] for key in recipe.hyper() if key in group}
        return found


def subject_of(given: Any, options: Mapping[str, Any]) -> Subject:
    """What a user means by a part, a recipe, the text of either, an optimizer of the catalogue, its name, or a class.

    Raises:
        TypeError: it is none of them.
    """
    if isinstance(given, str):
        return subject_of(known.get(given) or parse(given), options)
    if isinstance(given, type) and issubclass(given, Optimizer):
        with telling(given.__name__, "building it for a matrix"):
            optimizer = given([("w", nn.Parameter(torch.eye(8, 4)))], **options)
        return Subject(optimizer.recipes()[0], given, options)
    if isinstance(given, type) and issubclass(given, Part):
        return subject_of(given(), options)
    if isinstance(given, Norm):
        return Subject(Recipe(rule=Steepest(given)), None, options)
    for slot, kind in _SLOTS.items():
        if isinstance(given, kind):
            return Subject(Recipe().replace(**{slot: given}), None, options)
    if (recipe := as_recipe(given)) is not None:
        return Subject(recipe, None, options)
    raise TypeError(f"{given!r}: give a part, a recipe, the text of either, or a subclass of metrize.Optimizer")


@contextlib.contextmanager
def telling(subject: object, doing: str) -> Iterator[None]:
    """Turn any error into an AssertionError that says what was done, and what may mend it.

    Args:
        subject: what is checked.
        doing: what is done, as in "stepping a float64 matrix".
    """
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        hint = next((hint for kind, hint in _HINTS.items() if isinstance(error, kind)), _REFUSE)
        told = f"{subject}: {doing} raised {type(error).__name__}: {error}"
        raise AssertionError(f"{told}. To mend it: {hint}") from error


_REFUSE = "this has to work, or be refused with a ValueError that says why when the optimizer is built"
_HINTS: dict[type[Exception], str] = {
    KeyError: "averages are declared in `averages()`, other state in `small_spec()`, numbers of the group in `hyper()`",
    NotImplementedError: (
        "implement the method that was reached; where it is a storage that has to see the whole tensor first (as "
        "Factored does), give `passes(hyper, ahead)` a pass before that calls `averages.observe`, or let it return ()"
    ),
}
