"""Training runs as they go on: a bar on a terminal, a few lines elsewhere."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    # at run time it would bring torch along
    from metrize.lab.events import Began, Event


@contextlib.contextmanager
def watching(names: Sequence[str], stderr: bool = False) -> Iterator[Callable[[Event], None]]:
    """Shows the events of runs, one run after another.

    Args:
        names: the folder names of all runs, so that each can say which of how many it is.
        stderr: show them there, where standard output belongs to a program.
    """
    console = Console(stderr=stderr)
    if not console.is_terminal:
        yield _Lines(console, names)
        return
    with Progress(*_columns(), console=console) as bars:
        yield _Bar(bars, names)


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} steps/s" if task.speed else "")


def _columns() -> list[ProgressColumn]:
    title = TextColumn("{task.description}", markup=False)
    losses = [TextColumn("{task.fields[loss]}"), TextColumn("{task.fields[held_out]}")]
    times = [_Speed(), TimeRemainingColumn(compact=True)]
    return [title, BarColumn(bar_width=None), MofNCompleteColumn(), *losses, *times]


class _Bar:
    """One bar that each run takes over from the one before."""

    def __init__(self, bars: Progress, names: Sequence[str]) -> None:
        self.bars, self.names = bars, names
        self.task = bars.add_task("starting", total=None, loss="", held_out="")

    def __call__(self, event: Event) -> None:
        from metrize.lab.events import Began, Evaluated, Stepped

        if isinstance(event, Began):
            title = _title(event, self.names)
            self.bars.reset(self.task, total=event.steps, completed=event.first_step, description=title)
        elif isinstance(event, Stepped):
            self.bars.update(self.task, completed=event.step, loss=f"loss {event.loss:.4f}")
        elif isinstance(event, Evaluated):
            self.bars.update(self.task, held_out=f"held-out {event.loss:.4f}")


class _Lines:
    """A line every tenth of a run, for logs."""

    def __init__(self, console: Console, names: Sequence[str]) -> None:
        self.console, self.names = console, names
        self.run: Began  # every run begins with it
        self.start = 0.0

    def __call__(self, event: Event) -> None:
        from metrize.lab.events import Began, Stepped

        if isinstance(event, Began):
            self.run, self.start = event, time.monotonic()
            self._print(_title(event, self.names))
        elif isinstance(event, Stepped) and _tenth(event.step, self.run.steps):
            self._print(f"  step {event.step} of {self.run.steps}  loss {event.loss:.4f}  {self._pace(event.step)}")

    def _pace(self, step: int) -> str:
        speed = (step - self.run.first_step) / max(time.monotonic() - self.start, 1e-9)
        left = datetime.timedelta(seconds=round((self.run.steps - step) / speed))
        return f"{speed:.1f} steps/s  {left} left"

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _tenth(step: int, steps: int) -> bool:
    """Whether this step completes another tenth of the run."""
    return step * 10 // steps > (step - 1) * 10 // steps


def _title(run: Began, names: Sequence[str]) -> str:
    """The method, or where there are several runs, which of them this is; a growing sweep adds to them."""
    name = run.folder.name
    if len(names) < 2:
        return run.label
    return f"{names.index(name) + 1} of {len(names)}: {name}" if name in names else f"further trial: {name}"
