"""Files that are there whole or not at all, whenever the process or the machine stops; every file of a run is one.

Nothing is written through a symbolic link: what it points to may be anywhere.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # which not every system has


class NotWrittenError(Exception):
    """A file could not be written; what was there before is as it was.

    Args:
        path: file or folder.
        reason: what the system or the library said.
    """

    def __init__(self, path: Path, reason: BaseException | str) -> None:
        super().__init__(path, first_line(reason))  # which a pickle needs
        self.path, self.reason = path, first_line(reason)

    def __str__(self) -> str:
        free = shutil.disk_usage(self.path.parent).free
        return (
            f"{self.path} could not be written: {self.reason} ({free / 1e6:.0f} MB are free on its disk). "
            "Earlier checkpoints are untouched; make room and resume the run"
        )


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """A stream whose bytes take the place of the file at the end of the block, and are on the disk then.

    If the block fails, or the disk is full, the file is what it was, and nothing else is left.

    Args:
        file: which may exist.

    Raises:
        NotWrittenError: the disk is full, or the file may not be written.
    """
    draft = draft_of(file)
    try:
        draft.unlink(missing_ok=True)
        with open(draft, "wb", opener=_made_anew) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, file)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        # torch tells of a write that was cut short by an error of its own
        if isinstance(error, OSError) or isinstance(error.__context__, OSError):
            raise NotWrittenError(file, error) from error
        raise
    sync(file.parent)


def write_text(file: Path, text: str) -> None:
    """Put a text in place of the file's, whole or not at all."""
    with replacing(file) as stream:
        stream.write(text.encode())


def append(file: Path, text: str) -> None:
    """Put a text behind the file's; it is with the operating system when this returns.

    Raises:
        NotWrittenError: the disk is full, or the file may not be written.
    """
    try:
        with open(file, "a", opener=_not_followed) as stream:
            stream.write(text)
    except OSError as error:
        raise NotWrittenError(file, error) from error


def _made_anew(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_EXCL | _NO_LINK, 0o666)


def _not_followed(name: str, flags: int) -> int:
    return os.open(name, flags | _NO_LINK, 0o666)


def first_line(reason: BaseException | str) -> str:
    """What an error says, in one line."""
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return str(reason).partition("\n")[0] or type(reason).__name__


def draft_of(path: Path) -> Path:
    """The name that a file or folder has until it is complete."""
    return path.with_name(path.name + ".tmp")


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk: a rename alone does not survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
