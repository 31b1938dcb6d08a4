"""Several processes train one run: as one would, until one of them fails, and again after that."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import victims
from runs import assert_same_run, config_of, digest, measured

from metrize.lab import checkpoint, launch
from metrize.lab.checkpoint import CheckpointError
from metrize.lab.config import RunConfig
from metrize.lab.durable import NotWrittenError
from metrize.lab.events import Event, Saved, Stepped
from metrize.lab.launch import ProcessError, train_together
from metrize.lab.methods import space_of
from metrize.lab.runs import read_runs
from metrize.lab.trainer import Interrupted, train


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return config_of(tmp_path_factory.mktemp("text"), nproc=2)


@pytest.fixture(scope="module")
def straight(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "run"
    train(config, folder)
    return folder


@pytest.fixture(scope="module")
def stopped(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of step 5 and of about step 8."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    stop_after(8, config, folder)
    return folder


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it to be spoilt."""
    shutil.copytree(stopped, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def crews(monkeypatch: pytest.MonkeyPatch) -> list[launch.Crew]:
    """The processes of every run that is started."""
    seen: list[launch.Crew] = []
    crew = launch.Crew

    def watched(*arguments: Any) -> launch.Crew:
        seen.append(crew(*arguments))
        return seen[-1]

    monkeypatch.setattr(launch, "Crew", watched)
    return seen


def stop_after(step: int, config: RunConfig, folder: Path) -> None:
    asked = threading.Event()
    with pytest.raises(Interrupted):
        train(config, folder, at(step, asked.set), stop=asked.is_set)


def at(step: int, act: Callable[[], object]) -> Callable[[Event], None]:
    def listen(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == step:
            act()

    return listen


def newest(folder: Path) -> Path:
    return max(folder.glob("checkpoint-*"), key=lambda path: int(path.stem.partition("-")[2]))


def differences(folder: Path, other: Path) -> list[float]:
    pairs = zip(measured(folder), measured(other), strict=True)
    return [abs(one["loss"] - two["loss"]) for one, two in pairs if "loss" in one]


def test_two_processes_train_what_one_does(config: RunConfig, straight: Path, tmp_path: Path) -> None:
    train(dataclasses.replace(config, nproc=None), tmp_path / "run")
    assert max(differences(straight, tmp_path / "run")) < 1e-5
    two, one = (read_runs(folder)[0].summary for folder in (straight, tmp_path / "run"))
    assert (two.steps, two.parameters, two.parameter_bytes) == (one.steps, one.parameters, one.parameter_bytes)
    assert two.state_bytes == pytest.approx(one.state_bytes, rel=0.01)  # counts of steps are with both


TASKS = {"digits": {"layers": 1}, "sequence": {"hidden": 8, "by": "row"}, "subspace": {}, "wave": {"cells": 16}}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_can_be_shared(task: str, tmp_path: Path) -> None:
    space, model = space_of(task, None), TASKS[task]
    config = RunConfig(task, space=space, model=model, steps=2, batch_size=8, eval_every=1, nproc=2)
    train(config, tmp_path / "two")
    train(dataclasses.replace(config, nproc=None), tmp_path / "one")
    assert max(differences(tmp_path / "two", tmp_path / "one")) < 1e-4


def test_a_stopped_run_goes_on_bit_for_bit(config: RunConfig, straight: Path, run: Path) -> None:
    train(config, run, resume=True)
    assert_same_run(run, straight, 20)


@pytest.mark.parametrize(
    ("before", "after"), [(2, 1), (None, 2), *(pytest.param(2, after, marks=pytest.mark.slow) for after in (None, 4))]
)
def test_a_run_may_go_on_with_more_or_fewer(
    config: RunConfig, straight: Path, tmp_path: Path, before: int | None, after: int | None
) -> None:
    stop_after(8, dataclasses.replace(config, nproc=before), tmp_path / "run")
    train(dataclasses.replace(config, nproc=after), tmp_path / "run", resume=True)
    assert max(differences(tmp_path / "run", straight)) < 1e-5
    assert RunConfig.load(tmp_path / "run").nproc == after


def test_ctrl_c_stops_all(config: RunConfig, tmp_path: Path, crews: list[launch.Crew]) -> None:
    with pytest.raises(Interrupted, match=r"stopped and saved after step \d+; go on with: metrize train --resume"):
        train(config, tmp_path / "run", at(3, lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert newest(tmp_path / "run").is_dir()
    assert not any(process.is_alive() for process in crews[0].processes)


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_dead_process_ends_the_run_at_once_and_is_named(
    config: RunConfig, straight: Path, tmp_path: Path, crews: list[launch.Crew], rank: int
) -> None:
    begun: list[float] = []

    def kill() -> None:
        begun.append(time.monotonic())
        crews[0].processes[rank].kill()

    with pytest.raises(ProcessError, match=rf"process {rank} of 2 .* was ended by SIGKILL; resume the run"):
        train(config, tmp_path / "run", at(7, kill))
    assert time.monotonic() - begun[0] < launch.GRACE + 5
    assert not any(process.is_alive() for process in crews[0].processes)
    train(config, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", straight, 20)


@pytest.mark.slow
def test_a_process_that_hangs_is_given_up(
    config: RunConfig, tmp_path: Path, crews: list[launch.Crew], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang() -> None:
        os.kill(crews[0].processes[1].pid or 0, signal.SIGSTOP)

    monkeypatch.setattr(launch, "GRACE", 0.5)
    with pytest.raises(ProcessError, match=r"no answer from process 1 of 2 .* which was ended; resume the run"):
        train_together(config, tmp_path / "run", at(7, hang), resume=False, stop=None, timeout=4.0)
    assert not any(process.is_alive() for process in crews[0].processes)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [("ArithmeticError", ArithmeticError, "^bad luck"), ("FrameError", ProcessError, "^FrameError: bad luck")],
)
def test_an_error_in_one_process_is_the_run_s(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str, kind: type[Exception], words: str
) -> None:
    monkeypatch.setattr(launch, "_work", functools.partial(victims.broken, 1, 3, error))
    with pytest.raises(kind, match=words) as caught:
        train(config, tmp_path / "run")
    assert "in process 1 of 2" in caught.value.__notes__[0]
    assert [line["step"] for line in measured(tmp_path / "run") if line["kind"] == "train"] == [1, 2]


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")
def test_the_processes_do_not_outlive_their_parent(config: RunConfig, tmp_path: Path) -> None:
    long, folder = dataclasses.replace(config, steps=100_000), tmp_path / "run"
    parent = victims.CONTEXT.Process(target=victims.noted_run, args=(long, folder))
    parent.start()
    wait_until(lambda: (folder / "metrics.jsonl").exists() and len(measured(folder)) > 3)
    parent.kill()
    states = [Path("/proc", (tmp_path / f"process-{rank}").read_text(), "stat") for rank in (0, 1)]
    wait_until(lambda: all(not state.exists() or ") Z " in state.read_text() for state in states))


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 40
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_full_disk_of_one_process_stops_all(
    config: RunConfig, straight: Path, tmp_path: Path, crews: list[launch.Crew], rank: int
) -> None:
    def fill(event: Event) -> None:
        if isinstance(event, Saved):
            resource.prlimit(crews[0].processes[rank].pid or 0, resource.RLIMIT_FSIZE, (3000, 3000))

    with pytest.raises(NotWrittenError, match=r"checkpoint-10 could not be written: .*resume the run"):
        train(config, tmp_path / "run", fill)
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-5"]
    train(config, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", straight, 20)


@pytest.mark.parametrize(
    ("file", "spoil", "reason"),
    [
        ("__1_0.distcp", lambda data: data[:100], "wrong SHA-256 of __1_0.distcp"),
        ("__0_0.distcp", lambda data: data[:900] + bytes([data[900] ^ 1]) + data[901:], "wrong SHA-256 of __0_0"),
        (".metadata", lambda data: b"", "wrong SHA-256 of .metadata"),
        ("__0_0.distcp", None, "__0_0.distcp is missing"),
        ("checkpoint.json", None, "checkpoint.json: No such file"),
        ("checkpoint.json", lambda data: data[:200], "checkpoint.json: "),
        ("checkpoint.json", lambda data: data.replace(b"step", b"stop"), "wrong SHA-256 of checkpoint.json"),
    ],
)
def test_a_damaged_folder_is_named_and_the_one_before_it_taken(
    config: RunConfig, run: Path, file: str, spoil: Callable[[bytes], bytes] | None, reason: str
) -> None:
    spoilt = newest(run)
    if spoil:
        (spoilt / file).write_bytes(spoil((spoilt / file).read_bytes()))
    else:
        (spoilt / file).unlink()
    with pytest.warns(UserWarning, match=rf"{spoilt} is damaged \({reason}.*; trying the one before it, checkpoint-5"):
        found = checkpoint.newest(run, config.plain())
    assert found is not None
    assert (found[0].name, found[1]["step"]) == ("checkpoint-5", 5)


def test_processes_go_on_from_the_folder_before_a_damaged_one(config: RunConfig, straight: Path, run: Path) -> None:
    spoilt = newest(run)
    (spoilt / "__1_0.distcp").write_bytes(b"")
    with pytest.warns(UserWarning, match=f"{spoilt} is damaged"):
        train(config, run, resume=True)
    assert_same_run(run, straight, 20)


def test_a_folder_of_another_run_is_refused_by_all(config: RunConfig, run: Path) -> None:
    file = newest(run) / "checkpoint.json"
    header = json.loads(json.loads(file.read_text())["header"])
    text = json.dumps({**header, "config": {**header["config"], "lr": 0.5}})
    file.write_text(json.dumps({"sum": checkpoint._sum(text), "header": text}))
    words = rf"{newest(run)} is of another run \(lr: 0.5 -> 0.01\); remove it to go on from checkpoint-5"
    with pytest.raises(CheckpointError, match=words):
        train(config, run, resume=True)


def test_an_infinite_gradient_on_either_process_skips_the_step_on_both(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in (0, 1):
        monkeypatch.setattr(launch, "_work", functools.partial(victims.poisoned, rank, 4))
        with pytest.warns(RuntimeWarning, match=r"(embedding.weight|another process)' is not finite: step sk"):
            summary = train(config, tmp_path / str(rank))
        assert (summary.skipped_steps, summary.steps) == (1, 20)
    assert_same_run(tmp_path / "0", tmp_path / "1", 20)


def test_a_skipped_step_touches_nothing(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = dataclasses.replace(config, steps=5, checkpoint_every=4, eval_every=0)
    train(short, tmp_path / "sound")
    monkeypatch.setattr(launch, "_work", functools.partial(victims.poisoned, 1, 5))
    with pytest.warns(RuntimeWarning, match="is not finite: step skipped"):
        train(short, tmp_path / "spoilt")
    assert digest(tmp_path / "spoilt", 5) == digest(tmp_path / "spoilt", 4) == digest(tmp_path / "sound", 4)


def test_a_batch_must_be_shared_evenly() -> None:
    with pytest.raises(ValueError, match="3 processes cannot share a batch of 128 samples evenly"):
        RunConfig(nproc=3)
