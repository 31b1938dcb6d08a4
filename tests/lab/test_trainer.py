"""A run's folder: what it says, and that the run can go on from it bit for bit."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import metrize
from metrize.lab import checkpoint, methods
from metrize.lab.config import RunConfig
from metrize.lab.events import Began, Evaluated, Event, Saved, Stepped
from metrize.lab.tasks import pick
from metrize.lab.trainer import Interrupted, Summary, train

GPT = {"width": 16, "layers": 1, "heads": 2, "context": 16}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    text = tmp_path_factory.mktemp("text") / "text"
    text.write_text("".join(f"{i} squared is {i * i}.\n" for i in range(400)))
    return RunConfig("text", lr=1e-2, model=GPT, steps=20, batch_size=4, eval_every=8, text_file=str(text))


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[tuple[Any, ...]]:
    """Everything measured but the time."""
    return [tuple(value for key, value in line.items() if key != "seconds") for line in metrics(folder)]


def weights(folder: Path, step: int = 20) -> dict[str, Tensor]:
    content = torch.load(folder / f"checkpoint-{step}.pt", weights_only=True)
    return dict(content["model"])


def stop_after(step: int, act: Callable[[], None]) -> Callable[[Event], None]:
    def listen(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == step:
            act()

    return listen


def interrupted(config: RunConfig, folder: Path, step: int) -> None:
    asked = threading.Event()
    with pytest.raises(Interrupted):
        train(config, folder, on_event=stop_after(step, asked.set), stop=asked.is_set)


@pytest.fixture(scope="module")
def straight(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 steps without a pause."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    train(config, folder)
    return folder


def assert_same_run(folder: Path, other: Path) -> None:
    assert losses(folder) == losses(other)
    expected = weights(other)
    assert weights(folder).keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in weights(folder).items())


def test_metrics_have_every_step_and_the_due_evaluations(straight: Path) -> None:
    lines = metrics(straight)
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 21))
    assert [line["step"] for line in lines if line["kind"] == "eval"] == [0, 8, 16, 20]
    assert not [line for line in lines if line["kind"] == "space"]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)


def test_the_model_learns(straight: Path) -> None:
    evaluations = [line["loss"] for line in metrics(straight) if line["kind"] == "eval"]
    assert evaluations[-1] < evaluations[0] - 0.5


def test_summary_agrees_with_the_metrics(config: RunConfig, straight: Path) -> None:
    summary = Summary(**json.loads((straight / "summary.json").read_text()))
    train_losses = [line["loss"] for line in metrics(straight) if line["kind"] == "train"]
    evaluations = [line for line in metrics(straight) if line["kind"] == "eval"]
    assert summary.final_train_loss == pytest.approx(sum(train_losses[-10:]) / 10)
    assert summary.final_eval_loss == evaluations[-1]["loss"]
    assert summary.figures == evaluations[-1]["figures"]
    assert summary.best_eval_loss == min(line["loss"] for line in evaluations)
    assert (summary.label, summary.seed, summary.steps, summary.diverged) == (config.label, 0, 20, False)
    assert summary.seconds == metrics(straight)[-1]["seconds"]


def test_summary_counts_numbers_bytes_and_time(config: RunConfig, straight: Path) -> None:
    summary = Summary(**json.loads((straight / "summary.json").read_text()))
    model, _ = methods.build(config)
    assert summary.parameters == sum(weight.numel() for weight in model.parameters())
    assert summary.parameter_bytes == 4 * summary.parameters
    assert summary.state_bytes_per_parameter == summary.state_bytes / summary.parameters
    assert 7.9 < summary.state_bytes_per_parameter < 9  # Adam: two float32 averages
    assert summary.ms_per_step is not None
    assert summary.optimizer_ms_per_step is not None
    assert 0 < summary.optimizer_ms_per_step < summary.ms_per_step
    assert summary.space_error is None


def test_events_tell_the_run(config: RunConfig, tmp_path: Path) -> None:
    events: list[Event] = []
    train(dataclasses.replace(config, steps=2, checkpoint_every=1), tmp_path / "run", on_event=events.append)
    kinds = [Began, Evaluated, Stepped, Saved, Stepped, Evaluated, Saved]
    assert [type(event) for event in events] == kinds


@pytest.mark.parametrize("step", [1, 8, 11, 20])
def test_an_interrupted_run_goes_on_bit_for_bit(config: RunConfig, straight: Path, tmp_path: Path, step: int) -> None:
    interrupted(config, tmp_path / "run", step)
    assert (tmp_path / "run" / f"checkpoint-{step}.pt").exists()
    assert not (tmp_path / "run" / "summary.json").exists()
    summary = train(RunConfig.load(tmp_path / "run"), tmp_path / "run", resume=True)
    assert summary.steps == 20
    assert_same_run(tmp_path / "run", straight)


def test_a_killed_run_forgets_what_no_checkpoint_knows(config: RunConfig, straight: Path, tmp_path: Path) -> None:
    """As after SIGKILL: metrics beyond the checkpoint, the last line cut short, a half-written checkpoint."""
    interrupted(config, tmp_path / "run", 7)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as stream:
        stream.write('{"kind": "train", "step": 8, "seconds": 9.0, "loss": 1.0}\n{"kind": "tra')
    (tmp_path / "run" / "checkpoint-9.pt.tmp").write_bytes(b"PK")
    train(config, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", straight)
    assert not list((tmp_path / "run").glob("*.tmp"))


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    config: RunConfig, straight: Path, tmp_path: Path
) -> None:
    interrupted(config, tmp_path / "run", 3)
    (tmp_path / "run" / "checkpoint-3.pt").unlink()
    train(config, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", straight)


def test_the_last_two_checkpoints_are_kept(config: RunConfig, tmp_path: Path) -> None:
    train(dataclasses.replace(config, checkpoint_every=3), tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} == {"checkpoint-18.pt", "checkpoint-20.pt"}


def test_saving_removes_the_checkpoints_of_an_abandoned_future(tmp_path: Path) -> None:
    for step in (5, 9, 7):
        checkpoint.save(tmp_path, step, {}, {"step": step})
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-5.pt", "checkpoint-7.pt"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_finish_the_step_and_save(config: RunConfig, tmp_path: Path, number: int) -> None:
    before = signal.getsignal(number)
    kill = stop_after(5, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted, match=r"step 5; go on with: metrize train --resume .*run") as caught:
        train(config, tmp_path / "run", on_event=kill)
    assert (caught.value.folder, caught.value.step) == (tmp_path / "run", 5)
    assert signal.getsignal(number) is before
    assert losses(tmp_path / "run")[-1][:2] == ("train", 5)


def test_a_second_ctrl_c_does_not_wait(config: RunConfig, tmp_path: Path) -> None:
    def twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", on_event=stop_after(5, twice))


def test_a_run_is_not_overwritten(config: RunConfig, straight: Path) -> None:
    before = losses(straight)
    with pytest.raises(FileExistsError, match="--resume"):
        train(config, straight)
    assert losses(straight) == before


def test_resuming_nothing_is_refused(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no run"):
        train(config, tmp_path, resume=True)


def test_resuming_with_another_config_names_the_field(config: RunConfig, straight: Path) -> None:
    with pytest.raises(ValueError, match=r"differ: lr: 0.01 -> 0.5$"):
        train(dataclasses.replace(config, lr=0.5), straight, resume=True)


def test_tuples_among_the_options_survive_a_resume(config: RunConfig, tmp_path: Path) -> None:
    betas = dataclasses.replace(config, options={"betas": (0.8, 0.9)}, steps=4)
    interrupted(betas, tmp_path / "run", 2)
    assert train(betas, tmp_path / "run", resume=True).steps == 4


def test_a_finished_run_resumes_to_the_same_summary(config: RunConfig, tmp_path: Path) -> None:
    first = train(config, tmp_path / "run")
    assert train(config, tmp_path / "run", resume=True) == first


def test_divergence_ends_the_run_and_is_said(config: RunConfig, tmp_path: Path) -> None:
    wild = dataclasses.replace(config, optimizer="SGD", lr=1e30, options={"skip_nonfinite": False})
    summary = train(wild, tmp_path / "run")
    assert summary.diverged
    assert summary.steps < 20
    assert summary.final_eval_loss is None
    assert summary.figures == {}
    assert summary.best_eval_loss == pytest.approx(losses(tmp_path / "run")[0][2])
    assert not list((tmp_path / "run").glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "Adm"}, r"unknown optimizer 'Adm' \(did you mean 'Adam'\?\); known: .*SGD"),
        (
            {"task": "digit"},
            r"unknown task 'digit' \(did you mean 'digits'\?\); known: digits, mnist, sequence, subspace, text, wave",
        ),
        ({"task": "mnist", "model": {"layers": 1}}, "--data-root"),
    ],
)
def test_a_config_that_cannot_run_claims_no_folder(
    config: RunConfig, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(dataclasses.replace(config, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_name_is_found_whatever_its_case() -> None:
    with pytest.raises(ValueError, match="did you mean 'AdamW'"):
        pick("optimizer", "adamw", {"AdamW": 1, "SGD": 2})


@pytest.mark.parametrize(
    ("task", "model", "blocks"), [("digits", {"layers": 2}, 21), ("text", {**GPT, "layers": 2}, 6)]
)
def test_the_space_is_put_on_every_matrix_of_every_head(
    config: RunConfig, task: str, model: dict[str, Any], blocks: int
) -> None:
    built, _ = methods.build(dataclasses.replace(config, task=task, model=model, space="Stiefel()"))
    assert list(metrize.spaces_of(built).values()) == 2 * [metrize.Stiefel(blocks=blocks)]
    for module, *_ in built.constrained():
        for matrix in module.weight.detach().chunk(blocks):
            torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix)), rtol=0, atol=1e-5)


def test_a_constrained_run_is_checked_and_goes_on_bit_for_bit(config: RunConfig, tmp_path: Path) -> None:
    constrained = dataclasses.replace(config, space="Stiefel()")
    summary = train(constrained, tmp_path / "straight")
    interrupted(constrained, tmp_path / "paused", 11)
    train(constrained, tmp_path / "paused", resume=True)
    assert_same_run(tmp_path / "paused", tmp_path / "straight")
    checks = [line for line in metrics(tmp_path / "straight") if line["kind"] == "space"]
    assert [line["step"] for line in checks] == [0, 8, 16, 20]
    assert summary.space_error == checks[-1]["error"] < 1e-4


def test_the_global_generator_is_left_alone(config: RunConfig, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train(dataclasses.replace(config, steps=2), tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)


def test_torch_keeps_its_threads_and_arithmetic(config: RunConfig, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    seen: list[tuple[int, float]] = []

    def look() -> None:
        seen.append((torch.get_num_threads(), tiny()))

    train(dataclasses.replace(config, steps=1, threads=1), tmp_path / "run", on_event=stop_after(1, look))
    assert seen == [(1, 0.0)]
    assert torch.get_num_threads() == before
    assert tiny() > 0


def tiny() -> float:
    """A product below the normal numbers of float32, read without arithmetic."""
    return (torch.tensor([1e-30]) * torch.tensor([1e-10])).view(torch.int32).item()
