"""The processes of a run on this machine: begun together, told to stop together, and none outlives another."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import multiprocessing
import pickle
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event as Flag
from pathlib import Path
from typing import Any

import torch

from metrize.lab.config import RunConfig
from metrize.lab.events import Event
from metrize.lab.host import stop_requests
from metrize.lab.summary import Summary

GRACE = 10.0
"""Seconds that the other processes have to notice that one is dead, before they are ended."""
TIMEOUT = 300.0
"""Seconds after which a process that does not answer counts as dead."""
_PRELOAD = ["metrize.lab.launch", "metrize.lab.run", "metrize.lab.sharded", "torch._dynamo"]
_POLL = 0.1


class ProcessError(RuntimeError):
    """A process of the run died; names it."""


@dataclasses.dataclass(frozen=True)
class _Failure:
    rank: int
    at: float
    error: BaseException
    text: str


@dataclasses.dataclass(frozen=True)
class _Warned:
    text: str
    category: type[Warning]
    file: str
    line: int


def processes() -> Any:
    """Makes processes that need not import torch: one that has done so forks them all."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    return context


def train_together(
    config: RunConfig,
    folder: Path,
    emit: Callable[[Event], None],
    resume: bool,
    stop: Callable[[], bool] | None,
    timeout: float = TIMEOUT,
) -> Summary:
    """Train a run in ``config.nproc`` processes of this machine.

    Args:
        config: the run.
        folder: where it is kept.
        emit: called with each event.
        resume: go on with the run in the folder.
        stop: asked now and then whether to stop.
        timeout: seconds after which a process that does not answer counts as dead.

    Raises:
        Interrupted: the run was asked to stop; it is saved.
        ProcessError: a process died. The run can go on from its last checkpoint.
    """
    with tempfile.TemporaryDirectory() as meeting, stop_requests(stop) as stopping:
        crew = Crew(config.nproc or 1, config, folder, resume, Path(meeting, "store"), timeout)
        try:
            return crew.watch(emit, stopping)
        finally:
            crew.end()


class Crew:
    """The processes of a run, seen by the one that starts them.

    Args:
        size: how many.
        config: the run.
        arguments: what else `_work` wants to know.
    """

    def __init__(self, size: int, config: RunConfig, *arguments: Any) -> None:
        context = processes()
        self.stop: Flag = context.Event()
        self.summary: Summary | None = None
        self.failures: list[_Failure] = []
        self.warned: dict[Any, int] = {}  # what several processes warn of is shown once
        self.processes: list[BaseProcess] = []
        self.readers: list[Connection] = []
        threads = config.threads or max(1, torch.get_num_threads() // size)
        for rank in range(size):
            reader, writer = context.Pipe(duplex=False)
            told = (rank, size, config, *arguments, threads, self.stop, writer)
            process = context.Process(target=_work, args=told)
            process.start()
            writer.close()  # so that the reader sees an end when the process ends
            self.processes.append(process)
            self.readers.append(reader)

    def watch(self, emit: Callable[[Event], None], stopping: Callable[[], bool]) -> Summary:
        """Pass events on until all have ended, and say how they ended."""
        while any(process.is_alive() for process in self.processes) and not self._broken():
            connection.wait([*self._open(), *(p.sentinel for p in self.processes if p.is_alive())], _POLL)
            self._listen(emit)
            if stopping():
                self.stop.set()
        deadline = time.monotonic() + GRACE
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        self._listen(emit)
        return self._outcome()

    def end(self) -> None:
        """Leave no process behind."""
        for process in self.processes:
            process.kill()
            process.join()

    def _outcome(self) -> Summary:
        dead = [rank for rank, process in enumerate(self.processes) if (process.exitcode or 0) < 0]
        count = len(self.processes)
        if dead:  # whatever the others say is a consequence
            name = signal.Signals(-(self.processes[dead[0]].exitcode or 0)).name
            raise ProcessError(f"process {dead[0]} of {count} (counted from 0) was ended by {name}; resume the run")
        if self.failures:
            first = min(self.failures, key=lambda failure: failure.at)
            silent = [str(rank) for rank, process in enumerate(self.processes) if process.is_alive()]
            first.error.add_note(f"in process {first.rank} of {count} (counted from 0):\n{first.text}")
            if silent:
                words = f"no answer from process {', '.join(silent)} of {count} (counted from 0)"
                raise ProcessError(f"{words}, which was ended; resume the run") from first.error
            raise first.error
        if self.summary is None:
            raise ProcessError(f"the {count} processes ended without a result; resume the run")
        return self.summary

    def _broken(self) -> bool:
        return any(process.exitcode not in (None, 0) for process in self.processes)

    def _open(self) -> list[Connection]:
        return [reader for reader in self.readers if not reader.closed]

    def _listen(self, emit: Callable[[Event], None]) -> None:
        for reader in self._open():
            for message in _messages(reader):
                self._take(message, emit)

    def _take(self, message: Any, emit: Callable[[Event], None]) -> None:
        if isinstance(message, _Failure):
            self.failures.append(message)
        elif isinstance(message, Summary):
            self.summary = message
        elif isinstance(message, _Warned):
            warnings.warn_explicit(message.text, message.category, message.file, message.line, registry=self.warned)
        else:
            emit(message)


def _messages(reader: Connection) -> Iterator[Any]:
    """What has arrived; the last message of a process that was killed may be cut short."""
    try:
        while reader.poll():
            yield reader.recv()
    except (EOFError, OSError):
        reader.close()


def _work(
    rank: int,
    size: int,
    config: RunConfig,
    folder: Path,
    resume: bool,
    meeting: Path,
    timeout: float,
    threads: int,
    stop: Flag,
    writer: Connection,
) -> None:
    """The life of one process."""
    from metrize.lab.run import train_here
    from metrize.lab.sharded import Processes

    def emit(event: Event) -> None:
        if rank == 0:
            writer.send(event)

    def warn(text: Warning | str, category: type[Warning], file: str, line: int, *_: Any) -> None:
        writer.send(_Warned(str(text), category, file, line))

    warnings.showwarning = warn  # type: ignore[assignment]
    torch.set_num_threads(threads)
    try:
        with _joined(rank, size, meeting, timeout):
            summary = train_here(config, folder, emit, resume, stop.is_set, Processes())
    except Exception as error:
        writer.send(_Failure(rank, time.monotonic(), _portable(error), traceback.format_exc()))
        sys.exit(1)
    if rank == 0:
        writer.send(summary)


def _portable(error: Exception) -> Exception:
    """The error itself, or its words where it would not survive the way to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return ProcessError(f"{type(error).__name__}: {error}")
    return error


@contextlib.contextmanager
def _joined(rank: int, size: int, meeting: Path, timeout: float) -> Iterator[None]:
    """In a process group with the others."""
    import torch.distributed as dist

    limit = datetime.timedelta(seconds=timeout)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size, timeout=limit)
    yield
    dist.destroy_process_group()
