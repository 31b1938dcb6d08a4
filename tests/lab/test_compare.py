"""Methods times seeds: who runs, in which order, what is not run again, and what is said before the first step."""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from metrize.lab import compare as module
from metrize.lab.compare import check, compare, parse_method, parse_options
from metrize.lab.config import RunConfig
from metrize.lab.events import Began, Event, Stepped
from metrize.lab.runs import Comparison
from metrize.lab.tasks.classification import PAPER
from metrize.lab.trainer import Interrupted, train

GPT = {"width": 16, "layers": 1, "heads": 2, "context": 16}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    text = tmp_path_factory.mktemp("text") / "text"
    text.write_text("".join(f"{i} squared is {i * i}.\n" for i in range(400)))
    return RunConfig("text", lr=1e-2, model=GPT, steps=6, batch_size=4, eval_every=2, text_file=str(text))


@pytest.fixture
def comparison(setting: RunConfig) -> Comparison:
    return Comparison([parse_method(name, setting) for name in ("Adam", "SGD lr=0.1 momentum=0.5 on Stiefel()")], 2)


NAMES = [f"{name}-seed{seed}" for seed in (0, 1) for name in ("adam-lr-0.01", "sgd-momentum-0.5-on-stiefel-lr-0.1")]


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Adam", RunConfig()),
        ("Adam on Stiefel()", RunConfig(space="Stiefel()")),
        ("SGD momentum=0.5 on Stiefel()", RunConfig(optimizer="SGD", options={"momentum": 0.5}, space="Stiefel()")),
        ("SGD lr=0.1  nesterov=True", RunConfig(optimizer="SGD", lr=0.1, options={"nesterov": True})),
        (
            "Adam betas=(0.9, 0.99) second_moment=scalar on Stiefel(retraction='geodesic')",
            RunConfig(
                options={"betas": (0.9, 0.99), "second_moment": "scalar"}, space="Stiefel(retraction='geodesic')"
            ),
        ),
    ],
)
def test_a_sentence_is_a_configuration(sentence: str, expected: RunConfig) -> None:
    assert parse_method(sentence, RunConfig()) == expected


def test_the_paper_has_four_curves() -> None:
    methods = [parse_method(sentence, RunConfig()) for sentence in PAPER]
    assert [(m.optimizer, m.space, m.options.get("momentum")) for m in methods] == [
        ("Adam", None, None),
        ("Adam", "Stiefel()", None),
        ("SGD", "Stiefel()", None),
        ("SGD", "Stiefel()", 0.5),
    ]


@pytest.mark.parametrize("word", ["momentum", "=0.5", "0.5=momentum"])
def test_an_option_without_name_and_value_is_an_error(word: str) -> None:
    with pytest.raises(ValueError, match="name=value"):
        parse_options([word])


@pytest.mark.parametrize(("methods", "seeds"), [((), 1), (("Adam",), 0), (("Adam", "SGD", "Adam"), 1)])
def test_a_comparison_that_compares_nothing_is_an_error(methods: tuple[str, ...], seeds: int) -> None:
    with pytest.raises(ValueError, match="comparison"):
        Comparison([parse_method(sentence, RunConfig()) for sentence in methods], seeds)


def test_a_comparison_is_read_back_as_it_was_written(tmp_path: Path, comparison: Comparison) -> None:
    comparison.save(tmp_path)
    assert Comparison.load(tmp_path) == comparison


def test_every_method_runs_with_every_seed_and_seed_0_comes_first(tmp_path: Path, comparison: Comparison) -> None:
    began: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Began):
            began.append(event.folder.name)

    report = compare(comparison, tmp_path / "new", listen)
    assert began == NAMES
    summaries = [json.loads((tmp_path / "new" / name / "summary.json").read_text()) for name in NAMES]
    losses = [summary["final_eval_loss"] for summary in summaries]
    sgd = report.rows[1].stats["final_eval_loss"]
    assert sgd.values == (losses[1], losses[3])
    written = json.loads((tmp_path / "new" / "summary.json").read_text())["rows"][1]["final_eval_loss"]
    assert written == {"mean": statistics.fmean(sgd.known), "std": statistics.stdev(sgd.known)}
    assert report.page.is_file()


def test_a_resumed_comparison_finishes_what_was_begun_and_repeats_nothing(
    tmp_path: Path, comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[str, int]] = []
    began: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Began):
            began.append(event.folder.name)
        elif isinstance(event, Stepped):
            steps.append((began[-1], event.step))

    def stop_in_the_second(*args: object, **kwargs: object) -> object:
        return train(*args, **kwargs, stop=lambda: steps[-1] == (NAMES[1], 3))  # type: ignore[arg-type]

    monkeypatch.setattr(module, "train", stop_in_the_second)
    with pytest.raises(Interrupted):
        compare(comparison, tmp_path / "stopped", listen)
    monkeypatch.undo()
    stopped = compare(Comparison.load(tmp_path / "stopped"), tmp_path / "stopped", listen, resume=True)
    assert began == [NAMES[0], NAMES[1], NAMES[1], NAMES[2], NAMES[3]]
    assert steps == [(name, step) for name in NAMES for step in range(1, 7)]
    whole = compare(comparison, tmp_path / "whole")
    assert [row.stats["final_eval_loss"] for row in stopped.rows] == [r.stats["final_eval_loss"] for r in whole.rows]


@pytest.mark.parametrize("file", ["comparison.json", "config.json"])
def test_runs_are_never_overwritten(tmp_path: Path, comparison: Comparison, file: str) -> None:
    (tmp_path / file).write_text("{}")
    with pytest.raises(FileExistsError, match="--resume"):
        compare(comparison, tmp_path)
    assert (tmp_path / file).read_text() == "{}"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"optimizer": "Adma"}, ValueError),
        ({"task": "digit"}, ValueError),
        ({"space": "Ball()"}, ValueError),
        ({"lr": -1.0}, ValueError),
        ({"options": {"momentm": 0.5}}, TypeError),
        ({"model": {"layres": 1}}, TypeError),
        ({"text_file": "/nowhere"}, FileNotFoundError),
    ],
)
def test_what_is_misspelt_is_found_before_the_first_step(
    setting: RunConfig, change: dict[str, object], error: type[Exception]
) -> None:
    check([setting])
    with pytest.raises(error):
        check([setting, dataclasses.replace(setting, **change)])  # type: ignore[arg-type]


@pytest.mark.slow
def test_checking_leaves_the_arithmetic_of_the_worker_threads_to_the_trainer() -> None:
    # A thread keeps the arithmetic of the moment it started: subnormal numbers in one of them would slow a run down
    # several times. Only a fresh process has no threads yet.
    code = """if True:
        import torch
        from metrize.lab.compare import check
        from metrize.lab.config import RunConfig
        torch.set_num_threads(2)
        check([RunConfig(model={"layers": 1})])
        assert torch.get_num_threads() == 2
        flushes = torch.set_flush_denormal(True)
        print(int(flushes and (torch.full((1_000_000,), 1e-30) * 1e-10).count_nonzero()))
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "0"
