"""What the commands put on the screen."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    # at run time it would bring torch and matplotlib along
    from metrize.lab.report import Column, Report, Row
    from metrize.lab.tasks import Task
    from metrize.recipe import Recipe

# Characters after which a heading goes on in the next line.
_HEADING = 14
_LOOK: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}


def error(text: str) -> None:
    """A line on standard error, not wrapped, so that paths and commands can be copied."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(Text("error: ", style="red").append(text, "default"))


def note(text: str) -> None:
    """Plain words on standard output, not wrapped, so that paths and commands can be copied."""
    Console(soft_wrap=True, highlight=False).print(Text(text))


def report(drawn: Report, plain: bool = False) -> None:
    """The table of a report, its target, and where its page lies; as JSON if `plain`."""
    if plain:
        as_json(
            {
                "verdict": drawn.verdict,
                "target": drawn.target,
                "rows": [row.as_json() for row in drawn.rows],
                "page": str(drawn.page),
            }
        )
        return
    console = Console()
    console.print(*_results(drawn, console))
    if drawn.verdict:
        note(drawn.verdict)
    if drawn.target is not None:
        of = f", where {drawn.target_of} ends" if drawn.target_of else ""
        note(f"target: held-out loss {drawn.target:.4f}{of}")
    note(f"report: {drawn.page}")


def slots(recipe: Recipe) -> dict[str, str | None]:
    """The parts of a recipe as their sentences; None for a space that the weight declares."""
    parts = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    return {name: None if part is None else str(part) for name, part in parts.items()}


def as_json(value: Any) -> None:
    """JSON and nothing else, for other programs."""
    Console().out(json.dumps(value, indent=2), highlight=False)


def facts(task: Task) -> dict[str, str | None]:
    """What a task is about, its own space (None if its weights are free), and what it measures beside the loss."""
    figures = ", ".join(figure.title for figure in task.figures.values())
    return {"about": task.about, "space": task.space, "figures": figures}


def recipes(known: Mapping[str, Recipe], default: Recipe) -> None:
    """A row an optimizer, with what sets its recipe apart from the default one, which stands below."""
    table("optimizer", {name: {"recipe": str(recipe)} for name, recipe in known.items()})
    told = ", ".join(f"{slot}={part or 'as declared'}" for slot, part in slots(default).items())
    note(f"where a recipe says nothing: {told}")


def table(title: str, rows: Mapping[str, Mapping[str, str | None]]) -> None:
    """A row a name, a column a fact."""
    listed = Table(title, *next(iter(rows.values())), **_LOOK)
    listed.columns[0].no_wrap = True
    for name, row in rows.items():
        listed.add_row(name, *(Text(value or "none") for value in row.values()))
    Console().print(listed)


def _results(drawn: Report, console: Console) -> list[Table]:
    """One table where it fits; else on its side, figures down and methods across, in as many parts as it takes."""
    head = ["", *(column.title for column in drawn.columns)]
    rows = [[row.label, *_cells(row, drawn.columns)] for row in drawn.rows]
    parts = [_table([head, *rows])]
    for size in range(len(rows), 0, -1):
        if all(fits(part, console) for part in parts):
            break
        starts = range(0, len(rows), size)
        parts = [_table(list(zip(head, *rows[start : start + size], strict=True))) for start in starts]
    return parts


def fits(table: Table, console: Console) -> bool:
    """Whether no cell of a table has to be broken."""
    unbounded = console.options.update(max_width=10_000)
    return console.measure(table, options=unbounded).maximum <= console.width


def _cells(row: Row, columns: Sequence[Column]) -> list[str]:
    return ["\n".join(filter(None, column.cell(row.stats[column.key]))) for column in columns]


def _table(grid: Sequence[Sequence[str]]) -> Table:
    """Names on the left and above are broken between words, figures never."""
    table = Table(**_LOOK)
    for index, title in enumerate(grid[0]):
        table.add_column(Text(_fill(title)), justify="right" if index else "left", no_wrap=True)
    for name, *figures in grid[1:]:
        table.add_row(Text(_fill(name)), *map(Text, figures))
    return table


def _fill(name: str) -> str:
    return textwrap.fill(name, _HEADING, break_long_words=False, break_on_hyphens=False)
