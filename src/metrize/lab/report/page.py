"""One HTML page that holds everything: settings, table, figures, and how to read them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2

from metrize.lab.config import LATER, RunConfig
from metrize.lab.durable import write_text
from metrize.lab.report import plots
from metrize.lab.report.table import (
    Column,
    Row,
    columns,
    default_target,
    figures_of,
    rows,
    useful_columns,
)
from metrize.lab.report.verdict import best_rows, verdict
from metrize.lab.runs import Comparison, Run, by_method, read_runs, shared_settings

_SILENT = ("checkpoint_every", "data_root")
_DEFAULTS = {name: getattr(RunConfig, name) for name in LATER}


@dataclasses.dataclass(frozen=True)
class Report:
    """A drawn report.

    Args:
        rows: the table, a row a method.
        columns: the columns of the table that say something.
        page: the HTML file.
        target: held-out loss whose first crossing the table times; None where there is none.
        target_of: the method that ends with that loss; None if the target was given.
        verdict: who is lowest, and whether the seeds tell it apart from the others; empty for a single method.
    """

    rows: Sequence[Row]
    columns: Sequence[Column]
    page: Path
    target: float | None
    target_of: str | None
    verdict: str = ""


def draw_report(folder: Path, target: float | None = None) -> Report:
    """Write ``report.html`` and its figures into a folder of finished runs; a comparison also gets ``summary.json``.

    Args:
        folder: a run, a comparison, or a folder of runs.
        target: held-out loss to time; None takes the comparison's own, else the end of the second best method.

    Raises:
        FileNotFoundError: there is no finished run in the folder.
    """
    runs = read_runs(folder)
    given = _chosen_target(folder) if target is None else target
    target_of, reached = (None, given) if given is not None else default_target(runs) or (None, None)
    table = rows(runs, reached)
    report = Report(table, useful_columns(columns(runs), table, reached), folder / "report.html", reached, target_of,
                    verdict(table, folder))  # fmt: skip
    if not (folder / "config.json").exists():
        _write_summary(folder, report)
    write_text(report.page, _page(folder, runs, report))
    return report


def _comparison(folder: Path) -> Comparison | None:
    return Comparison.load(folder) if (folder / "comparison.json").exists() else None


def _chosen_target(folder: Path) -> float | None:
    return None if (told := _comparison(folder)) is None else told.target


def _write_summary(folder: Path, report: Report) -> None:
    content = {"verdict": report.verdict, "target": report.target, "rows": [row.as_json() for row in report.rows]}
    write_text(folder / "summary.json", json.dumps(content, indent=2) + "\n")


def _page(folder: Path, runs: Sequence[Run], report: Report) -> str:
    methods = by_method(runs)
    configs = [run.config for run in runs]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("metrize.lab.report", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.jinja").render(
        title=_title(configs, list(methods)),
        settings=_settings(configs, runs[0]),
        report=report,
        best=best_rows(report.columns, report.rows),
        colours=plots.COLOURS,
        drawings=plots.draw(methods, figures_of(runs), folder, _comparison(folder)),
        references=list(dict.fromkeys(name for run in runs for profile in run.profiles for name in profile.references)),
        eval_every=configs[0].eval_every,
        window=plots.smoothing_window(configs[0].steps),
        seeds=max(len(group) for group in methods.values()),
        version=version("metrize"),
    )


def _title(configs: Sequence[RunConfig], names: Sequence[str]) -> str:
    what = names[0] if len(names) == 1 else f"{len(names)} methods"
    tasks = ", ".join(dict.fromkeys(config.task for config in configs))
    return f"{what} on {tasks}"


def _settings(configs: Sequence[RunConfig], first: Run) -> dict[str, str]:
    """What the methods share and decides their numbers; what is left to its default None is not said."""
    shared = {
        name.replace("_", " "): value
        for name, value in shared_settings(configs).items()
        if name not in _SILENT and _DEFAULTS.get(name, ...) != value
    }
    seeds = list(dict.fromkeys(config.seed for config in configs))
    told = {"seed" if len(seeds) == 1 else "seeds": ", ".join(map(str, seeds))}
    known = {**shared, **told, "parameters": f"{first.summary.parameters:,}"}
    return {name: _words(value) for name, value in known.items() if value not in (None, {})}


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return str(value)
