"""Bytes to predict: a file, or the sources of Python's own standard library."""

from __future__ import annotations

import dataclasses
import sysconfig
from pathlib import Path

import torch
from torch import Tensor

from metrize.lab.data.streams import stream

_LIMIT = 4_000_000
_NOT_SOURCES = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
_EVALUATION_WINDOWS = 128


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """A text as bytes; each sample is a window and the same window one byte later.

    Args:
        train: ``[n]``, uint8, what batches are drawn from.
        rest: ``[m]``, uint8, the held-out end of the text.
        context: bytes of a window.
    """

    train: Tensor
    rest: Tensor
    context: int

    def batch(self, seed: int, step: int, size: int) -> tuple[Tensor, Tensor]:
        """The windows of one step at random places, a pure function of its arguments.

        Args:
            seed: the run's seed.
            step: counted from 0 over the whole run.
            size: windows of the batch.

        Returns:
            inputs and targets, each ``[size, context]``, int64.
        """
        places = len(self.train) - self.context
        return self._windows(self.train, torch.randint(places, (size,), generator=stream(seed, "windows", step)))

    @property
    def held_out(self) -> tuple[Tensor, Tensor]:
        """At most 128 windows spread evenly over the held-out part, without overlap: inputs and targets."""
        count = min(_EVALUATION_WINDOWS, (len(self.rest) - 1) // self.context)
        spacing = (len(self.rest) - 1) // count
        return self._windows(self.rest, torch.arange(count) * spacing)

    def _windows(self, text: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        windows = text[starts[:, None] + torch.arange(self.context + 1)].long()
        return windows[:, :-1], windows[:, 1:]


def load_text(file: Path | None, context: int) -> Text:
    """A file, or 4 MB of the standard library's ``.py`` sources (which differ between versions of Python).

    Args:
        file: any file; None reads the standard library.
        context: bytes of a window.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the text is too short for one window in its held-out tenth.
    """
    data = file.read_bytes() if file else _standard_library()
    cut = len(data) - len(data) // 10
    if len(data) - cut <= context:
        raise ValueError(f"{file} has {len(data)} bytes; windows of {context} need at least {10 * (context + 1)}")
    text = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return Text(text[:cut], text[cut:], context)


def _standard_library() -> bytes:
    root = Path(sysconfig.get_path("stdlib"))
    sources = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    text = bytearray()
    for source in sources:
        if _NOT_SOURCES.isdisjoint(source.parts) and len(text) < _LIMIT:
            text += (root / source).read_bytes()
    return bytes(text[:_LIMIT])
