"""The tasks of the lab: which data, which model, what is measured, and which space its weights belong on."""

from __future__ import annotations

from metrize.lab.config import RunConfig
from metrize.lab.tasks.base import Conclusion, Figure, Profile, Task, outputs_of, pick
from metrize.lab.tasks.classification import DIGITS, MNIST, SEQUENCE, TEXT
from metrize.lab.tasks.own import task, task_at
from metrize.lab.tasks.subspace import SUBSPACE
from metrize.lab.tasks.wave import WAVE

TASKS: dict[str, Task] = {
    "digits": DIGITS,
    "mnist": MNIST,
    "text": TEXT,
    "sequence": SEQUENCE,
    "subspace": SUBSPACE,
    "wave": WAVE,
}


def task_of(config: RunConfig) -> Task:
    """The task that a run names.

    Raises:
        ValueError: it is unknown; lists the known ones.
    """
    return task_named(config.task)


def task_named(name: str) -> Task:
    """A task of the lab, or that at ``package.module:name``.

    Raises:
        ValueError: it is unknown; lists the known ones.
    """
    return task_at(name) if ":" in name else pick("task", name, TASKS)


__all__ = ["TASKS", "Conclusion", "Figure", "Profile", "Task", "outputs_of", "pick", "task", "task_named", "task_of"]
