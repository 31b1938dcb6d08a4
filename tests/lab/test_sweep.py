"""Sweeps: every method at every point of a grid, and its best point compared."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from test_report import seeds, write

from metrize.lab import compare as module
from metrize.lab import rows
from metrize.lab.compare import NothingLeftError, compare, parse_method
from metrize.lab.config import RunConfig
from metrize.lab.events import Began, Event
from metrize.lab.export import write_csv
from metrize.lab.runs import Comparison
from metrize.lab.sweep import at_point, edges, parse_grid, points
from metrize.lab.trainer import Interrupted, train

GPT = {"width": 16, "layers": 1, "heads": 2, "context": 16}


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    text = tmp_path / "text"
    text.write_text("".join(f"{i} squared is {i * i}.\n" for i in range(400)))
    setting = RunConfig("text", model=GPT, steps=3, batch_size=4, eval_every=0, text_file=str(text))
    methods = [parse_method(name, setting) for name in ("Adam", "SGD momentum=0.5")]
    return Comparison(methods, seeds=2, grid=parse_grid(["lr=1e-3:1e-1:3"]))


def without_times(folder: Path) -> list[dict[str, Any]]:
    """The rows, and their order, of which only times differ from run to run."""
    timed = ("seconds", "ms_per_step", "optimizer_ms_per_step", "first_step_ms")
    return [{key: value for key, value in row.items() if key not in timed} for row in rows(folder)]


@pytest.mark.parametrize(
    ("words", "grid"),
    [
        (["lr=1e-4:1e-1:4"], {"lr": [1e-4, 1e-3, 1e-2, 1e-1]}),
        (["lr=1e-1:1e-3:3"], {"lr": [1e-1, 1e-2, 1e-3]}),
        (["lr=1e-3,3e-3", "nesterov=True,False"], {"lr": [1e-3, 3e-3], "nesterov": [True, False]}),
        (["refresh=qr,eigh"], {"refresh": ["qr", "eigh"]}),
        (["lr=1:2:3"], {"lr": [1.0, 1.414, 2.0]}),
    ],
)
def test_a_grid_is_read_from_words(words: list[str], grid: dict[str, Any]) -> None:
    assert parse_grid(words) == grid


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lr"], "'lr' is no sweep"),
        (["lr="], "is no sweep"),
        (["lr=1e-3:1e-1"], "such as lr=1e-4:1e-1:7"),
        (["lr=a:b:3"], "such as lr=1e-4:1e-1:7"),
        (["lr=-1:1:3"], "both ends are above 0"),
        (["lr=0:1:3"], "both ends are above 0"),
        (["lr=1:inf:3"], "both ends are above 0"),
        (["lr=1e-3:1e-1:1"], "two values at least"),
        (["lr=1e-3,1e-3"], "names a value twice"),
        (["lr=1,2", "lr=3,4"], "swept twice"),
    ],
)
def test_what_is_no_grid_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_grid(words)


def test_a_grid_of_several_options_is_their_product() -> None:
    grid = {"lr": [0.1, 0.2], "momentum": [0.5, 0.9]}
    found = [at_point(RunConfig(optimizer="SGD"), point) for point in points(grid)]
    assert [(config.lr, config.options) for config in found] == [
        (lr, {"momentum": momentum}) for lr in (0.1, 0.2) for momentum in (0.5, 0.9)
    ]


@pytest.mark.parametrize(("lr", "told"), [(1e-3, ["lr"]), (1e-2, []), (1e-1, ["lr"])])
def test_the_ends_of_a_grid_are_its_edges(lr: float, told: list[str]) -> None:
    assert edges(RunConfig(lr=lr), {"lr": [1e-3, 1e-2, 1e-1], "decay": ["l2", "after", "decoupled"]}) == told


def test_trials_come_first_and_the_best_of_each_method_runs_with_other_seeds(
    tmp_path: Path, comparison: Comparison
) -> None:
    report = compare(comparison, tmp_path / "new")
    found = rows(tmp_path / "new")
    trials, finals = [[row for row in found if row["kind"] == kind] for kind in ("trial", "run")]
    assert [(row["optimizer"], row["lr"]) for row in trials] == [
        (name, lr) for lr in (1e-3, 1e-2, 1e-1) for name in ("Adam", "SGD")
    ]
    assert {row["seed"] for row in trials} == {0}
    for name in ("Adam", "SGD"):
        best = min((row for row in trials if row["optimizer"] == name), key=lambda row: row["final_eval_loss"])
        own = [row for row in finals if row["optimizer"] == name]
        assert [(row["lr"], row["seed"]) for row in own] == [(best["lr"], 1), (best["lr"], 2)]
    assert "Each method had 3 trials." in report.verdict
    assert report.verdict in report.page.read_text().replace("&#39;", "'")
    assert (tmp_path / "new" / "held-out-loss-by-lr.png").is_file()
    assert Comparison.load(tmp_path / "new") == comparison
    write_csv(tmp_path / "new", tmp_path / "rows.csv")
    read = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    assert [(row["place"], float(row["final_eval_loss"])) for row in read] == [
        (row["place"], row["final_eval_loss"]) for row in found
    ]


def test_a_sweep_that_was_stopped_goes_on_to_the_same_bits(
    tmp_path: Path, comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(comparison, tmp_path / "whole")
    began: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Began):
            began.append(event.folder.name)

    for last in (2, 7):  # in the trials, and behind them
        monkeypatch.setattr(module, "train", lambda *a, last=last, **k: train(*a, **k, stop=lambda: len(began) == last))
        with pytest.raises(Interrupted):
            compare(comparison, tmp_path / "stopped", listen, resume=last > 2)
        monkeypatch.undo()
    compare(Comparison.load(tmp_path / "stopped"), tmp_path / "stopped", listen, resume=True)
    assert without_times(tmp_path / "stopped") == without_times(tmp_path / "whole")
    places = [Path(name).name for name in comparison.names()]
    assert list(dict.fromkeys(began)) == places


def planted(best: float) -> Any:
    """In place of training: an end that is lower the nearer lr is to the best one, but for SGD, which likes 1e-2."""

    def end(config: RunConfig, folder: Path, *arguments: Any, **named: Any) -> None:
        aim = 1e-2 if config.optimizer == "SGD" else best
        (one,) = seeds(config, [2.0, abs(math.log(config.lr / aim))])
        write(folder.parent / "drawn", [dataclasses.replace(one, config=config)])
        next((folder.parent / "drawn").iterdir()).rename(folder)

    return end


@pytest.mark.parametrize(
    ("best", "tried", "left"),
    [
        (1e-2, [1e-3, 1e-2, 1e-1], 3),
        (1.0, [1e-3, 1e-2, 1e-1, 1.0, 10.0], 1),
        (1e-5, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1], 0),
        (1e-9, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1], 0),
    ],
)
def test_a_grid_grows_for_all_methods_while_one_is_best_at_its_edge(
    tmp_path: Path, comparison: Comparison, monkeypatch: pytest.MonkeyPatch, best: float, tried: list[float], left: int
) -> None:
    monkeypatch.setattr(module, "train", planted(best))
    report = compare(dataclasses.replace(comparison, extend=3), tmp_path / "new")
    trials = [row for row in rows(tmp_path / "new") if row["kind"] == "trial"]
    for name in ("Adam", "SGD"):
        assert sorted(row["lr"] for row in trials if row["optimizer"] == name) == tried
    assert Comparison.load(tmp_path / "new").extend == left
    assert ("at the edge" in report.verdict) == (best == 1e-9)


def test_what_has_no_edge_cannot_be_extended(comparison: Comparison) -> None:
    for grid in ({}, {"lr": [1e-3, 1e-2]}, {"lr": ["a", "b", "c"]}):
        with pytest.raises(ValueError, match="three numbers or more"):
            dataclasses.replace(comparison, grid=grid, extend=1)


def test_a_trial_that_fails_is_a_row_and_no_end(
    tmp_path: Path, comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(config: RunConfig, *arguments: Any, **named: Any) -> Any:
        summary = train(config, *arguments, **named)
        if config.lr == 1e-2:
            (arguments[0] / "summary.json").unlink()
            raise RuntimeError("no basis\nbehind it")
        return summary

    monkeypatch.setattr(module, "train", fails)
    report = compare(comparison, tmp_path / "new")
    failed = [row for row in rows(tmp_path / "new") if row["status"] == "failed"]
    assert [(row["optimizer"], row["lr"], row["error"]) for row in failed] == [
        (name, 1e-2, "no basis") for name in ("Adam", "SGD")
    ]
    assert "2 of all diverged or failed" in report.verdict
    assert {row["lr"] for row in rows(tmp_path / "new") if row["kind"] == "run"} <= {1e-3, 1e-1}


def test_a_sweep_without_any_result_ends_in_words(
    tmp_path: Path, comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any, **named: Any) -> None:
        raise RuntimeError("no basis")

    monkeypatch.setattr(module, "train", fails)
    with pytest.raises(NothingLeftError, match="no trial came to its end; 6 of them: no basis"):
        compare(comparison, tmp_path / "new")
    assert [row["status"] for row in rows(tmp_path / "new")] == ["failed"] * 6


def test_a_damaged_note_of_a_failure_is_named(tmp_path: Path, comparison: Comparison) -> None:
    name, config = comparison.trials()[0]
    (tmp_path / name).mkdir(parents=True)
    config.save(tmp_path / name)
    (tmp_path / name / "failed.json").write_text(json.dumps([]))
    comparison.save(tmp_path)
    with pytest.raises(ValueError, match=r"failed\.json is damaged"):
        rows(tmp_path)
