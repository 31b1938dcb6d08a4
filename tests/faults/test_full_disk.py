"""A full disk stops a run, says where, and costs no checkpoint."""

from __future__ import annotations

import os
import pickle
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import victims
from runs import assert_same_run, config_of

from metrize.cli import main
from metrize.lab import durable
from metrize.lab.config import RunConfig
from metrize.lab.durable import NotWrittenError, draft_of, replacing
from metrize.lab.events import Event, Stepped
from metrize.lab.trainer import train

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return config_of(tmp_path)


@pytest.fixture
def no_room_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Whatever is written to a file finds no space left on the device, the next time that it is made."""
    full: set[str] = set()
    make = durable._made_anew

    def made_anew(name: str, flags: int) -> int:
        if str(name) not in full:
            return make(name, flags)
        full.discard(str(name))
        return os.open(FULL, flags)

    monkeypatch.setattr(durable, "_made_anew", made_anew)
    return lambda file: full.add(str(file))


def kept(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("checkpoint-*")}


@needs_full
@pytest.mark.parametrize("step", [5, 15, 20])
def test_a_checkpoint_without_room_leaves_those_before_it(
    config: RunConfig, tmp_path: Path, no_room_for: Callable[[Path], None], step: int
) -> None:
    run = tmp_path / "run"

    def fill(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == step - 1:
            no_room_for(draft_of(run / f"checkpoint-{step}.pt"))

    words = rf"checkpoint-{step}.pt could not be written: No space left on device \(\d+ MB are free .*resume the run"
    with pytest.raises(NotWrittenError, match=words):
        train(config, run, fill)
    assert kept(run) == {f"checkpoint-{s}.pt" for s in (step - 10, step - 5) if s > 0}
    assert not (run / "summary.json").exists()
    train(config, run, resume=True)  # the draft is gone, and with it the full disk
    train(config, tmp_path / "straight")
    assert_same_run(run, tmp_path / "straight", 20)


@needs_full
def test_figures_without_room(config: RunConfig, tmp_path: Path, no_room_for: Callable[[Path], None]) -> None:
    run = tmp_path / "run"
    no_room_for(draft_of(run / "summary.json"))
    with pytest.raises(NotWrittenError, match=r"summary.json could not be written: No space left"):
        train(config, run)
    assert not (run / "summary.json").exists()
    train(config, run, resume=True)
    train(config, tmp_path / "straight")
    assert_same_run(run, tmp_path / "straight", 20)


@needs_full
def test_the_command_line_says_how_to_go_on(
    config: RunConfig, tmp_path: Path, no_room_for: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    no_room_for(draft_of(tmp_path / "run" / "checkpoint-5.pt"))
    model = [word for key, value in config.model.items() for word in ("--model", f"{key}={value}")]
    words = ["text", *model, "--steps=20", "--batch-size=4", "--checkpoint-every=5", f"--text-file={config.text_file}"]
    assert main(["train", *words, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert f"go on with: metrize train --resume {tmp_path / 'run'}" in error
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0


def limited(config: RunConfig, folder: Path, size: int, answer: Connection) -> None:
    """Train where no file may grow beyond a size, from step 7 on."""

    def listen(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 7:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    try:
        train(config, folder, listen)
    except NotWrittenError as error:
        answer.send(str(error))


@pytest.mark.parametrize(("size", "file"), [(200, "metrics.jsonl"), (4000, "checkpoint-10.pt")])
def test_a_write_cut_short_in_the_middle(config: RunConfig, tmp_path: Path, size: int, file: str) -> None:
    """Some bytes are written before the limit is met."""
    run, (receiver, sender) = tmp_path / "run", victims.CONTEXT.Pipe(duplex=False)
    process = victims.CONTEXT.Process(target=limited, args=(config, run, size, sender))
    process.start()
    process.join(60)
    assert receiver.poll()
    assert f"{file} could not be written: " in receiver.recv()
    assert kept(run) == {"checkpoint-5.pt"}
    train(config, run, resume=True)
    train(config, tmp_path / "straight")
    assert_same_run(run, tmp_path / "straight", 20)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), replacing(file) as stream:
        stream.write(b"ne" * (1 // 0))
    assert (file.read_bytes(), os.listdir(tmp_path)) == (b"old", ["file"])
    with replacing(file) as stream:
        stream.write(b"new")
    assert (file.read_bytes(), os.listdir(tmp_path)) == (b"new", ["file"])


def test_the_error_may_cross_processes(tmp_path: Path) -> None:
    error = NotWrittenError(tmp_path / "file", OSError(28, "No space left on device"))
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
