"""Checkpoints that are not what they were: damaged ones are passed over, others refused, each by name."""

from __future__ import annotations

import dataclasses
import random
import shutil
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import assert_same_run, config_of, digest

from metrize.lab import checkpoint
from metrize.lab.checkpoint import CheckpointError
from metrize.lab.config import RunConfig
from metrize.lab.events import Began, Event, Stepped
from metrize.lab.trainer import Interrupted, train


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return config_of(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def straight(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "run"
    train(config, folder)
    return folder


@pytest.fixture(scope="module")
def stopped(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of steps 10 and 13."""
    folder, asked = tmp_path_factory.mktemp("stopped") / "run", threading.Event()

    def listen(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 13:
            asked.set()

    with pytest.raises(Interrupted):
        train(config, folder, listen, stop=asked.is_set)
    return folder


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it to be spoilt."""
    shutil.copytree(stopped, tmp_path / "run")
    return tmp_path / "run"


def resume(config: RunConfig, folder: Path) -> int:
    """Finish a run; the step that it went on from."""
    began: list[Event] = []
    train(config, folder, began.append, resume=True)
    return next(event.first_step for event in began if isinstance(event, Began))


def cut(size: int) -> Callable[[bytes], bytes]:
    return lambda whole: whole[:size] if size >= 0 else whole[: len(whole) + size]


def flipped(place: float) -> Callable[[bytes], bytes]:
    """One bit of a tensor is another."""

    def flip(whole: bytes) -> bytes:
        spoilt = bytearray(whole)
        spoilt[int(place * len(whole))] ^= 4
        return bytes(spoilt)

    return flip


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (cut(0), "not a zip file"),
        (cut(1), "not a zip file"),
        (cut(5000), "not a zip file"),
        (cut(-1), ""),
        (cut(-4096), "not a zip file"),
        (flipped(0.5), "wrong CRC-32 of archive/data/"),
        (lambda whole: bytes(len(whole)), "not a zip file"),  # as a file system may leave it after a power cut
        (lambda whole: b"no checkpoint at all", "not a zip file"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    config: RunConfig, straight: Path, run: Path, spoil: Callable[[bytes], bytes], reason: str
) -> None:
    newest = run / "checkpoint-13.pt"
    newest.write_bytes(spoil(newest.read_bytes()))
    with pytest.warns(UserWarning, match=rf"{newest} is damaged \(.*{reason}.*; trying the .*checkpoint-10.pt"):
        assert resume(config, run) == 10
    assert_same_run(run, straight, 20)
    assert not newest.exists()


def test_no_flipped_byte_is_taken_for_data(config: RunConfig, run: Path) -> None:
    """Wherever a byte is wrong, the checkpoint is refused or has the content it had."""
    file, chance = run / "checkpoint-13.pt", random.Random(0)
    whole, plain, seen = file.read_bytes(), config.plain(), set()
    before = digest(run, 13)
    for place in chance.sample(range(len(whole)), 200):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << chance.randrange(8))]) + whole[place + 1 :])
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            try:
                found = checkpoint.newest(run, plain)
            except CheckpointError:
                seen.add("refused")
                continue
        assert found is not None
        step = found[1]["step"]
        seen.add(step)
        assert step == 10 or digest(run, 13) == before
    assert {10, 13} <= seen  # some bytes are padding


def test_all_checkpoints_damaged_is_an_error_and_no_new_start(config: RunConfig, run: Path) -> None:
    for step in (10, 13):
        (run / f"checkpoint-{step}.pt").write_bytes(b"PK")
    before = (run / "metrics.jsonl").read_bytes()
    with (
        pytest.warns(UserWarning, match=r"checkpoint-13.pt is damaged"),
        pytest.raises(CheckpointError, match=r"checkpoint-10.pt is damaged .*no older one; remove it to start the run"),
    ):
        train(config, run, resume=True)
    assert (run / "metrics.jsonl").read_bytes() == before


def written(**changes: Any) -> Callable[[Path], None]:
    """Writes a checkpoint with another header."""

    def write(file: Path) -> None:
        content = torch.load(file, weights_only=True)
        torch.save({**content, "header": {**content["header"], **changes}}, file)

    return write


def of_another_run(file: Path) -> None:
    config = torch.load(file, weights_only=True)["header"]["config"]
    written(config={**config, "lr": 0.5, "seed": 3})(file)


@pytest.mark.parametrize(
    ("replace", "reason"),
    [
        (written(format=3), "has format 3, and this version reads format 2"),
        (of_another_run, "is of another run .lr: 0.5 -> 0.01; seed: 3 -> 0."),
        (lambda file: torch.save({"model": torch.ones(3)}, file), "is no checkpoint of a run of metrize"),
        (lambda file: torch.save(torch.ones(3), file), "is no checkpoint of a run of metrize"),
        (lambda file: torch.save({"header": print}, file), "is no checkpoint of a run of metrize .*Weights only load"),
    ],
)
def test_a_foreign_checkpoint_is_refused_by_name_and_the_older_one_offered(
    config: RunConfig, straight: Path, run: Path, replace: Callable[[Path], object], reason: str
) -> None:
    newest = run / "checkpoint-13.pt"
    replace(newest)
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=f"{newest} {reason}.*remove it to go on from checkpoint-10.pt"):
        train(config, run, resume=True)
    assert (run / "metrics.jsonl").read_bytes() == before
    checkpoint.remove(newest)
    assert resume(config, run) == 10
    assert_same_run(run, straight, 20)


def test_the_only_checkpoint_refused_offers_a_new_start(config: RunConfig, run: Path) -> None:
    (run / "checkpoint-10.pt").unlink()
    written(format=1)(run / "checkpoint-13.pt")
    with pytest.raises(CheckpointError, match=r"format 1.*remove it to start the run again"):
        train(config, run, resume=True)


def test_what_an_interrupted_save_left_is_no_checkpoint(config: RunConfig, straight: Path, run: Path) -> None:
    (run / "checkpoint-14.pt.tmp").write_bytes((run / "checkpoint-13.pt").read_bytes()[:3000])
    assert resume(config, run) == 13
    assert_same_run(run, straight, 20)


def test_what_an_interrupted_removal_left_is_removed(tmp_path: Path) -> None:
    for name in ("checkpoint-5", "checkpoint-5.old.tmp", "checkpoint-7.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    checkpoint.remove(tmp_path / "checkpoint-5")
    checkpoint.save(tmp_path, 8, {}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-8.pt"]


def test_a_folder_that_is_being_removed_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoint-5").mkdir()
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # it never gets to its end
    checkpoint.remove(tmp_path / "checkpoint-5")
    assert checkpoint.newest(tmp_path, {}) is None


def test_a_checkpoint_moved_with_its_run_is_taken(config: RunConfig, straight: Path, run: Path) -> None:
    assert resume(config, run.rename(run.with_name("elsewhere"))) == 13


def test_another_number_of_processes_is_the_same_run(config: RunConfig) -> None:
    assert dataclasses.replace(config, nproc=2).plain() == config.plain()
