"""Numbers that are not finite, in a run: a gradient costs one step, a loss ends the run, and both are told."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import assert_same_run, config_of, digest, measured

import metrize
from metrize.cli import main
from metrize.lab.config import RunConfig
from metrize.lab.engine import Engine
from metrize.lab.models import Model
from metrize.lab.trainer import train


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[int]]:
    """The steps, counted within one call of `train`, whose gradient gets an infinity."""
    steps: set[int] = set()
    build, models, counts = Engine.build, [], []

    def remembered(self: Engine, config: RunConfig) -> tuple[Model, metrize.Optimizer]:
        built = build(self, config)
        models.append(built[0])
        counts.append(itertools.count(1))
        return built

    def poisoned(self: Engine, value: float) -> float:
        if next(counts[-1]) in steps:
            next(models[-1].parameters()).grad.view(-1)[3] = torch.inf
        return value

    monkeypatch.setattr(Engine, "build", remembered)
    monkeypatch.setattr(Engine, "sum", poisoned)
    return steps


def test_an_infinite_gradient_costs_one_step_and_is_counted(tmp_path: Path, poison: set[int]) -> None:
    config = config_of(tmp_path, steps=6, checkpoint_every=5, eval_every=0)
    poison.add(6)
    with pytest.warns(RuntimeWarning, match=r"'embedding.weight' is not finite: step skipped"):
        summary = train(config, tmp_path / "run")
    assert (summary.steps, summary.skipped_steps, summary.diverged) == (6, 1, False)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["skipped_steps"] == 1
    assert digest(tmp_path / "run", 6) == digest(tmp_path / "run", 5)


def test_a_resumed_run_remembers_the_steps_it_skipped(tmp_path: Path, poison: set[int]) -> None:
    config = config_of(tmp_path)
    poison.update({3, 9})
    with pytest.warns(RuntimeWarning, match="step skipped"):
        straight = train(config, tmp_path / "straight")
    with pytest.warns(RuntimeWarning, match="step skipped"):
        train(config, tmp_path / "run")
    for file in ("checkpoint-20.pt", "summary.json"):
        (tmp_path / "run" / file).unlink()
    poison.clear()
    assert train(config, tmp_path / "run", resume=True).skipped_steps == straight.skipped_steps == 2
    assert_same_run(tmp_path / "run", tmp_path / "straight", 20)


def test_a_run_without_skipped_steps_says_nothing_of_them(tmp_path: Path) -> None:
    assert train(config_of(tmp_path), tmp_path / "run").skipped_steps is None


def words(config: RunConfig, folder: Path) -> list[str]:
    model = [word for key, value in config.model.items() for word in ("--model", f"{key}={value}")]
    return [
        "train",
        "text",
        *model,
        "--steps=20",
        "--batch-size=4",
        f"--text-file={config.text_file}",
        "--out",
        str(folder),
    ]


def test_the_command_line_shows_skipped_steps(
    tmp_path: Path, poison: set[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    poison.add(4)
    with pytest.warns(RuntimeWarning, match="step skipped"):
        assert main(words(config_of(tmp_path), tmp_path / "run")) == 0
    assert "skipped" in capsys.readouterr().out


WILD: dict[str, Any] = {"optimizer": "SGD", "lr": 1e30, "options": {"skip_nonfinite": False}}


@pytest.mark.parametrize("nproc", [None, 2])
def test_a_loss_that_is_not_finite_ends_the_run_of_all_processes(tmp_path: Path, nproc: int | None) -> None:
    summary = train(config_of(tmp_path, nproc=nproc, **WILD), tmp_path / "run")
    assert (summary.diverged, summary.final_eval_loss) == (True, None)
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    assert [line["step"] for line in measured(tmp_path / "run") if line["kind"] == "train"][-1] == summary.steps
