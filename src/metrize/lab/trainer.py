"""One training run: a folder that says everything about it, and that it can go on from."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import metrize
from metrize.lab import checkpoint, methods
from metrize.lab.config import RunConfig
from metrize.lab.data import Data
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
from metrize.lab.models import Model
from metrize.lab.tasks import Conclusion, task_of

_FORMAT = 1
_LAST = 10


class Interrupted(Exception):  # noqa: N818 - the run is in order, it only stopped
    """The run was asked to stop; it is saved and can go on.

    Args:
        folder: the run.
        step: steps done.
    """

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__(f"stopped and saved after step {step}; go on with: metrize train --resume {folder}")
        self.folder, self.step = folder, step


@dataclasses.dataclass(frozen=True)
class Summary:
    """The figures of a finished run, as in its ``summary.json``.

    Args:
        label: short name of the method.
        seed: of the run.
        steps: steps done, fewer than asked for if the run diverged.
        seconds: training time without evaluations and checkpoints.
        parameters: numbers in the model.
        final_train_loss: mean over the last 10 batches; None if the first one was not finite.
        final_eval_loss: on the held-out part after the last step; None if the run diverged.
        best_eval_loss: the lowest of all evaluations.
        ms_per_step: median over all steps.
        optimizer_ms_per_step: median of ``optimizer.step`` alone.
        first_step_ms: the first ``optimizer.step``, which also makes the state.
        state_bytes: bytes of optimizer state.
        state_bytes_per_parameter: the same for each number of the model.
        parameter_bytes: bytes of the model's weights.
        figures: what else the task measures of the trained model, by key; None where it is not finite, and empty if the
            run diverged.
        space_error: largest distance of a constrained weight from its space at the end; None without a space.
        diverged: a loss was not finite, and the run ended there.
    """

    label: str
    seed: int
    steps: int
    seconds: float
    parameters: int
    final_train_loss: float | None
    final_eval_loss: float | None
    best_eval_loss: float | None
    ms_per_step: float | None
    optimizer_ms_per_step: float | None
    first_step_ms: float | None
    state_bytes: int
    state_bytes_per_parameter: float
    parameter_bytes: int
    figures: Mapping[str, float | None]
    space_error: float | None
    diverged: bool


def train(
    config: RunConfig,
    folder: Path,
    on_event: Callable[[Event], None] | None = None,
    resume: bool = False,
    stop: Callable[[], bool] | None = None,
) -> Summary:
    """Train one run and keep it in a folder: config, metrics, checkpoints, ``summary.json``, ``profiles.json``.

    A run that is resumed has the same losses and weights, bit for bit, as one that was never interrupted (on the same
    machine with the same number of threads). On Ctrl-C or SIGTERM the current step is finished and saved; a second
    Ctrl-C does not wait.

    Args:
        config: the run.
        folder: where to keep it; made if missing.
        on_event: called with each event.
        resume: go on with the run in the folder.
        stop: asked after each step whether to stop there.

    Returns:
        the figures that are also in ``summary.json``.

    Raises:
        Interrupted: the run was asked to stop; it is saved.
        FileExistsError: the folder holds a run already, and ``resume`` is off.
        FileNotFoundError: ``resume`` is on, and the folder holds no run.
        ValueError: the resumed run has another config, or the config names something unknown.
    """
    _check_folder(config, folder, resume)
    with _numerics(config.threads), _stop_requests(stop) as stopping:
        run = _Run(config, folder, on_event or _ignore)
        run.begin(resume)
        while run.going:
            run.advance()
            if stopping() and not run.diverged:
                run.save()
                raise Interrupted(folder, run.step)
        return run.finish()


class _Run:
    def __init__(self, config: RunConfig, folder: Path, emit: Callable[[Event], None]) -> None:
        self.config, self.folder, self.emit = config, folder, emit
        self.model: Model
        self.optimizer: metrize.Optimizer
        self.model, self.optimizer = methods.build(config)
        self.task = task_of(config)
        self.data: Data = self.task.load(config)
        self.step, self.seconds, self.diverged = 0, 0.0, False
        self.optimizer_seconds: list[float] = []

    @property
    def going(self) -> bool:
        return self.step < self.config.steps and not self.diverged

    def begin(self, resume: bool) -> None:
        """Take up the newest checkpoint, or start; a run that was killed before its first checkpoint starts again."""
        saved = checkpoint.load_newest(self.folder) if resume else None
        metrics = self.folder / "metrics.jsonl"
        if saved is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.config.save(self.folder)
            self.journal = Journal(metrics)
        else:
            self._restore(saved)
            self.journal = Journal(metrics, (record for record in read_records(metrics) if record.step <= self.step))
        self.emit(Began(self.folder, self.config.label, self.step, self.config.steps, _count(self.model)))
        if saved is None:
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
        # first the records, so that a checkpoint never knows of a step that the metrics lost
        self.journal.sync()
        self.emit(Saved(self.step, checkpoint.save(self.folder, self.step, self._content())))

    def finish(self) -> Summary:
        if not self.diverged:
            self.save()
        conclusion = Conclusion() if self.diverged else self.task.conclude(self.model, self.data)
        if conclusion.profiles:
            profiles = [dataclasses.asdict(profile) for profile in conclusion.profiles]
            (self.folder / "profiles.json").write_text(json.dumps(profiles, allow_nan=False) + "\n")
        summary = self._summary(conclusion)
        (self.folder / "summary.json").write_text(json.dumps(dataclasses.asdict(summary), indent=2) + "\n")
        return summary

    def _train_step(self) -> None:
        start = time.perf_counter()
        self.optimizer.zero_grad()
        inputs, targets = self.data.batch(self.config.seed, self.step, self.config.batch_size)
        loss = self.model.loss(self.model(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        value = loss.item()
        if not math.isfinite(value):
            self.diverged = True
            return
        before = time.perf_counter()
        self.optimizer.step()
        self.optimizer_seconds.append(time.perf_counter() - before)
        self.step += 1
        self.seconds += time.perf_counter() - start
        self._record(Stepped(self.step, self.seconds, value))

    def _evaluate(self) -> None:
        figures = dict(self.task.evaluate(self.model, self.data))
        loss = figures.pop("loss")
        if not math.isfinite(loss):
            self.diverged = True
            return
        self._record(Evaluated(self.step, self.seconds, loss, _finite(figures)))
        errors = metrize.error_on_space(self.model)
        if errors:
            error = max(error.item() for error in errors.values())
            self._record(SpaceChecked(self.step, self.seconds, error))

    def _record(self, record: Record) -> None:
        self.journal.add(record)
        self.emit(record)

    def _content(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "step": self.step,
            "seconds": self.seconds,
            "optimizer_seconds": torch.tensor(self.optimizer_seconds, dtype=torch.float64),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def _restore(self, content: dict[str, Any]) -> None:
        if content["format"] != _FORMAT:
            raise ValueError(f"{self.folder}: checkpoint format {content['format']}; this version reads {_FORMAT}")
        self.step, self.seconds = content["step"], content["seconds"]
        self.optimizer_seconds = content["optimizer_seconds"].tolist()
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])

    def _summary(self, conclusion: Conclusion) -> Summary:
        evaluations, checks = self.journal.of(Evaluated), self.journal.of(SpaceChecked)
        last = None if self.diverged else evaluations[-1]
        state_bytes, parameters = metrize.state_bytes(self.optimizer), _count(self.model)
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
            diverged=self.diverged,
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


def _check_folder(config: RunConfig, folder: Path, resume: bool) -> None:
    held = (folder / "config.json").exists()
    if resume and not held:
        raise FileNotFoundError(f"{folder} holds no run (it has no config.json)")
    if resume:
        _check_same(config, RunConfig.load(folder))
    elif held:
        raise FileExistsError(f"{folder} holds a run; go on with 'metrize train --resume {folder}' or choose another")


def _check_same(config: RunConfig, saved: RunConfig) -> None:
    # compared as they are written: JSON has no tuples
    new, old = (json.loads(json.dumps(dataclasses.asdict(value))) for value in (config, saved))
    changed = [f"{name}: {old[name]!r} -> {new[name]!r}" for name in new if new[name] != old[name]]
    if changed:
        raise ValueError(f"a resumed run keeps its config, but these differ: {'; '.join(changed)}")


@contextlib.contextmanager
def _numerics(threads: int | None) -> Iterator[None]:
    """Torch's threads and arithmetic during the run."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    # The gradients of the unconstrained 16-block transformer fall below 1e-38, where the processor computes several
    # times slower; flushed to zero, a step takes the time of any other method's. It must be set before torch starts
    # its threads, which inherit it.
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)


@contextlib.contextmanager
def _stop_requests(stop: Callable[[], bool] | None) -> Iterator[Callable[[], bool]]:
    """Answers whether the caller or a signal asked to stop; Ctrl-C and SIGTERM are noted instead of obeyed."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    # Python delivers signals to the main thread only, and lets only it install handlers
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM) if main}
    try:
        yield lambda: bool(received) or (stop is not None and stop())
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _ignore(event: Event) -> None:
    pass


def _finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    return dict(zip(figures, finite(figures.values()), strict=True))


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _count(model: Model) -> int:
    return sum(weight.numel() for weight in model.parameters())


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _median_ms(seconds: list[float]) -> float | None:
    return 1e3 * statistics.median(seconds) if seconds else None
