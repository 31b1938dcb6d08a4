"""What a person names as ``package.module:name``, also where the module lies in the current folder."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any


class PlaceError(ValueError):
    """Nothing is found at a place, or what is there fails; the text names the place and the reason."""


def found(path: str) -> Any:
    """What stands at ``package.module:name``.

    Raises:
        PlaceError: there is nothing, or the module fails when it is imported.
    """
    module, _, name = path.partition(":")
    with current_folder():
        try:
            return getattr(importlib.import_module(module), name)
        except Exception as error:  # whatever the module does when it is imported
            raise PlaceError(f"cannot find {path!r}: {first_line(error)}") from error


def called(path: str) -> Any:
    """What the function at ``package.module:name`` returns.

    Raises:
        PlaceError: it is not found, or fails.
    """
    make = found(path)
    with current_folder():
        try:
            return make()
        except Exception as error:
            raise PlaceError(f"{path} failed: {first_line(error)}, {place(error)}") from error


@contextlib.contextmanager
def current_folder() -> Iterator[None]:
    """Modules of the current folder are found, as by ``python -m``."""
    entry = os.getcwd()
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        # this very object, because what was imported may have changed the path, and have entries that are equal
        sys.path[:] = [other for other in sys.path if other is not entry]


def first_line(error: Exception) -> str:
    """The type of an error and the first line that it says."""
    return " ".join(filter(None, (f"{type(error).__name__}:", str(error).partition("\n")[0]))).removesuffix(":")


def place(error: Exception) -> str:
    """Where in the user's files it was raised."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return f"in {last.filename}, line {last.lineno}"
