"""The figures of a report, each drawn once and kept as a PNG file and as SVG for the page."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, FormatStrFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from metrize.lab.durable import replacing
from metrize.lab.events import Evaluated, Record, SpaceChecked, Stepped
from metrize.lab.runs import Comparison, Run, labels
from metrize.lab.summary import Summary
from metrize.lab.sweep import numeric, value_of
from metrize.lab.tasks import Figure as TaskFigure
from metrize.lab.tasks import Profile

# Told apart with any colour vision, and at least 3:1 against both the white and the dark page.
COLOURS = ("#1479bd", "#d55e00", "#009e73", "#b98300", "#c06a98", "#4a9fd1", "#7d8590")
# Lines, ticks and words; on the page it becomes the colour of the text, light or dark.
_INK = "#1f2933"
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": _INK,
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.alpha": 0.15,
    "grid.color": _INK,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}
_DASHES = ("-", "--", ":", "-.")
# A page with ten curves of 15,000 points would weigh megabytes and look the same.
_POINTS = 400
# Characters; of labels this long, two do not fit side by side.
_LONG = 38

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A finished figure.

    Args:
        name: stem of its PNG file.
        title: what it shows.
        svg: the figure as an ``<svg>`` element, without outside references.
    """

    name: str
    title: str
    svg: str


@dataclasses.dataclass(frozen=True)
class _Curve:
    """A quantity over a run: mean, lowest and highest of the seeds at each x."""

    x: Array
    mean: Array
    low: Array
    high: Array


@dataclasses.dataclass(frozen=True)
class _Lines:
    """What a line figure shows: ``key`` of the ``kind`` lines over ``x``; ``log`` None leaves that to the values."""

    name: str
    title: str
    kind: type[Record]
    key: str
    x: str
    log: bool | None = None


_LINES = (
    _Lines("train-loss-by-step", "Train loss by step", Stepped, "loss", "step"),
    _Lines("train-loss-by-second", "Train loss by second", Stepped, "loss", "seconds"),
    _Lines("held-out-loss-by-step", "Held-out loss by step", Evaluated, "loss", "step"),
    _Lines("held-out-loss-by-second", "Held-out loss by second", Evaluated, "loss", "seconds"),
)
_SPACE = _Lines("space-error-by-step", "Error on the manifold by step", SpaceChecked, "error", "step", log=True)


def draw(
    methods: Mapping[str, Sequence[Run]],
    figures: Mapping[str, TaskFigure],
    folder: Path,
    swept: Comparison | None = None,
) -> list[Drawing]:
    """Draw every figure that has something to show, and write its PNG into the folder.

    Args:
        methods: runs by method label; the order gives the colours.
        figures: what the tasks measure beside the loss, by key.
        folder: where the PNG files go.
        swept: the comparison whose trials lie in the folder.
    """
    with matplotlib.rc_context(_STYLE):
        names = numeric(swept.grid) if swept is not None else []
        tried = [_keep(f"held-out-loss-by-{name}", _tried(name), _sweep_figure(name, swept, folder), folder)
                 for name in names if swept is not None]  # fmt: skip
        lines = [
            _keep(what.name, what.title, _line_figure(what, methods), folder) for what in _drawable(methods, figures)
        ]
        profiles = [
            _keep(profile.name, profile.title, _profile_figure(profile, methods), folder)
            for profile in {one.name: one for one in _profiles(methods)}.values()
        ]
        return [*tried, *lines, *profiles, _keep("memory", "Memory", _memory_figure(methods), folder)]


