"""What one training run is: a plain value that is written beside its results and read back to go on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One run of the lab; everything that decides its numbers is here.

    Args:
        task: a name of `metrize.lab.tasks.TASKS`, such as ``digits``.
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
        threads: torch threads; None leaves torch's choice.
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

    @property
    def label(self) -> str:
        """A short name for tables and folders: ``Adam on Stiefel()`` or ``SGD momentum=0.5``."""
        options = " ".join(f"{key}={value}" for key, value in self.options.items())
        space = f"on {self.space}" if self.space else ""
        return " ".join(part for part in (self.optimizer, options, space) if part)

    def save(self, folder: Path) -> None:
        """Write ``config.json`` into the run folder."""
        (folder / "config.json").write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> RunConfig:
        """Read ``config.json`` of a run folder.

        Raises:
            FileNotFoundError: the folder is not a run.
        """
        return cls(**json.loads((folder / "config.json").read_text()))
