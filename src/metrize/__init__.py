"""metrize: PyTorch optimizers that give every tensor the geometry it deserves."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metrize.public import *  # noqa: F403
    from metrize.public import __all__ as __all__

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """A submodule or a public name; torch is imported here and not before, so that ``metrize --help`` is quick."""
    if not name.startswith("_") or name == "__all__":
        if importlib.util.find_spec(f"{__name__}.{name}"):
            return importlib.import_module(f"{__name__}.{name}")
        public = importlib.import_module(f"{__name__}.public")
        if hasattr(public, name):
            globals()[name] = getattr(public, name)
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
