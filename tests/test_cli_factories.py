"""``module:function`` on the command line: its neighbours are found, and what is no model is one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("cyclopts")
from metrize.cli import main
from metrize.cli.plan import current_folder

FACTORY = """
import torch
from torch import nn

def late():
    import NAME_sibling
    return nn.Linear(4, NAME_sibling.WIDTH)

class Late(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3))
    def forward(self, x):
        import NAME_sibling
        return x @ self.weight

class Failing(Late):
    def forward(self, x):
        return {}["missing"]

def good():
    return nn.Linear(4, 3)

def nothing():
    return None

def text():
    return "model"

def pair():
    return nn.Linear(2, 2), 1

def kind():
    return nn.Linear

def lazy():
    return nn.LazyLinear(3)

def raises():
    raise KeyError("width")

def lines():
    raise RuntimeError("one\\ntwo")

def wants(width):
    return nn.Linear(width, 1)

thing = 3
"""


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module of the current folder, under a name of its own."""
    name = f"factory_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(FACTORY.replace("NAME", name))
    (tmp_path / f"{name}_sibling.py").write_text("WIDTH = 3\n")
    (tmp_path / f"{name}_broken.py").write_text("def make(:\n")
    (tmp_path / f"{name}_crash.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    return name


@pytest.mark.parametrize("words", [["plan", "{}:late"], ["memory", "{}:late"], ["plan", "{}:Late", "--example", "2x3"]])
def test_neighbours_are_found_when_they_are_needed(words: list[str], factory: str) -> None:
    before = list(sys.path)
    extra = ["--optimizer", "AdamW"] if words[0] == "memory" else []
    assert main([word.format(factory) for word in words] + extra) == 0
    assert sys.path == before


@pytest.mark.parametrize("command", ["plan", "memory"])
@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("{}:nothing", "returned None; it must return a torch.nn.Module"),
        ("{}:text", "returned a str; it must"),
        ("{}:pair", "returned a tuple; it must"),
        ("{}:kind", "returned a type; it must"),
        ("{}:lazy", "parameter 'weight' has no shape yet"),
        ("{}:raises", "failed: KeyError: 'width', in "),
        ("{}:lines", "failed: RuntimeError: one, in "),
        ("{}:wants", "missing 1 required positional argument"),
        ("{}:thing", "not callable"),
        ("{}:missing", "no attribute 'missing'"),
        ("{}:", "cannot find"),
        (":make", "cannot find"),
        ("..:make", "cannot find"),
        ("no_such_module:make", "No module named"),
        ("{}_broken:make", "SyntaxError"),
        ("{}_crash:make", "ZeroDivisionError"),
        ("tomorrow", "unknown model"),
    ],
)
def test_what_is_no_model_is_one_line(
    command: str, spec: str, told: str, factory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = list(sys.path)
    assert main([command, spec.format(factory)]) == 2
    err = capsys.readouterr().err
    assert (len(err.splitlines()), told in err) == (1, True), err
    assert sys.path == before


@pytest.mark.parametrize(
    ("model", "example"),
    [("{}:good", "3x"), ("{}:good", "8x5"), ("{}:good", "{}:text"), ("{}:good", "{}:nothing"), ("{}:Failing", "2x3"),
     ("{}:good", "2x4:int"), ("{}:good", "{}:raises"), ("{}:good", "no_such_module:f")],
)  # fmt: skip
def test_an_example_that_does_not_fit_is_one_line(
    model: str, example: str, factory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", model.format(factory), "--example", example.format(factory)]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1, err


def test_a_picture_of_an_unknown_kind_is_one_line(factory: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert main(["memory", f"{factory}:good", "--optimizer", "AdamW", "--picture", "bars.xyz"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_path_is_given_back_and_nobody_elses_entry_taken() -> None:
    before = list(sys.path)
    with current_folder():
        sys.path.insert(0, "someone-else")
    assert sys.path == ["someone-else", *before]
    sys.path[:] = before
