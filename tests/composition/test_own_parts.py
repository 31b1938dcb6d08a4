"""Parts that users define: names are not taken over, a redefinition counts at once, contracts are no parts."""

import dataclasses
import importlib
import importlib.util
import sys
import textwrap

import pytest
import torch

import metrize
from metrize import frames, moments, norms, rules, step_sizes
from metrize.part import Part, known_parts, parse
from metrize.rounding import Rounding

CELL = """
import dataclasses
from metrize.rules import Rule

@dataclasses.dataclass(frozen=True)
class Scaled(Rule):
    extra: float = 0.0
    def direction(self, coords, averages, hyper, metric):
        return coords * FACTOR
"""


@pytest.fixture(autouse=True)
def _only_parts_of_the_library():
    """Classes of one test are unknown to the next."""
    known, contracts = dict(known_parts()), dict(Part.contracts)
    yield
    for names, kept in ((Part.known, known), (Part.contracts, contracts)):
        names.clear()
        names.update(kept)
    parse.cache_clear()


def _stepping(rule, **group):
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = metrize.Optimizer([parameter], metrize.Recipe(rule=rule), lr=1.0, **group)

    def step():
        before = parameter.detach().clone()
        parameter.grad = torch.ones(2)
        optimizer.step()
        return (parameter.detach() - before)[0].item()

    return step


def _cell(factor, names=None):
    names = {"__name__": "__main__"} if names is None else names
    exec(CELL.replace("FACTOR", str(factor)), names)
    return names["Scaled"]


def test_a_cell_run_again_counts_at_once():
    step = _stepping(_cell(1.0)())
    assert step() == -1
    changed = _cell(2.0)
    assert type(parse("Scaled()")) is changed
    assert _stepping(changed())() == -2
    assert step() == -2  # of an optimizer that is in use, too


