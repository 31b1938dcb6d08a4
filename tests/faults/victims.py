"""Processes that train a run and do not live to see its end; one that has imported torch forks them all."""

from __future__ import annotations

import functools
import itertools
import os
import random
import signal
import sys
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from metrize.frames import FrameError
from metrize.lab import launch
from metrize.lab.config import RunConfig
from metrize.lab.sharded import Processes
from metrize.lab.trainer import train

CONTEXT = launch.processes()
# every way in which a run touches its folder
_TOUCHES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.scandir", "os.listdir")


def start(config: RunConfig, folder: Path, death: int | None = None) -> BaseProcess:
    """Begin or go on with a run in a process of its own.

    Args:
        config: the run.
        folder: where it is kept.
        death: the process kills itself right before it touches its folder for the time of this number.
    """
    process: BaseProcess = CONTEXT.Process(target=_live, args=(config, folder, death))
    process.start()
    return process


def finish(config: RunConfig, folder: Path) -> None:
    """A whole run, in as many processes of its own as it wants."""
    if config.nproc is None:
        start(config, folder).join(60)
    else:
        _live(config, folder)


def kill_at_random(config: RunConfig, folder: Path, chance: random.Random, seconds: float) -> bool:
    """One life of a run, ended at a random instant or a random touch of its folder; False if it was done first.

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


def kill_one_of_several(config: RunConfig, folder: Path, chance: random.Random, seconds: float) -> bool:
    """The same for a run of several processes, of which one is killed."""
    rank = chance.randrange(config.nproc or 1)
    at_touch = chance.random() < 0.5
    touch, wait = chance.randrange(1, 30), chance.uniform(0, seconds)
    with pytest.MonkeyPatch.context() as patch:
        if at_touch:
            patch.setattr(launch, "_work", functools.partial(doomed, rank, touch))
        else:
            patch.setattr(launch, "Crew", functools.partial(_attacked, launch.Crew, rank, wait))
        try:
            _live(config, folder)
        except launch.ProcessError as error:
            return f"process {rank} of {config.nproc} (counted from 0) was ended by SIGKILL" in str(error)
    return False


def doomed(rank: int, touch: int, *arguments: Any) -> None:
    """The life of one process of several; that of this rank ends when it touches the run's folder for this time."""
    if arguments[0] == rank:
        _die_at(arguments[3], touch)
    _WORK(*arguments)


def broken(rank: int, step: int, error: str, *arguments: Any) -> None:
    """The life of one process of several; that of this rank meets an error of its own in a step."""
    batches = itertools.count(1)

    def share(self: Processes, samples: Tensor) -> Tensor:
        if self.rank == rank and next(batches) == 2 * step:  # inputs and targets
            raise FrameError("bad luck", 0) if error == "FrameError" else ArithmeticError("bad luck")
        return samples.chunk(self.size)[self.rank]

    Processes.part = share  # type: ignore[method-assign]
    _WORK(*arguments)


def poisoned(rank: int, step: int, *arguments: Any) -> None:
    """The life of one process of several; the part of the gradient that this rank has is infinite in a step."""
    build, models, sums = Processes.build, [], itertools.count(1)

    def remembered(self: Processes, config: RunConfig) -> Any:
        built = build(self, config)
        models.append(built[0])
        return built

    def poison(self: Processes, value: float) -> float:
        if next(sums) == step and self.rank == rank:
            next(models[0].parameters()).grad.to_local().view(-1)[0] = torch.inf
        return total(self, value)

    total = Processes.sum
    Processes.build, Processes.sum = remembered, poison  # type: ignore[method-assign]
    _WORK(*arguments)


def noted(*arguments: Any) -> None:
    """The life of one process of several, which leaves its number in the folder of the run."""
    arguments[3].with_name(f"process-{arguments[0]}").write_text(str(os.getpid()))
    _WORK(*arguments)


def noted_run(config: RunConfig, folder: Path) -> None:
    """A run of several processes that leave their numbers."""
    launch._work = noted
    train(config, folder)


_WORK = launch._work


def _attacked(crew: type[launch.Crew], rank: int, seconds: float, *arguments: Any) -> launch.Crew:
    started = crew(*arguments)
    attack = threading.Timer(seconds, started.processes[rank].kill)
    attack.daemon = True
    attack.start()
    return started


def _live(config: RunConfig, folder: Path, death: int | None = None) -> None:
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
