"""What one training run is: a plain value that is written beside its results and read back to go on."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from metrize.lab.durable import first_line, write_text
from metrize.lab.schedule import SCHEDULES, warmup_steps
from metrize.values import fitted, hints_of

_Kind = TypeVar("_Kind")


LATER = ("schedule", "warmup", "clip", "accumulate", "dtype", "weight_decay")
"""Settings that a run has at their defaults where its files do not name them."""


class FolderError(ValueError):
    """A folder does not hold what a run or a comparison has written; the text names the file and the reason."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One run of the lab; everything that decides its numbers is here.

    Args:
        task: a name of `metrize.lab.tasks.TASKS`, such as ``digits``, or the place of one, ``package.module:task``.
        optimizer: a name of the catalogue (``Adam``, ``AdamW``, ``SGD``, ...).
        space: the sentence of the space that the task's constrained weights are on, such as ``Stiefel()``; None trains
            them freely.
        lr: learning rate.
        options: further keyword arguments of the optimizer (``{"momentum": 0.5}``).
        model: arguments of the task's model (``{"layers": 16, "skip": False}``).
        steps: optimizer steps of the whole run.
        batch_size: samples a step.
        seed: decides initial weights and the order of the data.
        eval_every: steps between two evaluations on the held-out part.
        checkpoint_every: steps between two checkpoints; 0 writes only the last one.
        data_root: folder of the MNIST files, where the task is ``mnist``.
        text_file: file of the ``text`` task; None reads the standard library's own sources.
        threads: torch threads of each process; None leaves torch's choice, or shares the cores among the processes.
        nproc: processes on this machine that share the model and each batch; None trains in the calling one.
        schedule: of the learning rate after the warm-up: ``constant``, ``linear``, ``cosine`` or ``wsd``.
        warmup: steps in which the learning rate rises linearly; below 1, a share of all steps.
        clip: largest norm of the gradient of a step; a longer one is shortened. None leaves it.
        accumulate: batches whose mean gradient makes a step.
        dtype: ``bf16`` computes the loss under autocast; None in the dtype of the weights.
        weight_decay: of every method that does not say its own; None is the optimizer's.

    Raises:
        ValueError: the processes cannot share a batch evenly, or a number has no meaning.
    """

    task: str = "digits"
    optimizer: str = "Adam"
    space: str | None = None
    lr: float = 1e-3
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    steps: int = 500
    batch_size: int = 128
    seed: int = 0
    eval_every: int = 50
    checkpoint_every: int = 200
    data_root: str | None = None
    text_file: str | None = None
    threads: int | None = None
    nproc: int | None = None
    schedule: str = "constant"
    warmup: float = 0.0
    clip: float | None = None
    accumulate: int = 1
    dtype: str | None = None
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        if self.nproc is not None and (self.nproc < 1 or self.batch_size % self.nproc):
            raise ValueError(f"{self.nproc} processes cannot share a batch of {self.batch_size} samples evenly")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"unknown schedule {self.schedule!r}; known: {', '.join(SCHEDULES)}")
        if not 0 <= self.warmup < math.inf or warmup_steps(self.steps, self.warmup) > self.steps:
            raise ValueError(f"warmup={self.warmup!r}: a run of {self.steps} steps has 0 to {self.steps} of them")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip={self.clip!r}: the largest norm of a gradient is above 0")
        if self.accumulate < 1:
            raise ValueError(f"accumulate={self.accumulate!r}: a step takes one batch at least")
        if self.dtype not in (None, "bf16"):
            raise ValueError(f"unknown dtype {self.dtype!r}; known: bf16")

    @property
    def label(self) -> str:
        """A short name for tables and folders: ``Adam on Stiefel()`` or ``SGD momentum=0.5``."""
        options = " ".join(f"{key}={value}" for key, value in self.options.items())
        space = f"on {self.space}" if self.space else ""
        return " ".join(part for part in (self.optimizer, options, space) if part)

    def save(self, folder: Path) -> None:
        """Write ``config.json`` into the run folder."""
        write_text(folder / "config.json", json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    def plain(self) -> dict[str, Any]:
        """What decides the numbers of the run, as JSON reads it back: without tuples, and without ``nproc``."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        del values["nproc"]  # who computes what changes a run in rounding only, so that it may go on with more or fewer
        # checkpoints from before these were settings do not name them
        return {name: value for name, value in values.items() if name not in LATER or value != getattr(RunConfig, name)}

    @classmethod
    def load(cls, folder: Path) -> RunConfig:
        """Read ``config.json`` of a run folder.

        Raises:
            FileNotFoundError: the folder is not a run.
            FolderError: it is damaged, or of another version.
        """
        return read(folder / "config.json", lambda content: made(cls, content))


def read(file: Path, make: Callable[[Any], _Kind]) -> _Kind:
    """What `make` makes of a JSON file.

    Raises:
        OSError: it cannot be read.
        FolderError: it is damaged, or of another version.
    """
    text = file.read_bytes()
    try:
        return make(json.loads(text))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise FolderError(f"{file} is damaged, or of another version: {first_line(error)}") from error


def made(kind: type[_Kind], content: Mapping[str, Any]) -> _Kind:
    """A dataclass of these values.

    Raises:
        TypeError: an unknown or missing field, or a value of another kind than its annotation says.
    """
    value = kind(**content)
    for name, hint in hints_of(kind).items():
        try:
            fitted(getattr(value, name), hint)
        except TypeError:
            raise TypeError(f"{name}={getattr(value, name)!r} is no {hint}") from None
    return value


def differences(new: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    """What a run would change of a saved one, such as ``lr: 0.01 -> 0.5``.

    Args:
        new: plain values by name.
        saved: the same of the saved run.
    """
    names = [name for name in {**new, **saved} if new.get(name) != saved.get(name)]
    return [f"{name}: {saved.get(name)!r} -> {new.get(name)!r}" for name in names]
