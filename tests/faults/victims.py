"""Processes that train a run and do not live to see its end; one that has imported torch forks them all."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from metrize.lab.config import RunConfig
from metrize.lab.trainer import train

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["metrize.lab.trainer", "torch._dynamo"])
# every way in which a run touches its folder
_TOUCHES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.scandir", "os.listdir")


def start(config: RunConfig, folder: Path, death: int | None = None) -> BaseProcess:
    """Begin or go on with a run in a process of its own.

    Args:
        config: the run.
        folder: where it is kept.
        death: the process kills itself right before it touches its folder for the time of this number.
    """
    process = CONTEXT.Process(target=_live, args=(config, folder, death))
    process.start()
    return process


def kill_at_random(config: RunConfig, folder: Path, chance: random.Random, seconds: float) -> bool:
    """One life of a run, which ends at a random instant, or at a random touch of its folder; False if it was done first.

    Args:
        config: the run.
        folder: where it is kept.
        chance: decides when.
        seconds: that a whole run takes.
    """
    if chance.random() < 0.5:
        process = start(config, folder, death=chance.randrange(1, 50))
    else:
        process = start(config, folder)
        time.sleep(chance.uniform(0, seconds))
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL), "the run broke"
    return process.exitcode != 0


def _live(config: RunConfig, folder: Path, death: int | None) -> None:
    if death is not None:
        _die_at(folder, death)
    train(config, folder, resume=(folder / "config.json").exists())


def _die_at(folder: Path, touch: int) -> None:
    seen = 0

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in _TOUCHES and str(arguments[0]).startswith(str(folder)):
            seen += 1
            if seen == touch:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)
