"""Checkpoints of a run: written whole or not at all, the last two kept, and never taken for what they are not.

One process writes a file, ``checkpoint-<step>.pt``, of which torch's own CRC-32 sums tell whether it still is what it
was. Several processes write a folder, ``checkpoint-<step>``, with SHA-256 sums. Either gets its name by one rename,
after everything in it is on the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from metrize.lab.config import differences
from metrize.lab.durable import NotWrittenError, draft_of, first_line, replacing, sync, write_text

Header = dict[str, Any]
"""What a checkpoint says of itself, and what else belongs to a run, as plain values."""
FORMAT = 2
"""Version of what a checkpoint holds."""
_KEPT = 2
_NAME = re.compile(r"checkpoint-\d+(\.pt)?")
_HEADER = "checkpoint.json"


class CheckpointError(Exception):
    """A checkpoint cannot be gone on from; the text names the file, the reason and the way on."""


class _DamagedError(Exception):
    """What a checkpoint held is lost."""


class _RefusedError(Exception):
    """A checkpoint is whole, but not one of this run and this version."""


def save(folder: Path, step: int, header: Header, state: dict[str, Any]) -> Path:
    """Write ``checkpoint-<step>.pt`` and remove all but this one and the one before.

    Args:
        folder: the run.
        step: steps done.
        header: under ``config``, what the run must be resumed with, as plain values; whatever else it wants to know.
        state: tensors, numbers, strings, and lists, tuples and dicts of them.

    Returns:
        the file.

    Raises:
        NotWrittenError: the disk is full; the checkpoints before it are as they were.
    """
    file = folder / f"checkpoint-{step}.pt"
    with replacing(file) as stream:
        torch.save({"header": {**header, "format": FORMAT}, **state}, stream)
    _prune(folder, file)
    return file


def seal(path: Path, header: Header) -> Path:
    """Give a draft folder its sums and its name, and remove all checkpoints but this one and the one before.

    Args:
        path: the name; the files are in `draft_of(path)`, and on the disk.
        header: as in `save`.

    Raises:
        NotWrittenError: the disk is full; the checkpoints before it are as they were.
    """
    draft = draft_of(path)
    sums = {file.name: _sum_of(file) for file in sorted(draft.iterdir())}
    text = json.dumps({**header, "format": FORMAT, "sums": sums})
    write_text(draft / _HEADER, json.dumps({"sum": _sum(text), "header": text}))
    try:
        if os.path.lexists(path):  # it is damaged, or of a future that the resumed run did not take up
            remove(path)
        draft.rename(path)
    except OSError as error:
        raise NotWrittenError(path, error) from error
    sync(path.parent)
    _prune(path.parent, path)
    return path


def newest(folder: Path, config: Mapping[str, Any], several: bool = True) -> tuple[Path, Header] | None:
    """The newest checkpoint that is whole, and its header; None if there has been none.

    Args:
        folder: the run.
        config: of the run, as plain values, which the checkpoint must have too.
        several: whether several processes may have written it, as a folder. Reading one runs what is pickled in it.

    Raises:
        CheckpointError: the newest whole checkpoint is of another run or version, or none of them is whole.

    Warns:
        UserWarning: a newer checkpoint is damaged and was passed over; names it.
    """
    found = _checkpoints(folder)
    for place, path in enumerate(found):
        older = found[place + 1].name if place + 1 < len(found) else None
        try:
            if not several and path.is_dir():
                raise _RefusedError(
                    "is a folder, as several processes write them, and this is a run of one (config.json has no "
                    "nproc): reading it could run foreign code; if it is yours, go on with --nproc 1"
                )
            return path, _checked(path, config)
        except _DamagedError as reason:
            if older is None:
                raise CheckpointError(
                    f"{path} is damaged ({reason}), and there is no older one; remove it to start the run again"
                ) from reason
            warnings.warn(f"{path} is damaged ({reason}); trying the one before it, {older}", stacklevel=2)
        except _RefusedError as reason:
            way = f"go on from {older}" if older else "start the run again"
            raise CheckpointError(f"{path} {reason}; remove it to {way}") from reason
    return None


def remove(path: Path) -> None:
    """Remove a file or a folder, which at no moment is there in part."""
    if _is_folder(path) and path.suffix != ".tmp":
        trash = draft_of(path.with_name(path.name + ".old"))
        remove(trash)
        path = path.rename(trash)
    if _is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_folder(path: Path) -> bool:
    """Whether it is a folder of this run, and not a link to one elsewhere."""
    return path.is_dir() and not path.is_symlink()


def _checked(path: Path, config: Mapping[str, Any]) -> Header:
    """The header of a checkpoint of this run and version, of which every byte is as it was written."""
    header = _header_of_folder(path) if path.is_dir() else _header_of_file(path)
    if not isinstance(header, dict) or not {"format", "config"} <= header.keys():
        raise _RefusedError("is no checkpoint of a run of metrize")
    if header["format"] != FORMAT:
        raise _RefusedError(f"has format {header['format']}, and this version reads format {FORMAT}")
    if changed := differences(config, header["config"]):
        raise _RefusedError(f"is of another run ({'; '.join(changed)})")
    return header


def _header_of_file(file: Path) -> Any:
    try:
        with zipfile.ZipFile(file) as archive:
            torn = archive.testzip()  # torch writes these sums, and does not look at them
    except Exception as error:  # of a dozen types, whatever the damaged bytes stood for
        raise _DamagedError(first_line(error)) from error
    if torn:
        raise _DamagedError(f"wrong CRC-32 of {torn}")
    try:
        content = torch.load(file, weights_only=True, mmap=True)
    except Exception as error:
        raise _RefusedError(f"is no checkpoint of a run of metrize ({first_line(error)})") from error
    return content.get("header") if isinstance(content, dict) else None


def _header_of_folder(folder: Path) -> Any:
    try:
        written = json.loads((folder / _HEADER).read_text())
        text, total = written["header"], written["sum"]
        damaged = _sum(text) != total
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _DamagedError(f"{_HEADER}: {first_line(error)}") from error
    if damaged:
        raise _DamagedError(f"wrong SHA-256 of {_HEADER}")
    header = json.loads(text)
    for name, kept in header["sums"].items():
        if not (folder / name).is_file():
            raise _DamagedError(f"{name} is missing")
        if _sum_of(folder / name) != kept:
            raise _DamagedError(f"wrong SHA-256 of {name}")
    return header


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _sum_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _prune(folder: Path, saved: Path) -> None:
    """Remove all checkpoints but this one and the one before it, and what interrupted saves left."""
    # newer ones are damaged, or of a future that the resumed run did not take up
    older = [path for path in _checkpoints(folder) if _step(path) < _step(saved)]
    for path in {*_checkpoints(folder), *folder.glob("checkpoint-*.tmp")} - {saved, *older[: _KEPT - 1]}:
        remove(path)


def _checkpoints(folder: Path) -> list[Path]:
    """All checkpoints, newest first."""
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.stem.partition("-")[2])
