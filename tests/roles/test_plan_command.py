"""``metrize plan``."""

from __future__ import annotations

import json
import re

import pytest

import metrize
from metrize.cli import main

MODELS = """
import torch
from torch import nn

def network():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))

def language():
    return nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 10))

def batch():
    return torch.randn(2, 3, 8, 8)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "own_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


def roles_in(text: str) -> dict[str, str]:
    """The role in each line of the table."""
    lines = [line.split() for line in text.splitlines() if ".weight" in line]
    kinds = {"input", "head", "tied", "hidden", "embedding", "gain", "conv"}
    return {line[0]: next(word for word in line if word in kinds) for line in lines}


@pytest.mark.parametrize("example", ["2x3x8x8", "own_models:batch"])
def test_a_model_of_ones_own(example, capsys):
    assert main(["plan", "own_models:network", "--example", example]) == 0
    assert roles_in(capsys.readouterr().out) == {"0.weight": "input", "3.weight": "head"}


def test_token_numbers(capsys):
    assert main(["plan", "own_models:language", "--example", "2x5:int"]) == 0
    assert roles_in(capsys.readouterr().out) == {"0.weight": "embedding", "1.weight": "head"}


def test_a_task(capsys):
    assert main(["plan", "digits"]) == 0
    out = capsys.readouterr().out
    assert roles_in(out)["classifier.weight"] == "head"
    assert "split=(49, 49, 49)" in out


def test_on_a_terminal_there_is_a_table(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["plan", "own_models:network"]) == 0
    out = capsys.readouterr().out
    assert "\x1b[" in out
    assert "3.weight" in out
    assert "is a guess" in out


@pytest.mark.parametrize("columns", [30, 60, 100])
def test_a_narrow_terminal_breaks_no_name(columns, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["plan", "digits"]) == 0
    lines = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out).splitlines()
    assert all(len(line) <= columns for line in lines)
    assert "blocks.0.qkv.weight" in [line.strip() for line in lines]


def test_json_has_every_parameter(capsys):
    assert main(["plan", "own_models:network", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    by_name = {row["name"]: row for row in told["parameters"]}
    assert list(by_name) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert (by_name["3.weight"]["shape"], by_name["3.weight"]["role"]) == ([10, 288], "head")
    assert metrize.parse(by_name["0.bias"]["recipe"]) == metrize.Recipe()
    assert any("is a guess" in note for note in told["notes"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["own_models:nothing"], "cannot find"),
        (["no_such_module:make"], "cannot find"),
        (["digitz"], "did you mean 'digits'"),
        (["mnist"], "--example SHAPE"),
        (["own_models:network", "--example", "2x3y"], "neither a shape"),
        (["own_models:network", "--example", "2x5x8x8"], "in evaluation mode"),
    ],
)
def test_errors_that_can_be_mended(words, message, capsys):
    assert main(["plan", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
