"""A run as it goes on: steps, evaluations, records and checkpoints, in whichever process."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

import metrize
from metrize.lab.config import FolderError, RunConfig
from metrize.lab.data import stream
from metrize.lab.data.batches import seeded
from metrize.lab.durable import write_text
from metrize.lab.engine import Engine
from metrize.lab.events import (
    Began,
    Evaluated,
    Event,
    Journal,
    Record,
    Saved,
    SpaceChecked,
    Stepped,
    finite,
    read_records,
)
from metrize.lab.host import autocast, numerics, stop_requests
from metrize.lab.schedule import factor
from metrize.lab.summary import Summary
from metrize.lab.tasks import Conclusion, task_of

_LAST = 10


class Interrupted(Exception):  # noqa: N818 - the run is in order, it only stopped
    """The run was asked to stop; it is saved and can go on.

    Args:
        folder: the run.
        step: steps done.
    """

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__(folder, step)  # which a pickle needs
        self.folder, self.step = folder, step

    def __str__(self) -> str:
        return f"stopped and saved after step {self.step}; go on with: metrize train --resume {self.folder}"


def train_here(
    config: RunConfig,
    folder: Path,
    emit: Callable[[Event], None],
    resume: bool,
    stop: Callable[[], bool] | None,
    engine: Engine,
) -> Summary:
    """Train a run in this process, or this process's part of it.

    Args:
        config: the run.
        folder: where it is kept.
        emit: called with each event.
        resume: go on with the run in the folder.
        stop: asked after each step whether to stop there.
        engine: who computes what.

    Raises:
        Interrupted: the run was asked to stop; it is saved.
    """
    with numerics(config.threads), stop_requests(stop) as stopping:
        run = Run(config, folder, emit, engine)
        run.begin(resume)
        while run.going:
            run.advance()
            if engine.any(stopping()) and not run.diverged:
                run.save()
                raise Interrupted(folder, run.step)
        return run.finish()


class Run:
    """A run in memory.

    Args:
        config: the run.
        folder: where it is kept.
        emit: called with each event.
        engine: who computes what.
    """

    def __init__(self, config: RunConfig, folder: Path, emit: Callable[[Event], None], engine: Engine) -> None:
        self.config, self.folder, self.emit, self.engine = config, folder, emit, engine
        self.model: nn.Module
        self.optimizer: metrize.Optimizer
        self.model, self.optimizer = engine.build(config)
        self.task = task_of(config)
        self.data: Any = self.task.load(config)
        self.step, self.seconds, self.diverged = 0, 0.0, False
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer_seconds: list[float] = []

    @property
    def going(self) -> bool:
        return self.step < self.config.steps and not self.diverged

    def begin(self, resume: bool) -> None:
        """Take up the newest checkpoint, or start; a run that was killed before its first checkpoint starts again."""
        metrics = self.folder / "metrics.jsonl"
        self.folder.mkdir(parents=True, exist_ok=True)
        saved = self.engine.load(self.folder, self.config.plain(), self.model, self.optimizer) if resume else None
        if saved:
            self.step, self.seconds = saved["step"], saved["seconds"]
            self.optimizer_seconds = saved["optimizer_seconds"]
        records = [record for record in read_records(metrics) if record.step <= self.step] if saved else []
        if saved and not any(isinstance(record, Stepped) and record.step == self.step for record in records):
            raise FolderError(
                f"{metrics} has lost records of the {self.step} steps that the checkpoint has done; put the file back, "
                "or start the run again in another folder"
            )
        if self.engine.leads:
            self.config.save(self.folder)
        self.journal = Journal(metrics if self.engine.leads else None, records)
        self.emit(Began(self.folder, self.config.label, self.step, self.config.steps, _count(self.model)))
        if not saved:
            self._evaluate()

    def advance(self) -> None:
        """One step, and whatever is due after it."""
        self._train_step()
        if self.diverged:
            return
        if self.step == self.config.steps or _due(self.step, self.config.eval_every):
            self._evaluate()
        if self.going and _due(self.step, self.config.checkpoint_every):
            self.save()

    def save(self) -> None:
        """Write a checkpoint."""
        # first the records, so that a checkpoint never knows of a step that the metrics lost
        self.journal.sync()
        header = {
            "config": self.config.plain(),
            "step": self.step,
            "seconds": self.seconds,
            "optimizer_seconds": self.optimizer_seconds,
        }
        self.emit(Saved(self.step, self.engine.save(self.folder, self.step, header, self.model, self.optimizer)))

    def finish(self) -> Summary:
        """Write the last checkpoint and the figures."""
        if not self.diverged:
            self.save()
        model = self.engine.whole(self.model)
        conclusion = Conclusion() if self.diverged else self.task.conclude(model, self.data)
        summary = self._summary(conclusion)
        if self.engine.leads and conclusion.profiles:
            profiles = [dataclasses.asdict(profile) for profile in conclusion.profiles]
            write_text(self.folder / "profiles.json", json.dumps(profiles, allow_nan=False) + "\n")
        if self.engine.leads:
            write_text(self.folder / "summary.json", json.dumps(dataclasses.asdict(summary), indent=2) + "\n")
        return summary

    def _train_step(self) -> None:
        start = time.perf_counter()
        self.optimizer.zero_grad()
        value = statistics.fmean(map(self._backward, range(self.config.accumulate)))
        if not math.isfinite(value):
            self.diverged = True
            return
        self._prepare_step()
        before = time.perf_counter()
        self.optimizer.step()
        self.optimizer_seconds.append(time.perf_counter() - before)
        self.step += 1
        self.seconds += time.perf_counter() - start
        self._record(Stepped(self.step, self.seconds, value))

    def _backward(self, index: int) -> float:
        """The loss of one batch of a step; its gradient is added, as a part of their mean."""
        place = self.step * self.config.accumulate + index
        batch = self.data.batch(self.config.seed, place, self.config.batch_size)
        # dropout draws from torch's own generator, which a resumed run could not restore
        with seeded(stream(self.config.seed, "step", place)), autocast(self.config.dtype, self.model):
            loss = self.task.loss(self.model, tree_map_only(Tensor, self.engine.part, batch))
        part = loss / self.config.accumulate if self.config.accumulate > 1 else loss
        part.backward()  # type: ignore[no-untyped-call]
        return self.engine.sum(loss.item()) / self.engine.size

    def _prepare_step(self) -> None:
        """Shorten the gradient, and set the learning rates of the step."""
        config = self.config
        if config.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        if config.schedule == "constant" and not config.warmup:
            return
        share = factor(config.schedule, self.step, config.steps, config.warmup)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = share * rate

    def _evaluate(self) -> None:
        model = self.engine.whole(self.model)
        training = model.training
        with seeded(stream(self.config.seed, "evaluation")), autocast(self.config.dtype, self.model):
            figures = dict(self.task.evaluate(model.eval(), self.data))
        model.train(training)
        loss = figures.pop("loss")
        if not math.isfinite(loss):
            self.diverged = True
            return
        self._record(Evaluated(self.step, self.seconds, loss, _finite(figures)))
        errors = metrize.error_on_space(model)
        if errors:
            error = max(error.item() for error in errors.values())
            self._record(SpaceChecked(self.step, self.seconds, error))

    def _record(self, record: Record) -> None:
        self.journal.add(record)
        self.emit(record)

    def _summary(self, conclusion: Conclusion) -> Summary:
        evaluations, checks = self.journal.of(Evaluated), self.journal.of(SpaceChecked)
        last = None if self.diverged else evaluations[-1]
        based, tensors = self.optimizer.coverage() or (None, None)
        state_bytes, parameters = int(self.engine.sum(metrize.state_bytes(self.optimizer))), _count(self.model)
        return Summary(
            label=self.config.label,
            seed=self.config.seed,
            steps=self.step,
            seconds=self.seconds,
            parameters=parameters,
            final_eval_loss=last.loss if last else None,
            best_eval_loss=min((evaluation.loss for evaluation in evaluations), default=None),
            state_bytes=state_bytes,
            state_bytes_per_parameter=state_bytes / parameters,
            parameter_bytes=sum(weight.nbytes for weight in self.model.parameters()),
            figures={**last.figures, **_finite(conclusion.figures)} if last else {},
            space_error=checks[-1].error if checks and last else None,
            skipped_steps=self.optimizer.param_groups[0]["skipped_steps"] or None,
            diverged=self.diverged,
            with_basis=based,
            with_basis_of=tensors,
            **self._times(),
        )

    def _times(self) -> dict[str, float | None]:
        steps = self.journal.of(Stepped)
        ends = (0.0, *(step.seconds for step in steps))
        whole = [end - start for start, end in itertools.pairwise(ends)]
        return {
            # one batch is noise; 10 is short enough to be the end of the run
            "final_train_loss": _mean([step.loss for step in steps[-_LAST:]]),
            "ms_per_step": _median_ms(whole),
            "optimizer_ms_per_step": _median_ms(self.optimizer_seconds),
            "first_step_ms": _median_ms(self.optimizer_seconds[:1]),
        }


def _finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    return dict(zip(figures, finite(figures.values()), strict=True))


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _count(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _median_ms(seconds: list[float]) -> float | None:
    return 1e3 * statistics.median(seconds) if seconds else None
