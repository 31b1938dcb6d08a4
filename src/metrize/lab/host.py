"""What a run asks of the process that it is in: its arithmetic, and to be told of signals."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import torch
from torch import nn


@contextlib.contextmanager
def numerics(threads: int | None) -> Iterator[None]:
    """Torch's threads and arithmetic during the run."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    # The gradients of the unconstrained 16-block transformer fall below 1e-38, where the processor computes several
    # times slower; flushed to zero, a step takes the time of any other method's. It must be set before torch starts
    # its threads, which inherit it.
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)


def autocast(dtype: str | None, model: nn.Module) -> contextlib.AbstractContextManager[object]:
    """The arithmetic of a loss: ``bf16`` under torch's autocast of the model's device; None as the weights are."""
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(next(model.parameters()).device.type, dtype=torch.bfloat16)


@contextlib.contextmanager
def stop_requests(stop: Callable[[], bool] | None) -> Iterator[Callable[[], bool]]:
    """Answers whether the caller or a signal asked to stop; Ctrl-C and SIGTERM are noted instead of obeyed."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    # Python delivers signals to the main thread only, and lets only it install handlers
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM) if main}
    try:
        yield lambda: bool(received) or (stop is not None and stop())
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
