"""The figures of a comparison: one row a method, mean and standard deviation over its seeds."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from metrize.lab.events import Evaluated
from metrize.lab.runs import Run, by_method
from metrize.lab.tasks import Figure, task_of


@dataclasses.dataclass(frozen=True)
class Stat:
    """One figure over the seeds of a method.

    Args:
        values: a figure a seed; None where a seed has none.
        of: how many there are of what the figure counts; None where it counts nothing.
    """

    values: tuple[float | None, ...]
    of: int | None = None

    @property
    def known(self) -> list[float]:
        """The figures of the seeds that have one."""
        return [value for value in self.values if value is not None]

    @property
    def mean(self) -> float | None:
        """Mean of the known figures."""
        return statistics.fmean(self.known) if self.known else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation of the known figures, from two of them on."""
        return statistics.stdev(self.known) if len(self.known) > 1 else None


@dataclasses.dataclass(frozen=True)
class Column:
    """A figure of the table.

    Args:
        key: its name in the run's summary, or one of the two target figures.
        title: heading.
        show: writes one number.
        absent: what stands where no seed has the figure; empty if the figure then does not apply.
        best: ``min`` or ``max`` picks the best row; None where best means nothing.
        exact: it is the same in every run, so that one seed tells methods apart.
    """

    key: str
    title: str
    show: Callable[[float], str]
    absent: str = ""
    best: Callable[[Sequence[float]], float] | None = min
    exact: bool = False

    def cell(self, stat: Stat) -> tuple[str, str]:
        """The mean, and a second line with the deviation and how many seeds have the figure where not all do."""
        if stat.mean is None:
            return self.absent or "–", ""
        # Figures that agree to the last digit, such as bytes, need no "± 0.00".
        spread = f"± {self.show(stat.std)}" if stat.std else ""
        part = "" if len(stat.known) == len(stat.values) else f"({len(stat.known)} of {len(stat.values)})"
        whole = "" if stat.of is None else f" of {stat.of}"
        return self.show(stat.mean) + whole, f"{spread} {part}".strip()


_LOSSES = (
    Column("final_train_loss", "train loss", "{:.4f}".format, "diverged"),
    Column("final_eval_loss", "held-out loss", "{:.4f}".format, "diverged"),
)
_COSTS = (
    Column("steps_to_target", "steps to target", "{:.0f}".format, "not reached"),
    Column("seconds_to_target", "seconds to target", "{:.1f}".format, "not reached"),
    Column("ms_per_step", "ms per step", "{:.2f}".format),
    Column("optimizer_ms_per_step", "optimizer, ms per step", "{:.2f}".format),
    Column("state_bytes_per_parameter", "state, bytes per parameter", "{:.2f}".format, exact=True),
    Column("with_basis", "tensors with a basis", "{:.0f}".format, best=None),
    Column("space_error", "error on the manifold", "{:.1e}".format, best=None),
    Column("skipped_steps", "skipped steps", "{:.0f}".format, best=None),
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One method of the table.

    Args:
        label: the method's sentence.
        seeds: the seeds that were run.
        stats: figure by column key.
    """

    label: str
    seeds: tuple[int, ...]
    stats: Mapping[str, Stat]

    def as_json(self) -> dict[str, Any]:
        """Label, seeds, and mean and deviation of each figure, as plain JSON values."""
        figures = {key: {"mean": stat.mean, "std": stat.std} for key, stat in self.stats.items()}
        return {"label": self.label, "seeds": list(self.seeds), **figures}


_CROSSING = ("steps_to_target", "seconds_to_target")


def figures_of(runs: Sequence[Run]) -> dict[str, Figure]:
    """What the tasks of the runs measure beside the loss, by key."""
    return {key: figure for run in runs for key, figure in task_of(run.config).figures.items()}


def columns(runs: Sequence[Run]) -> list[Column]:
    """Every figure that the runs can have: losses, those of their tasks, costs."""
    own = [Column(key, one.title, one.show, "diverged", one.best) for key, one in figures_of(runs).items()]
    return [*_LOSSES, *own, *_COSTS]


def rows(runs: Sequence[Run], target: float | None) -> list[Row]:
    """One row a method.

    Args:
        runs: finished runs.
        target: held-out loss whose first crossing is timed; None times nothing.
    """
    keys = [column.key for column in columns(runs)]
    return [_row(label, group, keys, target) for label, group in by_method(runs).items()]


def useful_columns(known: Sequence[Column], table: Sequence[Row], target: float | None) -> list[Column]:
    """Those that say something: no target, no time to it; no constrained weight, no error of it; no step skipped."""
    needless = _CROSSING if target is None else ()
    applies = {column.key for column in known if column.absent or any(row.stats[column.key].known for row in table)}
    return [column for column in known if column.key in applies and column.key not in needless]


def default_target(runs: Sequence[Run]) -> tuple[str, float] | None:
    """The second best method and the held-out loss that all its seeds reach, so that the time of the best says most.

    None where fewer than two methods arrive without diverging.
    """
    ends = {label: max(map(_end, group)) for label, group in by_method(runs).items()}
    ranked = sorted((end, label) for label, end in ends.items() if math.isfinite(end))
    return (ranked[1][1], ranked[1][0]) if len(ranked) > 1 else None


def _row(label: str, runs: Sequence[Run], keys: Sequence[str], target: float | None) -> Row:
    figures = [{**dataclasses.asdict(run.summary), **run.summary.figures, **_crossing(run, target)} for run in runs]
    stats = {key: Stat(tuple(one.get(key) for one in figures), figures[0].get(f"{key}_of")) for key in keys}
    return Row(label, tuple(run.config.seed for run in runs), stats)


def _end(run: Run) -> float:
    """The last held-out loss, infinite for a run that diverged, so that it ranks last."""
    return math.inf if run.summary.final_eval_loss is None else run.summary.final_eval_loss


def _crossing(run: Run, target: float | None) -> dict[str, float | None]:
    """Step and second of the first evaluation at or below the target."""
    evaluations = (record for record in run.records if isinstance(record, Evaluated))
    first = next((one for one in evaluations if target is not None and one.loss <= target), None)
    return {"steps_to_target": first.step, "seconds_to_target": first.seconds} if first else dict.fromkeys(_CROSSING)
