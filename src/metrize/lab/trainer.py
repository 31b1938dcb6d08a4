"""One training run: a folder that says everything about it, and that it can go on from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from metrize.lab.config import RunConfig, differences
from metrize.lab.engine import Engine
from metrize.lab.events import Event
from metrize.lab.launch import train_together
from metrize.lab.run import Interrupted, train_here
from metrize.lab.summary import Summary

__all__ = ["Interrupted", "Summary", "train"]


def train(
    config: RunConfig,
    folder: Path,
    on_event: Callable[[Event], None] | None = None,
    resume: bool = False,
    stop: Callable[[], bool] | None = None,
) -> Summary:
    """Train one run and keep it in a folder: config, metrics, checkpoints, ``summary.json``, ``profiles.json``.

    A run that is resumed has the same losses and weights, bit for bit, as one that was never interrupted (on the same
    machine with the same number of threads and processes). On Ctrl-C or SIGTERM the current step is finished and saved;
    a second Ctrl-C does not wait. Where the config asks for several processes, a script that calls this keeps its own
    actions under ``if __name__ == "__main__":``.

    Args:
        config: the run.
        folder: where to keep it; made if missing.
        on_event: called with each event.
        resume: go on with the run in the folder.
        stop: asked after each step whether to stop there.

    Returns:
        the figures that are also in ``summary.json``.

    Raises:
        Interrupted: the run was asked to stop; it is saved.
        CheckpointError: the newest whole checkpoint is of another run or version, or none is whole; says the way on.
        ProcessError: one of several processes died; the run can go on from its last checkpoint.
        NotWrittenError: the disk is full; the run can go on from its last checkpoint.
        FileExistsError: the folder holds a run already, and ``resume`` is off.
        FileNotFoundError: ``resume`` is on, and the folder holds no run.
        ValueError: the resumed run has another config, or the config names something unknown.
    """
    _check_folder(config, folder, resume)
    if config.nproc is not None:
        return train_together(config, folder, on_event or _ignore, resume, stop)
    return train_here(config, folder, on_event or _ignore, resume, stop, Engine())


def _check_folder(config: RunConfig, folder: Path, resume: bool) -> None:
    held = (folder / "config.json").exists()
    if resume and not held:
        raise FileNotFoundError(f"{folder} holds no run (it has no config.json)")
    if resume:
        _check_same(config, RunConfig.load(folder))
    elif held:
        raise FileExistsError(f"{folder} holds a run; go on with 'metrize train --resume {folder}' or choose another")


def _check_same(config: RunConfig, saved: RunConfig) -> None:
    changed = differences(config.plain(), saved.plain())
    if changed:
        raise ValueError(f"a resumed run keeps its config, but these differ: {'; '.join(changed)}")


def _ignore(event: Event) -> None:
    pass
