"""The options that commands share, and how they become run configurations."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from metrize.lab.config import RunConfig

Count = Annotated[int, Parameter(validator=Number(gte=1))]
# 0 means never
Every = Annotated[int, Parameter(validator=Number(gte=0))]
Json = Annotated[bool, Parameter(name="--json")]
# One word behind each flag, as in --model layers=4 --model skip=True
Words = Annotated[tuple[str, ...], Parameter(consume_multiple=False, show_default=False)]


@Parameter(name="*")
@dataclasses.dataclass(frozen=True)
class Setting:
    """What is trained and for how long; all of a run but its method and seed.

    Args:
        task: A task of `metrize list`, such as digits or wave, or one of your own, such as package.module:task.
        lr: Learning rate.
        model: Argument of the task's model, such as layers=4 or skip=True; may be given again.
        steps: Optimizer steps of a run.
        batch_size: Samples a step.
        eval_every: Steps between two evaluations on the held-out part; 0 evaluates at the end only.
        checkpoint_every: Steps between two checkpoints; 0 writes the last one only.
        data_root: Folder of the MNIST files.
        text_file: File of the text task; without it, the standard library's own sources.
        threads: Threads of torch in each process; without it, torch chooses, or the processes share the cores.
        nproc: Processes that share the model and each batch.
        schedule: Learning rate after the warm-up: constant, linear, cosine, or wsd, of which the last fifth falls.
        warmup: Steps in which the learning rate rises; below 1, a share of all steps.
        clip: Largest norm of the gradient of a step.
        accumulate: Batches whose mean gradient makes a step.
        dtype: bf16 computes the loss under autocast.
        weight_decay: Weight decay of every method that does not say its own.
    """

    task: str = RunConfig.task
    _: dataclasses.KW_ONLY
    lr: float = RunConfig.lr
    model: Words = ()
    steps: Count = RunConfig.steps
    batch_size: Count = RunConfig.batch_size
    eval_every: Every = RunConfig.eval_every
    checkpoint_every: Every = RunConfig.checkpoint_every
    data_root: Path | None = None
    text_file: Path | None = None
    threads: Count | None = None
    nproc: Count | None = None
    schedule: str = RunConfig.schedule
    warmup: float = RunConfig.warmup
    clip: float | None = None
    accumulate: Count = RunConfig.accumulate
    dtype: str | None = None
    weight_decay: float | None = None

    def config(self) -> RunConfig:
        """The configuration of a run with the default method and seed.

        Raises:
            ValueError: the task is an option that lacks its flag, a ``model`` word is not ``name=value``, or the
                processes cannot share a batch evenly.
        """
        from metrize.lab.compare import parse_options

        if "=" in self.task:
            raise ValueError(f"{self.task!r} is no task; where it is an option, write the flag before it again")
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        # Absolute, so that the run can go on from any folder.
        paths = {name: path and str(path.absolute()) for name, path in values.items() if name in _PATHS}
        return RunConfig(**{**values, **paths, "model": parse_options(self.model)})


_PATHS = ("data_root", "text_file")
