"""``metrize memory``: what training a model would hold in memory, for every optimizer."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from metrize import sizes
from metrize.calls import near
from metrize.cli import show
from metrize.cli.commands import MendableError
from metrize.cli.plan import model_of, of_task

if TYPE_CHECKING:
    from metrize.memory import Prediction, RankPrediction, ShardedPrediction, Target

_PARTS = {"parameters": "weights", "gradients": "grads", "state": "state", "copies": "copies", "temporary": "temp."}
_COLOURS = {
    "parameters": "#7d8590",
    "gradients": "#4a9fd1",
    "state": "#d55e00",
    "copies": "#8a6bb8",
    "temporary": "#b98300",
}
_GB = 10**9  # as on the label of a device
_PIPE = 120  # columns, where nobody's window has fewer


@dataclasses.dataclass(frozen=True)
class Line:
    """What one optimizer needs.

    Args:
        optimizer: its name in the catalogue.
        needs: of the one process, or of the fullest; None where it cannot train these parameters.
        sharded: of all processes, if they are several.
        reason: why it cannot.
    """

    optimizer: str
    needs: Prediction | RankPrediction | None
    sharded: ShardedPrediction | None = None
    reason: str = ""


_Told = Callable[[str, "Target"], Line]
"""What the optimizer of this name needs."""


def memory(
    model: str | None = None,
    *,
    optimizer: list[str] | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    in_backward: bool = False,
    ranks: int | None = None,
    fits: float | None = None,
    picture: Path | None = None,
    json: bool = False,
) -> None:
    """Tell the bytes of parameters, gradients, optimizer state and the largest temporary, without a run.

    Args:
        model: A public model such as "GPT-2 small" or LLaMA-7B, a task of `metrize list`, or a function that makes a
            model, such as package.module:make_model. Left out, the known models are listed.
        optimizer: A name of the catalogue; may be given again. Left out, all of them are told.
        dtype: Of the parameters, where the model is known by its shapes.
        in_backward: Steps are taken inside of backward, so that one gradient lives at a time.
        ranks: Processes over which fully_shard cuts every parameter, of one replica where there are several; tells what
            each holds and sends.
        fits: Memory of the device in GB (10^9 bytes); tells which optimizers leave room.
        picture: Write a bar chart to this PNG or SVG file.
        json: Print JSON instead of a table.
    """
    from metrize.memory import KNOWN

    if model is None:
        show.note("\n".join(KNOWN))
        return
    if ranks is not None and in_backward:
        raise MendableError("--in-backward steps whole parameters and --ranks cuts them; leave out one of both")
    told = _sharded(ranks, dtype) if ranks is not None else _alone(dtype, in_backward)
    lines = sorted(_lines(_target(model), optimizer, told), key=lambda line: _total(line.needs))
    if picture is not None:
        draw(model, lines, fits, picture)
    if json:
        show.as_json([_plain(line) for line in lines])
    elif ranks is not None:
        _print_sharded(
            f"{model} on {ranks} ranks: bytes a rank without activations, and bytes sent a step", lines, fits
        )
    else:
        _print(f"{model}: bytes, without activations", lines, fits)
    if optimizer and any(line.needs is None for line in lines):
        sys.exit(2)  # who asked for one has no answer


def draw(title: str, lines: list[Line], fits: float | None, path: Path) -> None:
    """A bar for each optimizer, its parts side by side, as a PNG or SVG file."""
    from matplotlib.figure import Figure

    told = [(line.optimizer, line.needs) for line in lines if line.needs is not None]
    figure = Figure(figsize=(8, 0.8 + 0.28 * len(told)), layout="constrained")
    axes = figure.add_subplot()
    size, name = sizes.unit(max((needs.total for _, needs in told), default=0))
    left = [0.0] * len(told)
    for part in _parts(lines):
        widths = [getattr(needs, part) / size for _, needs in told]
        axes.barh([name for name, _ in told], widths, left=left, label=part, color=_COLOURS[part])
        left = [a + b for a, b in zip(left, widths, strict=True)]
    if fits is not None:
        axes.axvline(fits * _GB / size, color="#1f2933", linestyle="--", label=f"{fits:g} GB")
    axes.invert_yaxis()
    axes.set_xlabel(f"{name}, without activations")
    axes.set_title(title)
    axes.legend(loc="upper right", frameon=False)
    try:
        figure.savefig(path, dpi=150)
    except ValueError as error:  # no format of that name
        raise MendableError(f"{path}: {error}") from error


def _target(name: str) -> Target:
    """Shapes of a public model, or the model of a task or a function."""
    from metrize.memory import KNOWN

    found = {known.lower(): known for known in KNOWN}.get(name.lower())
    if found:
        return KNOWN[found]()
    try:
        made: Any = model_of(name) if ":" in name else of_task(name, None)[0]
    except ValueError as error:
        raise MendableError(f"{error}\nor one of the public models: {', '.join(KNOWN)}") from error
    return made


def _alone(dtype: str, in_backward: bool) -> _Told:
    """What one process needs."""
    import torch

    import metrize

    def tell(name: str, target: Target) -> Line:
        kind = metrize.catalogue()[name]
        return Line(name, metrize.predict(target, kind, dtype=getattr(torch, dtype), in_backward=in_backward))

    return tell


def _sharded(ranks: int, dtype: str) -> _Told:
    """What each of several processes needs."""
    import torch

    import metrize

    if ranks < 1:
        raise MendableError(f"--ranks {ranks}: at least 1")

    def tell(name: str, target: Target) -> Line:
        kind = metrize.catalogue()[name]
        sharded = metrize.predict_sharded(target, kind, ranks, dtype=getattr(torch, dtype))
        return Line(name, sharded.most, sharded)

    return tell


def _lines(target: Target, names: list[str] | None, told: _Told) -> Iterator[Line]:
    import metrize

    catalogue = metrize.catalogue()
    for name in names or catalogue:
        if name not in catalogue:
            raise MendableError(f"unknown optimizer {name!r}{near(name, catalogue)}")
        try:
            yield told(name, target)
        except (ValueError, TypeError) as error:
            yield Line(name, None, reason=str(error))


def _print(title: str, lines: list[Line], fits: float | None) -> None:
    table = _table(title, "optimizer", *_parts(lines).values(), "total", *_fits_heading(fits))
    for line in lines:
        if line.needs is not None:
            table.add_row(line.optimizer, *_sizes(line.needs, lines), *_fits(line.needs, fits))
    _show(table, lines)


def _print_sharded(title: str, lines: list[Line], fits: float | None) -> None:
    """Two rows for each optimizer: the mean process, and the largest of each number."""
    headings = (*_parts(lines).values(), "total", *_fits_heading(fits), "sent", "calls")
    table = _table(title, "optimizer", *headings)
    for line in lines:
        if line.sharded is not None:
            for name, needs in ((line.optimizer, line.sharded.mean), ("  most", line.sharded.most)):
                traffic = sizes.written(needs.sent), str(line.sharded.collectives)
                table.add_row(name, *_sizes(needs, lines), *_fits(needs, fits), *traffic)
    _show(table, lines)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "optimizer" else "right", no_wrap=True)
    return table


def _show(table: Table, lines: list[Line]) -> None:
    console = Console()
    (console if console.is_terminal else Console(width=_PIPE)).print(table)
    for line in lines:
        if line.needs is None:
            show.note(f"{line.optimizer}: {line.reason}")


def _parts(lines: list[Line]) -> dict[str, str]:
    """What is told of a process, with headings; copies are those of several."""
    several = any(line.sharded is not None for line in lines)
    return {part: heading for part, heading in _PARTS.items() if several or part != "copies"}


def _sizes(needs: Prediction | RankPrediction, lines: list[Line]) -> list[str]:
    return [sizes.written(getattr(needs, part)) for part in (*_parts(lines), "total")]


def _fits_heading(fits: float | None) -> list[str]:
    return [] if fits is None else [f"≤ {fits:g} GB"]


def _fits(needs: Prediction | RankPrediction, fits: float | None) -> list[str]:
    return [] if fits is None else ["yes" if needs.total <= fits * _GB else "no"]


def _total(needs: Prediction | RankPrediction | None) -> float:
    return float("inf") if needs is None else needs.total


def _plain(line: Line) -> dict[str, Any]:
    if line.needs is None:
        return {"optimizer": line.optimizer, "reason": line.reason}
    if line.sharded is None:
        return {"optimizer": line.optimizer, **_numbers(line.needs, [line])}
    shares = {"mean": line.sharded.mean, "most": line.sharded.most}
    told = {share: {**_numbers(needs, [line]), "sent": needs.sent} for share, needs in shares.items()}
    return {"optimizer": line.optimizer, **told, "collectives": line.sharded.collectives}


def _numbers(needs: Prediction | RankPrediction, lines: list[Line]) -> dict[str, int]:
    return {part: getattr(needs, part) for part in (*_parts(lines), "total")}
