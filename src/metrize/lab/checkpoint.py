"""Checkpoints of a run: written whole or not at all, the last two kept."""

from __future__ import annotations

import os
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch

_KEPT = 2
_NAME = re.compile(r"checkpoint-(\d+)\.pt")
_TORN = (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError)


def save(folder: Path, step: int, content: dict[str, Any]) -> Path:
    """Write ``checkpoint-<step>.pt`` and remove all but this one and the one before.

    Args:
        folder: the run.
        step: steps done.
        content: tensors, numbers, strings, and lists, tuples and dicts of them.

    Returns:
        the file.
    """
    file = folder / f"checkpoint-{step}.pt"
    draft = file.with_suffix(".tmp")
    with draft.open("wb") as stream:
        torch.save(content, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(draft, file)
    _sync_names(folder)
    _prune(folder, step)
    return file


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The content of the newest checkpoint that is whole; None if there is none.

    Args:
        folder: the run.

    Warns:
        UserWarning: a newer checkpoint is damaged and was passed over; names it.
    """
    for file in _checkpoints(folder):
        try:
            content: dict[str, Any] = torch.load(file, weights_only=True)
            return content
        except _TORN as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            warnings.warn(f"{file} is damaged ({reason}); trying the checkpoint before it", stacklevel=2)
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """All checkpoint files, newest first."""
    steps = {file: int(match[1]) for file in folder.iterdir() if (match := _NAME.fullmatch(file.name))}
    return sorted(steps, key=steps.__getitem__, reverse=True)


def _prune(folder: Path, step: int) -> None:
    # newer ones are damaged, or of a future that the resumed run did not take up
    files = _checkpoints(folder)
    current = files.index(folder / f"checkpoint-{step}.pt")
    for file in files[:current] + files[current + _KEPT :] + list(folder.glob("checkpoint-*.tmp")):
        file.unlink()


def _sync_names(folder: Path) -> None:
    # a rename survives a power cut only once the folder itself is on the disk
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
