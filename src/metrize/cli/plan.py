"""``metrize plan``: what every parameter of a model does, and what would train it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from metrize.calls import near
from metrize.cli import show
from metrize.cli.commands import MendableError
from metrize.cli.settings import Json
from metrize.lab import places
from metrize.lab.places import current_folder, first_line

if TYPE_CHECKING:
    from torch import nn

    from metrize.roles import Plan, PlanRow

_TASK_SAMPLES = 2


def plan(model: str, *, example: str | None = None, as_json: Json = False) -> None:
    """Show what every parameter of a model does, and what would train it.

    Args:
        model: A task of `metrize list`, or a function that makes a model, such as package.module:make_model.
        example: What one forward pass takes: a shape, such as 8x3x32x32, or 2x16:int for token numbers; or a function
            that makes it, such as package.module:make_batch. A task brings its own.
        as_json: Print JSON and nothing else.
    """
    import metrize

    try:
        with current_folder():  # a model may import its neighbours as late as in its forward pass
            made, own = (model_of(model), None) if ":" in model else of_task(model, example)
            drawn = metrize.plan(made, own if example is None else _example(example))
    except (ValueError, TypeError, RuntimeError) as error:
        raise MendableError("\n".join([str(error), *getattr(error, "__notes__", ())])) from error
    except Exception as error:
        if not hasattr(error, "__notes__"):  # which says that the user's model raised it
            raise
        raise MendableError("\n".join([first_line(error), *error.__notes__])) from error
    if as_json:
        show.as_json(_plain(drawn))
    else:
        _show(drawn, Console())


def _show(drawn: Plan, console: Console) -> None:
    """A table for a person, a block for each line of it in a window that is too narrow, plain text for a pipe."""
    from metrize.roles.show import cells, remarks

    if not console.is_terminal:
        print(drawn)
        return
    lines = cells(drawn.rows)
    table = _table(lines)
    shown = [table] if show.fits(table, console) else [part for line in lines for part in _block(*line)]
    console.print(*shown, *map(Text, remarks(drawn.notes, drawn.unused)), sep="\n")


def _table(lines: list[tuple[str, ...]]) -> Table:
    from metrize.roles.show import COLUMNS

    table = Table(*COLUMNS, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for line in lines:
        table.add_row(*map(Text, line))
    return table


def _block(
    name: str, count: str, shape: str, role: str, layout: str, method: str, why: str
) -> Iterator[RenderableType]:
    """The parameter and its role, and under it what trains it and why."""
    yield Text(f"{name} {count}".strip(), style="bold")
    for text in (f"{shape}, {role}", f"{method}, {layout}" if layout else method, why):
        yield Padding(Text(text, overflow="fold"), (0, 0, 0, 2))


def _plain(drawn: Plan) -> dict[str, Any]:
    """Every parameter, unfolded, and what is to be said about the plan."""
    return {"parameters": list(map(_row, drawn.rows)), "notes": list(drawn.notes), "unused": list(drawn.unused)}


def _row(row: PlanRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "names": list(row.names),
        "shape": list(row.shape),
        "role": row.role.kind,
        "layout": str(row.role.layout),
        "recipe": None if row.recipe is None else str(row.recipe),
        "numbers": {key: value if isinstance(value, int | float) else str(value) for key, value in row.numbers.items()},
        "frozen": row.frozen,
        "reason": row.role.reason,
    }


def of_task(name: str, example: str | None) -> tuple[nn.Module, Any]:
    """The model of a task, and samples of its data unless the user brings an example."""
    from metrize.lab.config import RunConfig
    from metrize.lab.tasks import TASKS, task_of

    config = RunConfig(task=name)
    if name not in TASKS:
        raise MendableError(_unknown(name, list(TASKS)))
    task = task_of(config)
    if example is not None:
        return task.build_model(config), None
    try:
        inputs, _ = task.load(config).held_out
    except ValueError as error:
        raise MendableError(f"{error}; or say what the model takes: --example SHAPE") from error
    return task.build_model(config), inputs[:_TASK_SAMPLES]


def _unknown(name: str, tasks: list[str]) -> str:
    """What may stand for a model; `metrize memory` takes public models, which are lists of shapes, too."""
    from metrize.memory import KNOWN

    public = {known.lower() for known in KNOWN}
    own = "or a function that makes a model, such as package.module:make_model"
    if name.lower() in public:
        shapes = f"of {name!r} only the shapes are known, which `metrize memory` reads"
        return f"{shapes}; give a task ({', '.join(tasks)}), {own}"
    return f"unknown model {name!r}{near(name, [*tasks, *KNOWN])}; {own}"


def _example(text: str) -> Any:
    """A tensor of a shape, or what a function makes."""
    import torch

    shape = re.fullmatch(r"(\d+(?:x\d+)*)(:int)?", text)
    if shape is None:
        made = called(text)
        if made is None:
            raise MendableError(f"{text} returned None; it must return what one forward pass of the model takes")
        return made
    sizes = [int(size) for size in shape[1].split("x")]
    if shape[2]:
        return torch.zeros(sizes, dtype=torch.int64)  # a number that every table has
    return torch.randn(sizes, generator=torch.Generator().manual_seed(0))


def model_of(path: str) -> nn.Module:
    """The model that the function at ``package.module:name`` makes."""
    from torch import nn
    from torch.nn.parameter import is_lazy

    made = called(path)
    if not isinstance(made, nn.Module):
        raise MendableError(f"{path} returned {_told(made)}; it must return a torch.nn.Module")
    if lazy := [key for key, parameter in made.named_parameters() if is_lazy(parameter)]:
        raise MendableError(f"{path}: parameter {lazy[0]!r} has no shape yet; call the model once before returning it")
    return made


def called(path: str) -> Any:
    """What the function at ``package.module:name`` returns; modules of the current folder are found too."""
    if ":" not in path:
        raise MendableError(f"{path!r} is neither a shape such as 2x16:int nor a function such as package.module:name")
    try:
        return places.called(path)
    except places.PlaceError as error:
        raise MendableError(str(error)) from error


def _told(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
