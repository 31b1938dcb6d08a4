"""The plan of a whole model: every parameter once, with its role, its recipe and the reason."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metrize.patterns import added, disagreement, listed, no_match
from metrize.recipe import Recipe
from metrize.roles.infer import Inference, infer
from metrize.roles.role import Role
from metrize.roles.row import PlanRow
from metrize.roles.rules import Answer, Choice, table, understood
from metrize.roles.sandbox import Example
from metrize.roles.show import written
from metrize.spaces.base import parse_space
from metrize.spaces.declare import declared_space, remind


def plan(
    model: nn.Module,
    example: Example | None = None,
    *,
    rules: Mapping[str, Answer] | Sequence[Mapping[str, Answer]] | None = None,
    roles: Mapping[str, Answer] | None = None,
) -> Plan:
    """Find out what every parameter of a model does, and choose the recipe that trains it.

    Three layers, each more certain than the one before: the types of the modules; one forward pass of `example`, which
    shows how each tensor is used; and gradients in that pass, which show how fused projections are arranged. `rules`
    stand above all of them. The model is left as it was: its mode, its buffers and the random generators.

    Args:
        model: the model, before it is wrapped for training on several devices.
        example: what one forward pass takes: a tensor, a tuple of arguments, a mapping of named arguments, or a
            function that is called with the model. Without it heads and input layers are guessed by their place.
        rules: answers for parameters, by name or by a pattern such as ``"*.bias"``, or a list of such mappings, of
            which later ones count more. An answer is a recipe, its rule alone, the text of either, numbers such as
            ``{"weight_decay": 0, "lr_mult": 0.1}`` with or without a ``"recipe"``, a `Role`, or None to leave the
            parameter out. Layouts that a recipe leaves open are filled in.
        roles: answers for all parameters of a role, such as ``{"embedding": "Steepest(norm=RMS())"}``.

    Raises:
        TypeError: an answer that is none.
        ValueError: a pattern without a match, two answers for one parameter, an unknown role, a recipe that cannot
            train the tensor, or a parameter that no recipe can: sparse, or flattened by a wrapper.
    """
    for name, parameter in model.named_parameters():
        _refuse(name, parameter)
    remind(model)
    found = Plan(model, infer(model, example), table(roles or {}))
    told: set[str] = set()
    for mapping in listed(rules):
        for name, (meant, pattern) in _matched(found, mapping).items():
            found._answer(name, meant, f"as told for {pattern!r}")
            told |= set() if isinstance(meant, Choice) and meant.keeps else {name}
    _warn_of_unknown([row.name for row in found.rows if row.name not in told and row.recipe and not row.role.settled])
    return found


class Plan(Mapping[str, PlanRow]):
    """Every parameter of a model, once: its role, its recipe and the reason. `print` shows it as a table.

    ``plan[name]`` is a `PlanRow`; ``plan[name] = answer`` changes it, with the answers that `metrize.plan` takes. A
    tied parameter goes by any of its names.

    Args:
        model: the model.
        found: what its parameters do.
        choices: what each role is trained with.

    Attributes:
        notes: what a person should know, a sentence each.
        unused: parameters that the example did not use.
    """

    def __init__(self, model: nn.Module, found: Inference, choices: Mapping[str, Choice]) -> None:
        self._model, self._choices = model, choices
        self.notes, self.unused = found.notes, found.unused
        self._first = {name: first for first, names in found.names.items() for name in names}
        self._rows: dict[str, PlanRow] = {}
        for name, parameter in model.named_parameters():
            row = PlanRow(name, found.names[name], tuple(parameter.shape), found.roles[name], None)
            row = dataclasses.replace(row, frozen=not parameter.requires_grad)
            self._rows[name] = self._default(row, parameter)

    @property
    def rows(self) -> list[PlanRow]:
        """One for each parameter, in the model's order."""
        return list(self._rows.values())

    @property
    def hash(self) -> str:
        """A short digest of names, shapes, roles, layouts and recipes: two plans with the same one train alike."""
        lines = (f"{r.name} {r.shape} {r.role.kind} {r.role.layout!r} {r.recipe!r}" for r in self.rows)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups for `metrize.Optimizer`: one for each recipe, with names, numbers and the plan's hash.

        Raises:
            ValueError: the model lost a parameter since it was planned.
        """
        parameters, digest = dict(self._model.named_parameters()), self.hash
        groups: dict[str, dict[str, Any]] = {}
        for row in self.rows:
            if row.recipe is None:
                continue
            if row.name not in parameters:
                raise ValueError(f"the model has no parameter {row.name!r} any more; plan it again")
            empty = {"params": [], "recipe": row.recipe, **row.numbers, "plan": digest}
            group = groups.setdefault(f"{row.recipe!r} {sorted(row.numbers.items())}", empty)
            group["params"].append((row.name, parameters[row.name]))
        return list(groups.values())

    def __getitem__(self, name: str) -> PlanRow:
        return self._rows[self._known(name)]

    def __setitem__(self, name: str, answer: Answer) -> None:
        self._answer(self._known(name), understood(answer), "as told")

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __str__(self) -> str:
        return written(self.rows, self.notes, self.unused)

    def _known(self, name: str) -> str:
        if name not in self._first:
            close = difflib.get_close_matches(name, self._first, n=1)
            raise KeyError(f"no parameter {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        return self._first[name]

    def _default(self, row: PlanRow, parameter: Tensor) -> PlanRow:
        """The row as its role is trained; on a space, by the default recipe, which honours the space."""
        space = declared_space(parameter)
        if not (parameter.is_floating_point() or parameter.is_complex()):
            return row
        if space is not None and not parse_space(space).flat:
            return _with(row, Choice(Recipe()), row.role, f"lives on {parse_space(space)}")
        return _with(row, self._choices[row.role.kind], row.role)

    def _answer(self, name: str, meant: Choice | Role, reason: str) -> None:
        row = self._rows[name]
        if isinstance(meant, Role):
            self._rows[name] = _with(row, self._choices[meant.kind], meant, reason)
            return
        usual = row if meant.keeps else self._choices[row.role.kind]
        choice = Choice(usual.recipe if meant.keeps else meant.recipe, added(usual.numbers, meant.numbers))
        self._rows[name] = _with(row, choice, row.role, reason)


def _with(row: PlanRow, choice: Choice, role: Role, reason: str = "") -> PlanRow:
    """The row with another choice, its open layouts filled in.

    Raises:
        ValueError: the recipe cannot train a tensor of this shape, by name.
    """
    choice = choice.read_by(role.layout)
    try:
        if choice.recipe:
            choice.recipe.rule.check_shape(torch.Size(row.shape))
    except ValueError as error:
        raise ValueError(f"parameter {row.name!r}, {role.kind}: {error}") from None
    role = role.replace(reason="; ".join(filter(None, (role.reason, reason))))
    return dataclasses.replace(row, role=role, recipe=choice.recipe, numbers=choice.numbers)


def _matched(found: Plan, rules: Mapping[str, Answer]) -> dict[str, tuple[Choice | Role, str]]:
    """The user's answer for each parameter that a pattern matches, and the pattern.

    Raises:
        ValueError: a pattern without a match, or two that disagree about one parameter.
    """
    told: dict[str, tuple[Choice | Role, str]] = {}
    for pattern, answer in rules.items():
        matches = [row.name for row in found.rows if any(fnmatch.fnmatchcase(name, pattern) for name in row.names)]
        if not matches:
            raise ValueError(no_match(pattern, found))
        for name in matches:
            other, by = told.get(name, (None, pattern))
            together = _together(other, understood(answer))
            if together is None:
                raise ValueError(
                    f"{disagreement(name, by, pattern)}; make one of them narrower, or leave one out and set "
                    f"plan[{name!r}] afterwards"
                )
            told[name] = (together, by)
    return told


def _together(one: Choice | Role | None, other: Choice | Role) -> Choice | Role | None:
    """Two answers as one; None where they disagree."""
    if one is None or one == other:
        return other
    if isinstance(one, Role) or isinstance(other, Role) or not (one.keeps or other.keeps):
        return None
    if any(one.numbers[key] != other.numbers[key] for key in one.numbers.keys() & other.numbers.keys()):
        return None
    named = other if one.keeps else one
    return dataclasses.replace(named, numbers={**one.numbers, **other.numbers})


def _warn_of_unknown(names: Sequence[str]) -> None:
    if names:
        warnings.warn(
            f"no rule knows {', '.join(names)}: trained entry by entry; say more with "
            f"metrize.plan(..., rules={{{names[0]!r}: ...}})",
            UserWarning,
            stacklevel=3,
        )


def _refuse(name: str, parameter: Tensor) -> None:
    if parameter.layout is not torch.strided and parameter.requires_grad:
        raise ValueError(f"parameter {name!r} is stored as {parameter.layout}; make it dense, or freeze it")
