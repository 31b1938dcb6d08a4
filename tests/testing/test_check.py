"""`metrize.testing.check` passes what the library holds, and says what is wrong with parts that break a promise."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import pytest
import torch
from sentences import FRAMES, MOMENTS, NORMS, RULES, SPACES, STEP_SIZES
from torch import Tensor

import metrize
from metrize import Recipe, frames, rules
from metrize.moments import Averages, Moments
from metrize.rules import Metric, Rule
from metrize.testing import check

PARTS = [*RULES, *MOMENTS, *STEP_SIZES]
OTHERS = [*FRAMES, *NORMS, *SPACES]
FAST = ("AdamW", "Muon", "SOAP")


def some(parts: list[Any], each: int) -> list[Any]:
    """All of them, of which one in so many is quick."""
    return [p if i % each == 0 else pytest.param(p, marks=pytest.mark.slow) for i, p in enumerate(parts)]


@pytest.mark.parametrize("part", [*some(PARTS, 4), *some(OTHERS, 6)], ids=str)
def test_the_library_s_own_parts_pass(part):
    check(part)


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in metrize.catalogue()]
)
def test_the_catalogue_passes(name):
    check(metrize.catalogue()[name])


@dataclasses.dataclass(frozen=True)
class Planted(Rule):
    """What the faulty rules below have in common, and right: ``D = m``."""

    def hyper(self) -> dict[str, Any]:
        return {"beta": 0.9}

    def averages(self, hyper: dict[str, Any]) -> dict[str, Any]:
        return {"kept": "linear"}

    def direction(self, coords: Tensor, averages: Averages, hyper: dict[str, Any], metric: Metric) -> Tensor:
        return averages.update("kept", coords, hyper["beta"], 1 - hyper["beta"])


def _unit(coords: Tensor, metric: Metric) -> Tensor:
    length = metric.sq_norm(coords).sqrt() + 1e-30
    return coords / rules.base.per_point(length, coords)


@dataclasses.dataclass(frozen=True)
class WholeNormInPieces(Planted):
    def direction(self, coords, averages, hyper, metric):
        return _unit(super().direction(coords, averages, hyper, metric), metric)

    def passes(self, hyper, ahead: Collection[str] = ()):
        return (self.direction,)


@dataclasses.dataclass(frozen=True)
class NoLookAhead(Planted):
    def averages(self, hyper):
        return {"kept": "square"}

    def direction(self, coords, averages, hyper, metric):
        return coords / (averages.update("kept", coords, hyper["beta"], 1 - hyper["beta"]).sqrt() + 1e-8)

    def passes(self, hyper, ahead: Collection[str] = ()):
        return (self.direction,)


@dataclasses.dataclass(frozen=True)
class ClaimsElementwise(Planted):
    def direction(self, coords, averages, hyper, metric):
        return _unit(coords, metric)

    def elementwise(self, hyper):
        return True


@dataclasses.dataclass(frozen=True)
class CouplesMembers(Planted):
    def direction(self, coords, averages, hyper, metric):
        return coords / (coords.norm() + 1e-30)


@dataclasses.dataclass(frozen=True)
class ChangesAverage(Planted):
    def direction(self, coords, averages, hyper, metric):
        return super().direction(coords, averages, hyper, metric).sign_()


@dataclasses.dataclass(frozen=True)
class ChangesCoords(Planted):
    def direction(self, coords, averages, hyper, metric):
        return coords.sign_()


@dataclasses.dataclass(frozen=True)
class UndeclaredAverage(Planted):
    def averages(self, hyper):
        return {}


@dataclasses.dataclass(frozen=True)
class UndeclaredNumber(Planted):
    def hyper(self):
        return {}


@dataclasses.dataclass(frozen=True)
class Uphill(Planted):
    def direction(self, coords, averages, hyper, metric):
        return -super().direction(coords, averages, hyper, metric)


@dataclasses.dataclass(frozen=True)
class DividesByZero(Planted):
    def direction(self, coords, averages, hyper, metric):
        return coords / coords.abs()


@dataclasses.dataclass(frozen=True)
class DrawsGlobally(Planted):
    def direction(self, coords, averages, hyper, metric):
        return coords * torch.rand(1)


@dataclasses.dataclass(frozen=True)
class WrongShape(Planted):
    def direction(self, coords, averages, hyper, metric):
        return coords.flatten(1)[:, :1]


@dataclasses.dataclass(frozen=True)
class ReplacesState(Moments):
    """A storage that does not write to the tensor that it declares."""

    def state_spec(self, name, shape, dtype, kind):
        return {name: (tuple(shape), torch.float16)}

    def read(self, slot, state):
        return state[slot.name].to(slot.dtype)

    def write(self, slot, state, value):
        state[slot.name] = value.to(torch.bfloat16)


FAULTS = {
    WholeNormInPieces: r"Piecewise takes another step than the whole tensor.*return \(\) from `passes`",
    NoLookAhead: r"Factored.*NotImplementedError.*a pass before that calls `averages.observe`",
    ClaimsElementwise: r"some rows of a matrix.*`elementwise` says.*return False",
    CouplesMembers: r"change each other's step.*`metric.sq_norm\(coords\)`",
    ChangesAverage: r"changes in place what `averages` gave for kept.*work on a copy",
    ChangesCoords: r"changes `coords` in place.*work on a copy",
    UndeclaredAverage: r"KeyError: 'kept'.*declared in `averages\(\)`",
    UndeclaredNumber: r"KeyError: 'beta'.*in `hyper\(\)`",
    Uphill: r"goes from .* on a quadratic.*is its sign right",
    DividesByZero: r"of 0, then random ones, makes the parameter infinite or NaN.*0 / 0",
    DrawsGlobally: r"weights differ from those of the run that was not interrupted.*global",
    WrongShape: r"the direction has shape \(1, 1\)",
    ReplacesState: r"not interrupted.*state is changed in place",
}


def test_what_the_faulty_rules_share_is_right():
    check(Planted())


@pytest.mark.parametrize(("part", "text"), FAULTS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_promise_is_told(part, text):
    with pytest.raises(AssertionError, match=f"(?s){text}"):
        check(part())


def test_a_faulty_rule_is_found_in_a_recipe_and_in_an_optimizer():
    with pytest.raises(AssertionError, match="changes in place"):
        check(Recipe(rule=ChangesAverage(), moments=metrize.Blocks()))
    with pytest.raises(AssertionError, match=r"Planned: .* changes `coords` in place"):
        check(Planned)


class Planned(metrize.Optimizer):
    """An optimizer of one's own, with a rule that breaks a promise."""

    def __init__(self, params, lr=1e-3, **options):
        super().__init__(params, Recipe(rule=ChangesCoords()), lr=lr, **options)


def test_numbers_of_the_group_are_taken():
    check(Planted(), beta=0.5)
    check("SGD", momentum=0.0)
    with pytest.raises(AssertionError, match="betas"):
        check(metrize.AdamW, betas=(2.0, 0.9))


def test_text_and_classes_are_understood():
    check("Recipe(rule=Steepest(norm=RowNorm()), decay='after')", shapes=[(8, 4)])
    check(rules.Gradient, shapes=[(8, 4)])
    with pytest.raises(TypeError, match="give a part, a recipe"):
        check(3)


def test_all_shapes_refused_is_told():
    with pytest.raises(AssertionError, match=r"all of the shapes .* are refused"):
        check(Recipe(frame=frames.Eigenbasis(), space=metrize.Stiefel()), shapes=[(3,)])


def test_a_class_that_cannot_be_imported_is_checked_but_for_its_pickle():
    @dataclasses.dataclass(frozen=True)
    class Local(Planted):
        pass

    check(Local())
    check(type("Made", (Planned,), {"__init__": _plain}))


def _plain(self, params, lr=1e-3, **options):
    metrize.Optimizer.__init__(self, params, Recipe(rule=rules.Gradient()), lr=lr, **options)
