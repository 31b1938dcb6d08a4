"""``metrize memory``: what training a model would hold in memory, for every optimizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from metrize.cli import show
from metrize.cli.commands import MendableError
from metrize.cli.plan import called, of_task

if TYPE_CHECKING:
    from metrize.memory import Prediction, Target

_PARTS = ("parameters", "gradients", "state", "temporary")
_HEADINGS = ("weights", "grads", "state", "temp.")
_COLOURS = {"parameters": "#7d8590", "gradients": "#4a9fd1", "state": "#d55e00", "temporary": "#b98300"}
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Line:
    """What one optimizer needs.

    Args:
        optimizer: its name in the catalogue.
        needs: None where it cannot train these parameters.
        reason: why it cannot.
    """

    optimizer: str
    needs: Prediction | None
    reason: str = ""


def memory(
    model: str | None = None,
    *,
    optimizer: list[str] | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    in_backward: bool = False,
    fits: float | None = None,
    picture: Path | None = None,
    json: bool = False,
) -> None:
    """Tell the bytes of parameters, gradients, optimizer state and the largest temporary, without a run.

    Args:
        model: A public model such as "GPT-2 small" or LLaMA-7B, a task of `metrize list`, or a function that makes a
            model, such as package.module:make_model. Left out, the known models are listed.
        optimizer: Names of the catalogue; all of them if left out.
        dtype: Of the parameters, where the model is known by its shapes.
        in_backward: Steps are taken inside of backward, so that one gradient lives at a time.
        fits: Memory of the device in GB (10^9 bytes); tells which optimizers leave room.
        picture: Write a bar chart to this PNG or SVG file.
        json: Print JSON instead of a table.
    """
    from metrize.memory import KNOWN

    if model is None:
        show.note("\n".join(KNOWN))
        return
    target = _target(model)
    lines = sorted(_lines(target, optimizer, dtype, in_backward), key=lambda line: _total(line.needs))
    if picture is not None:
        draw(model, lines, fits, picture)
    if json:
        show.as_json([_plain(line) for line in lines])
    else:
        _print(model, lines, fits)


def draw(title: str, lines: list[Line], fits: float | None, path: Path) -> None:
    """A bar for each optimizer, its four parts side by side, as a PNG or SVG file."""
    from matplotlib.figure import Figure

    told = [(line.optimizer, line.needs) for line in lines if line.needs is not None]
    figure = Figure(figsize=(8, 0.8 + 0.28 * len(told)), layout="constrained")
    axes = figure.add_subplot()
    left = [0.0] * len(told)
    for part in _PARTS:
        widths = [getattr(needs, part) / _GIB for _, needs in told]
        axes.barh([name for name, _ in told], widths, left=left, label=part, color=_COLOURS[part])
        left = [a + b for a, b in zip(left, widths, strict=True)]
    if fits is not None:
        axes.axvline(fits * 1e9 / _GIB, color="#1f2933", linestyle="--", label=f"{fits:g} GB")
    axes.invert_yaxis()
    axes.set_xlabel("GiB, without activations")
    axes.set_title(title)
    axes.legend(loc="upper right", frameon=False)
    figure.savefig(path, dpi=150)


def _target(name: str) -> Target:
    """Shapes of a public model, or the model of a task or a function."""
    from metrize.memory import KNOWN

    found = {known.lower(): known for known in KNOWN}.get(name.lower())
    if found:
        return KNOWN[found]()
    try:
        made: Any = called(name) if ":" in name else of_task(name, None)[0]
    except ValueError as error:
        raise MendableError(f"{error}\nor one of the public models: {', '.join(KNOWN)}") from error
    return made


def _lines(target: Target, names: list[str] | None, dtype: str, in_backward: bool) -> Iterator[Line]:
    import torch

    import metrize

    catalogue = metrize.catalogue()
    for name in names or catalogue:
        if name not in catalogue:
            raise MendableError(f"unknown optimizer {name!r}; known: {', '.join(catalogue)}")
        try:
            needs = metrize.predict(target, catalogue[name], dtype=getattr(torch, dtype), in_backward=in_backward)
        except (ValueError, TypeError) as error:
            yield Line(name, None, str(error))
        else:
            yield Line(name, needs)


def _print(title: str, lines: list[Line], fits: float | None) -> None:
    table = Table(
        title=f"{title}: GiB, without activations", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left"
    )
    table.add_column("optimizer", no_wrap=True)
    for heading in (*_HEADINGS, "total", *([f"≤ {fits:g} GB"] if fits else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in lines:
        if line.needs is not None:
            numbers = [f"{getattr(line.needs, part) / _GIB:.3f}" for part in (*_PARTS, "total")]
            answer = ["yes" if line.needs.total <= fits * 1e9 else "no"] if fits else []
            table.add_row(line.optimizer, *numbers, *answer)
    Console().print(table)
    for line in lines:
        if line.needs is None:
            show.note(f"{line.optimizer}: {line.reason}")


def _total(needs: Prediction | None) -> float:
    return float("inf") if needs is None else needs.total


def _plain(line: Line) -> dict[str, Any]:
    if line.needs is None:
        return {"optimizer": line.optimizer, "reason": line.reason}
    return {"optimizer": line.optimizer, **{part: getattr(line.needs, part) for part in (*_PARTS, "total")}}