WAYS = {
    "rule as text": lambda p: metrize.Optimizer([p], "Scaled()", lr=1.0),
    "name alone": lambda p: metrize.Optimizer([p], "Scaled", lr=1.0),
    "recipe as text": lambda p: metrize.Optimizer([p], "Recipe(rule=Scaled())", lr=1.0),
    "group": lambda p: metrize.Optimizer([{"params": [p], "recipe": "Recipe(rule=Scaled())"}], lr=1.0),
    "group of another optimizer": lambda p: metrize.Adam([{"params": [p], "recipe": "Scaled()"}], lr=1.0),
    "parsed": lambda p: metrize.Optimizer([p], parse("Recipe(rule=Scaled())"), lr=1.0),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_cell_run_again_counts_wherever_its_name_is_read(way):
    """In optimizers that are in use and in new ones, with other arguments too."""
    used = []
    for factor in (1.0, 2.0, "(4.0 + self.extra)"):
        _cell(factor)
        new = torch.nn.Parameter(torch.zeros(2))
        used.append((new, WAYS[way](new)))
        for p, optimizer in used:
            before = p.detach().clone()
            p.grad = torch.ones(2)
            optimizer.step()
            assert (before - p.detach())[0] == (4.0 if isinstance(factor, str) else factor)
    assert parse("Scaled(extra=3.0)").extra == 3.0


def test_a_class_made_again_by_a_function_counts_at_once():
    def make(factor):
        @dataclasses.dataclass(frozen=True)
        class Made(rules.Rule):
            def direction(self, coords, averages, hyper, metric):
                return coords * factor

        return Made()

    assert [_stepping(make(factor))() for factor in (1.0, 2.0)] == [-1, -2]
    assert repr(make(1.0)) == "Made()"


def test_a_module_may_be_loaded_under_two_names_and_again(tmp_path, monkeypatch):
    (tmp_path / "scaled_rule.py").write_text(CELL.replace("FACTOR", "1.0"))
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("scaled_rule")
    assert _stepping(module.Scaled())() == -1
    importlib.reload(module)
    assert type(parse("Scaled()")) is module.Scaled
    spec = importlib.util.spec_from_file_location("__mp_main__", tmp_path / "scaled_rule.py")
    twin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(twin)
    assert type(parse("Scaled()")) is twin.Scaled
    del sys.modules["scaled_rule"]


@pytest.mark.parametrize("name", sorted({**Part.known, **Part.contracts}))
def test_no_name_of_the_library_can_be_taken(name):
    before = {**Part.known, **Part.contracts}[name]
    with pytest.raises(
        TypeError, match=rf"__main__\.{name} has the name of {before.__module__}\.{name}, .*choose another"
    ):
        exec(f"from metrize.rules import Rule as Base\nclass {name}(Base): pass", {"__name__": "__main__"})
    assert {**Part.known, **Part.contracts}[name] is before


def test_two_modules_cannot_share_a_name():
    _cell(1.0, {"__name__": "first"})
    with pytest.raises(TypeError, match=r"second\.Scaled has the name of first\.Scaled"):
        _cell(1.0, {"__name__": "second"})
    assert type(parse("Scaled()")).__module__ == "first"


@pytest.mark.parametrize("name", sorted(Part.contracts))
def test_a_contract_is_no_part(name):
    contract = Part.contracts[name]
    with pytest.raises(TypeError, match=f"{name} is a contract; use one of "):
        contract()
    with pytest.raises(ValueError, match=f"{name} is a contract; use one of "):
        parse(f"{name}()")


def test_all_that_parts_share_are_contracts():
    named = {rules.Rule, frames.Frame, metrize.Space, moments.Moments, norms.Norm, step_sizes.StepSize, Rounding}
    assert named <= set(Part.contracts.values())
    bases = {base for cls in Part.known.values() for base in cls.__mro__ if issubclass(base, Part)}
    assert bases <= {*Part.contracts.values(), *Part.known.values()}


def test_an_own_contract_gives_own_parts():
    @dataclasses.dataclass(frozen=True)
    class Family(rules.Rule, abstract=True):
        factor: float = 1.0

    @dataclasses.dataclass(frozen=True)
    class Child(Family):
        def direction(self, coords, averages, hyper, metric):
            return coords * self.factor

    with pytest.raises(TypeError, match="Family is a contract; use one of Child"):
        Family()
    assert _stepping(Child(3.0))() == -3


def test_a_missing_import_is_told():
    step = _stepping(_cell(1.0)())
    step()
    text = repr(metrize.Recipe(rule=Part.known["Scaled"]()))
    del Part.known["Scaled"]
    parse.cache_clear()
    with pytest.raises(ValueError, match=r"unknown part 'Scaled'.*import the module that defines it before loading"):
        parse(text)


@pytest.mark.parametrize("what", ["average", "kept", "number"])
@pytest.mark.parametrize("pieces", [False, True])
def test_what_a_rule_did_not_declare_is_named(what, pieces):
    @dataclasses.dataclass(frozen=True)
    class Undeclared(rules.Rule):
        what: str = "average"
        pieces: bool = False

        def hyper(self):
            return {"momentum": 0.9}

        def averages(self, hyper):
            return {"declared": "linear"}

        def passes(self, hyper, ahead=()):
            return (self.direction,) if self.pieces else ()

        def direction(self, coords, averages, hyper, metric):
            if self.what == "number":
                return coords * hyper["foo"]
            if self.what == "kept":
                return averages.read("foo")
            return averages.update("foo", coords, 0.9, 0.1)

    parameter = torch.nn.Parameter(torch.zeros(700, 400))
    optimizer = metrize.Optimizer([parameter], metrize.Recipe(rule=Undeclared(what, pieces)))
    parameter.grad = torch.ones_like(parameter)
    with pytest.raises(KeyError) as caught:
        optimizer.step()
    told = str(caught.value)
    assert told.startswith(f"{Undeclared(what, pieces)} asks for 'foo', which it does not declare")
    assert "declared" in told
    assert "momentum" in told
    assert not parameter.detach().any()


@pytest.mark.parametrize("step_size", [step_sizes.DualNorm, step_sizes.Prodigy])
@pytest.mark.parametrize("rule", [rules.Steepest, rules.Lion])
def test_a_step_size_has_the_norm_of_its_rule(step_size, rule):
    recipe = metrize.Recipe(rule=rule(norms.Spectral()), step_size=step_size())
    assert recipe.step_size.norm == norms.Spectral()
    assert parse(repr(recipe)) == parse(str(recipe)) == recipe
    assert metrize.Recipe(step_size=step_size()).step_size.norm == norms.MaxEntry()
    with pytest.warns(UserWarning, match="in another norm than the steps of rule"):
        metrize.Recipe(rule=rule(norms.Spectral()), step_size=step_size(norms.MaxEntry()))


def test_a_module_written_as_text_defines_a_part_inside_of_a_function():
    names = {"__name__": "own"}
    exec(
        textwrap.dedent("def make():\n" + textwrap.indent(CELL.replace("FACTOR", "4.0"), "    ") + "    return Scaled"),
        names,
    )
    assert _stepping(names["make"]()())() == -4
