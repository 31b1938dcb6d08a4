"""Tasks, trainer, comparison and report behind the command line; the library itself never imports this."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metrize.lab.export import rows
    from metrize.lab.tasks.base import Figure
    from metrize.lab.tasks.own import task

__all__ = ["Figure", "rows", "task"]


def __getattr__(name: str) -> Any:
    # the command line reads the lab's settings without torch
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from metrize.lab.export import rows
    from metrize.lab.tasks.base import Figure
    from metrize.lab.tasks.own import task

    return {"Figure": Figure, "rows": rows, "task": task}[name]
