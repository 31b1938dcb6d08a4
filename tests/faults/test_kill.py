"""Killed at random moments, a run ends as if nothing had happened."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
import victims
from runs import assert_same_run, config_of

from metrize.lab.config import RunConfig

CHANGES = [{}, {"optimizer": "SOAP", "options": {"precondition_frequency": 3}}, {"space": "Stiefel()"}]


@pytest.fixture(autouse=True, scope="module")
def imports_are_done() -> None:
    """The process that forks the others starts with the first of them."""
    process = victims.CONTEXT.Process(target=int)
    process.start()
    process.join(60)


def assert_survives(config: RunConfig, folder: Path, kills: int, seed: int) -> None:
    """Kill runs of a config until that many kills are done; each is then as one that was never killed."""
    straight, chance, done = folder / "straight", random.Random(seed), 0
    begun = time.perf_counter()
    victims.finish(config, straight)
    seconds = time.perf_counter() - begun
    kill = victims.kill_at_random if config.nproc is None else victims.kill_one_of_several
    for attempt in range(5 * kills):
        run = folder / f"run-{attempt}"
        while kill(config, run, chance, seconds):
            done += 1
        assert_same_run(run, straight, config.steps)
        if done >= kills:
            return
    raise AssertionError(f"only {done} kills in {5 * kills} runs")


def test_a_run_survives_some_kills(tmp_path: Path) -> None:
    assert_survives(config_of(tmp_path), tmp_path, kills=3, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("changes", CHANGES, ids=["Adam", "SOAP", "Stiefel"])
def test_a_run_survives_fifty_kills(tmp_path: Path, changes: dict[str, object]) -> None:
    assert_survives(config_of(tmp_path, **changes), tmp_path, kills=50, seed=2)


@pytest.mark.slow
def test_two_processes_survive_some_kills(tmp_path: Path) -> None:
    assert_survives(config_of(tmp_path, nproc=2, optimizer="Muon", lr=1e-3), tmp_path, kills=3, seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("changes", CHANGES, ids=["Adam", "SOAP", "Stiefel"])
def test_two_processes_survive_fifty_kills(tmp_path: Path, changes: dict[str, object]) -> None:
    assert_survives(config_of(tmp_path, nproc=2, **changes), tmp_path, kills=50, seed=4)


@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_a_save_may_be_killed_at_each_of_its_steps(tmp_path: Path, stride: int) -> None:
    """One save after another dies one touch of the disk later, until a run gets through."""
    config = config_of(tmp_path, steps=4, checkpoint_every=1, eval_every=0)
    victims.finish(config, tmp_path / "straight")
    run = tmp_path / "run"
    for touch in range(1, 60, stride):
        process = victims.start(config, run, death=touch)
        process.join(60)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert touch > 10
    assert_same_run(run, tmp_path / "straight", 4)
