"""The example for FSDP2 trains, goes on bit for bit, and is refused what is not its own."""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import victims

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_fsdp2.py"
SMALL = ["--optimizer", "Muon", "--width", "16", "--layers", "1", "--context", "8", "--batch-size", "4"]
SMALL += ["--save-every", "2", "--log-every", "1"]


def words(tmp_path: Path, folder: str, *more: str) -> list[str]:
    text = tmp_path / "text"
    text.write_text("".join(f"{i} squared is {i * i}.\n" for i in range(400)))
    return [*SMALL, "--text", str(text), "--folder", str(tmp_path / folder), *more]


def member(rank: int, size: int, port: int, arguments: list[str]) -> None:
    """One process, as torchrun would start it."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    runpy.run_path(str(EXAMPLE))["main"](arguments)


def launch(size: int, arguments: list[str]) -> list[int | None]:
    """The exit codes of so many processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    crew = [victims.CONTEXT.Process(target=member, args=(rank, size, port, arguments)) for rank in range(size)]
    for process in crew:
        process.start()
    for process in crew:
        process.join(60)
    return [process.exitcode for process in crew]


def sums(folder: Path, step: int) -> dict[str, str]:
    """What the processes have written after a step."""
    header = json.loads(json.loads((folder / f"checkpoint-{step}" / "checkpoint.json").read_text())["header"])
    return {name: total for name, total in header["sums"].items() if name.endswith(".distcp")}


def test_it_goes_on_bit_for_bit_and_with_another_number_of_processes(tmp_path: Path) -> None:
    assert launch(2, words(tmp_path, "straight", "--steps", "6")) == [0, 0]
    for steps in ("3", "6"):
        assert launch(2, words(tmp_path, "paused", "--steps", steps)) == [0, 0]
    assert len(sums(tmp_path / "paused", 6)) == 2
    assert sums(tmp_path / "paused", 6) == sums(tmp_path / "straight", 6)
    assert sorted(path.name for path in (tmp_path / "paused").iterdir()) == ["checkpoint-4", "checkpoint-6"]
    assert launch(1, words(tmp_path, "paused", "--steps", "7")) == [0]
    assert launch(2, words(tmp_path, "paused", "--steps", "8", "--lr", "0.5")) == [1, 1]


@pytest.mark.slow
def test_torchrun_starts_it(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(EXAMPLE)]
    for steps in ("2", "4"):
        arguments = words(tmp_path, "run", "--steps", steps)
        done = subprocess.run([*torchrun, *arguments], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    assert "2 processes on cpu, from step 2" in done.stdout
    assert "step 4  loss" in done.stdout