def smoothing_window(steps: int) -> int:
    """Steps of the trailing mean that smooths the train loss: a fiftieth of the run."""
    return max(1, steps // 50)


def _drawable(methods: Mapping[str, Sequence[Run]], figures: Mapping[str, TaskFigure]) -> list[_Lines]:
    runs = [run for group in methods.values() for run in group]
    known = [*_LINES, *(_lines_of(key, figure) for key, figure in figures.items()), _SPACE]
    return [what for what in known if any(set(run.series(what.kind, what.key)) - {None} for run in runs)]


def _lines_of(key: str, figure: TaskFigure) -> _Lines:
    # what grows toward a best value, such as a share of right answers, ends where a logarithmic axis is flat
    log = False if figure.best is max else None
    return _Lines(f"{key}-by-step", f"{figure.title[0].upper()}{figure.title[1:]} by step", Evaluated, key, "step", log)


def _profiles(methods: Mapping[str, Sequence[Run]]) -> list[Profile]:
    return [profile for group in methods.values() for run in group for profile in run.profiles]


def _keep(name: str, title: str, figure: Figure, folder: Path) -> Drawing:
    with replacing(folder / f"{name}.png") as stream:
        figure.savefig(stream, format="png", dpi=200, facecolor="white")
    text = io.StringIO()
    # The salt makes the inner ids of each figure its own, so that several fit on one page.
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return Drawing(name, title, svg[svg.index("<svg") :].replace(_INK, "currentColor"))


def _line_figure(what: _Lines, methods: Mapping[str, Sequence[Run]]) -> Figure:
    return _curves_figure(what.title, {label: _curve(runs, what) for label, runs in methods.items()}, {}, what.log)


def _profile_figure(what: Profile, methods: Mapping[str, Sequence[Run]]) -> Figure:
    curves = {label: _profile_curve(runs, what.name) for label, runs in methods.items()}
    references = {name: _span(np.array(what.x), _positive([curve])) for name, curve in what.references.items()}
    return _curves_figure(what.title, curves, references, None)


def _curves_figure(
    title: str, curves: Mapping[str, _Curve | None], references: Mapping[str, _Curve], log: bool | None
) -> Figure:
    names = [*curves, *references]
    columns = 2 if max(map(len, names)) < _LONG else 1
    figure, axes = _blank(height=2.9 + 0.2 * math.ceil(len(names) / columns))
    for index, (label, curve) in enumerate(curves.items()):
        if curve is not None:
            _draw_curve(axes, curve, label, _look(index))
    for dash, (name, curve) in zip(itertools.cycle(_DASHES[1:]), references.items(), strict=False):
        _draw_curve(axes, curve, name, (_INK, dash))
    what, x = title.split(" by ")
    axes.set(xlabel=x, ylabel=what[0].lower() + what[1:], xlim=(0, None))
    if log or (log is None and _ratio(axes) > 10):
        _use_log(axes)
    figure.legend(loc="outside lower left", ncols=columns, handlelength=1.4)
    return figure


def _tried(option: str) -> str:
    return f"Held-out loss of the trials by {option}"


def _sweep_figure(option: str, swept: Comparison, folder: Path) -> Figure:
    """Held-out loss over one swept option; where others are swept too, at their best."""
    curves: dict[str, _Curve | None] = {}
    for index, ends in swept.ends(folder).items():
        best: dict[float, float] = {}
        for loss, config in ends:
            value = value_of(config, option)
            best[value] = min(loss, best.get(value, math.inf))
        x = np.array(sorted(best), dtype=np.float64)
        y = np.array([[best[value] for value in x]])
        curves[labels(swept.methods)[index]] = _span(x, y) if best else None
    figure = _curves_figure(_tried(option), curves, {}, None)
    (axes,) = figure.axes
    for line in axes.lines:
        line.set_marker("o")
    least, most = min(swept.grid[option]), max(swept.grid[option])
    if least > 0 and most / least > 10:
        axes.set(xscale="log", xlim=(least / 1.3, most * 1.3))
    return figure


def _draw_curve(axes: Axes, curve: _Curve, label: str, look: tuple[str, str]) -> None:
    colour, dash = look
    axes.plot(curve.x, curve.mean, dash, color=colour, label=label)
    axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)


