"""Processes that run functions together, started once for many tests."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import tempfile
import traceback
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

_PATIENCE = 45.0  # seconds; far more than any job takes, far less than gloo would wait


class Pool:
    """So many processes in one gloo group.

    They are forked, so that none imports torch anew. Jobs are functions of a module and their arguments; every process
    runs the same job. One that fails takes the pool down, and the next job starts another.

    Args:
        size: number of processes.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._pipes: list[Connection] = []
        self._pids: list[Any] = []

    def run(self, job: Callable[..., Any], *args: Any) -> list[Any]:
        """What each process returns.

        Raises:
            AssertionError: with the traceback of the first process that failed.
        """
        if not self._pipes:
            self._start()
        for pipe in self._pipes:
            pipe.send((job, args))
        replies = [pipe.recv() if pipe.poll(_PATIENCE) else (False, "no answer") for pipe in self._pipes]
        failed = [(rank, text) for rank, (fine, text) in enumerate(replies) if not fine]
        if failed:
            self.stop()
            first = next((f for f in failed if "Connection" not in str(f[1])), failed[0])
            raise AssertionError(f"process {first[0]} of {self.size}: {first[1]}")
        return [value for _, value in replies]

    def stop(self) -> None:
        """End all processes."""
        for process in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            process.join()
        self._pipes, self._pids = [], []

    def _start(self) -> None:
        context = get_context("fork")
        folder = tempfile.mkdtemp()
        for rank in range(self.size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, self.size, folder), daemon=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # forking beside torch's idle threads is meant here
                process.start()
            self._pipes.append(ours)
            self._pids.append(process)


def _serve(pipe: Connection, rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=20),
    )
    while True:
        job, args = pipe.recv()
        try:
            pipe.send((True, job(*args)))
        except BaseException:  # torch's checkpoint exceptions are no `Exception`
            pipe.send((False, traceback.format_exc()))
