"""Checkpoints of a run: written whole or not at all, the last two kept, and never taken for what they are not."""

from __future__ import annotations

import re
import shutil
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from metrize.lab.config import differences
from metrize.lab.durable import draft_of, first_line, replacing

FORMAT = 2
"""Version of what a checkpoint holds."""
_KEPT = 2
# a file of one process, or a folder of several
_NAME = re.compile(r"checkpoint-(\d+)(\.pt)?")
_Content = TypeVar("_Content")


class CheckpointError(Exception):
    """A checkpoint cannot be gone on from; the text names the file, the reason and the way on."""


class DamagedError(Exception):
    """What a checkpoint held is lost."""


class RefusedError(Exception):
    """A checkpoint is whole, but not one of this run and this version."""


def save(folder: Path, step: int, header: dict[str, Any], state: dict[str, Any]) -> Path:
    """Write ``checkpoint-<step>.pt`` and remove all but this one and the one before.

    Args:
        folder: the run.
        step: steps done.
        header: what `check` and the run want to know, as plain values.
        state: tensors, numbers, strings, and lists, tuples and dicts of them.

    Returns:
        the file.

    Raises:
        NotWrittenError: the disk is full; the checkpoints before it are as they were.
    """
    file = folder / f"checkpoint-{step}.pt"
    with replacing(file) as stream:
        torch.save({"header": {**header, "format": FORMAT}, **state}, stream)
    prune(folder, file)
    return file


def load_newest(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The content of the newest checkpoint that is whole; None if there has been none.

    Args:
        folder: the run.
        config: of the run, as plain values, which the checkpoint must have too.

    Raises:
        CheckpointError: the newest whole checkpoint is of another run or version, or none of them is whole.

    Warns:
        UserWarning: a newer checkpoint is damaged and was passed over; names it.
    """
    return newest(folder, lambda file: _read(file, config))


def newest(folder: Path, read: Callable[[Path], _Content]) -> _Content | None:
    """What `read` makes of the newest checkpoint that is whole.

    Args:
        folder: the run.
        read: raises `DamagedError` to be asked for the one before, and `RefusedError` to stop.
    """
    found = _checkpoints(folder)
    for place, path in enumerate(found):
        older = found[place + 1].name if place + 1 < len(found) else None
        try:
            return read(path)
        except DamagedError as reason:
            if older is None:
                raise CheckpointError(
                    f"{path} is damaged ({reason}), and there is no older one; remove it to start the run again"
                ) from reason
            warnings.warn(f"{path} is damaged ({reason}); trying the one before it, {older}", stacklevel=2)
        except RefusedError as reason:
            way = f"go on from {older}" if older else "start the run again"
            raise CheckpointError(f"{path} {reason}; remove it to {way}") from reason
    return None


def check(header: Any, config: Mapping[str, Any]) -> None:
    """Refuse what is no checkpoint of this run and this version.

    Raises:
        RefusedError: says which of the two.
    """
    if not isinstance(header, dict) or not {"format", "config"} <= header.keys():
        raise RefusedError("is no checkpoint of a run of metrize")
    if header["format"] != FORMAT:
        raise RefusedError(f"has format {header['format']}, and this version reads format {FORMAT}")
    if changed := differences(config, header["config"]):
        raise RefusedError(f"is of another run ({'; '.join(changed)})")


def prune(folder: Path, saved: Path) -> None:
    """Remove all checkpoints but this one and the one before it, and what interrupted saves left."""
    found = _checkpoints(folder)
    place = found.index(saved)
    # newer ones are damaged, or of a future that the resumed run did not take up
    for path in [*found[:place], *found[place + _KEPT :], *folder.glob("checkpoint-*.tmp")]:
        remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, which at no moment is there in part."""
    if path.is_dir():
        shutil.rmtree(path if path.suffix == ".tmp" else path.rename(draft_of(path)))
    else:
        path.unlink(missing_ok=True)


def _read(file: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    if file.is_dir():
        raise RefusedError("was written by several processes, which `--nproc` starts again")
    _check_sums(file)
    try:
        content: dict[str, Any] = torch.load(file, weights_only=True)
    except Exception as error:
        raise RefusedError(f"is no checkpoint of a run of metrize ({first_line(error)})") from error
    check(content.get("header") if isinstance(content, dict) else None, config)
    return content


def _check_sums(file: Path) -> None:
    """Compare all bytes with the CRC-32 that torch writes beside them, and itself does not look at."""
    try:
        with zipfile.ZipFile(file) as archive:
            torn = archive.testzip()
    except Exception as error:  # of a dozen types, whatever the damaged bytes stood for
        raise DamagedError(first_line(error)) from error
    if torn:
        raise DamagedError(f"wrong CRC-32 of {torn}")


def _checkpoints(folder: Path) -> list[Path]:
    """All checkpoints, newest first."""
    steps = {path: int(match[1]) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))}
    return sorted(steps, key=steps.__getitem__, reverse=True)