def _look(index: int) -> tuple[str, str]:
    """Colour and dash of the method at this place; dashes begin where the colours begin again."""
    return COLOURS[index % len(COLOURS)], _DASHES[index // len(COLOURS) % len(_DASHES)]


def _curve(runs: Sequence[Run], what: _Lines) -> _Curve | None:
    """The seeds of one method laid over each other; the curve ends with the shortest of them."""
    values = _stack([run.series(what.kind, what.key) for run in runs])
    x = _stack([run.series(what.kind, what.x) for run in runs]).mean(axis=0)
    if not x.size:
        return None
    window = smoothing_window(x.size) if what.kind is Stepped else 1
    smooth = np.lib.stride_tricks.sliding_window_view(values, window, axis=1).mean(axis=-1)
    kept = np.unique(np.linspace(0, smooth.shape[1] - 1, _POINTS).astype(int))
    return _span(x[window - 1 :][kept], smooth[:, kept])


def _profile_curve(runs: Sequence[Run], name: str) -> _Curve | None:
    """The seeds of one method laid over each other."""
    own = [profile for run in runs for profile in run.profiles if profile.name == name]
    return _span(np.array(own[0].x), _positive([profile.y for profile in own])) if own else None


def _positive(series: Sequence[Sequence[float | None]]) -> Array:
    """An error that is exactly 0 at the start has no place on a logarithmic axis."""
    values = _stack(series)
    return np.where(values == 0, np.nan, values)


def _span(x: Array, values: Array) -> _Curve:
    return _Curve(x, values.mean(axis=0), values.min(axis=0), values.max(axis=0))


def _stack(series: Sequence[Sequence[float | None]]) -> Array:
    length = min(map(len, series))
    return np.array([values[:length] for values in series], dtype=np.float64)


def _ratio(axes: Axes) -> float:
    """Largest over smallest value of the lines; above ten, a linear axis would hide the end of the race."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for line in axes.lines])
    values = values[np.isfinite(values)]
    return float(values.max() / values.min()) if values.size and values.min() > 0 else 1.0


def _use_log(axes: Axes) -> None:
    axes.set_yscale("log", nonpositive="clip")
    # Within two decades the powers of ten alone would leave one or two ticks.
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if _ratio(axes) < 200 else (1.0,)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _memory_figure(methods: Mapping[str, Sequence[Run]]) -> Figure:
    figure, axes = _blank(height=1.2 + 0.5 * len(methods))
    for index, (label, runs) in enumerate(methods.items()):
        _draw_bar(axes, runs[0].summary, index)
        axes.annotate(label, (0, index - 0.15), xytext=(0, 2.5), textcoords="offset points", va="bottom")
    axes.set_ylim(len(methods) - 0.5, -0.75)
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_formatter(EngFormatter(unit="B"))
    axes.set_xlabel("bytes held between two steps")
    greys = [Patch(color=_INK, alpha=alpha, linewidth=0) for alpha in (0.45, 0.2)]
    handles = [*greys, Patch(color=COLOURS[0], linewidth=0)]
    figure.legend(handles, ["parameters", "gradients", "optimizer state"], loc="outside lower left", ncols=3)
    return figure


def _draw_bar(axes: Axes, summary: Summary, index: int) -> None:
    """Parameters, gradients (of the same size and type) and optimizer state, end to end."""
    weights, state = summary.parameter_bytes, summary.state_bytes
    style: dict[str, Any] = {"height": 0.3, "linewidth": 0}
    axes.barh(index, weights, color=_INK, alpha=0.45, **style)
    axes.barh(index, weights, left=weights, color=_INK, alpha=0.2, **style)
    axes.barh(index, state, left=2 * weights, color=_look(index)[0], **style)


def _blank(height: float) -> tuple[Figure, Axes]:
    # Narrow on purpose: words stay readable when a phone shrinks the figure to its width.
    figure = Figure(figsize=(5.2, height), layout="constrained")
    return figure, figure.add_subplot()
