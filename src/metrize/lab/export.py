"""The runs and trials of a folder as plain rows, for other programs."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metrize.lab.config import RunConfig, made, read
from metrize.lab.durable import write_text
from metrize.lab.runs import Comparison, failure_of, is_finished
from metrize.lab.summary import Summary


def rows(folder: Path) -> list[dict[str, Any]]:
    """One mapping a run: what was run, what became of it, and its figures.

    ``kind`` is ``trial`` for a trial of a sweep and ``run`` for any other; ``status`` is ``finished``, ``diverged``,
    ``failed`` or ``unfinished``. The options of the optimizer are ``option.NAME``, the figures of the task
    ``figure.NAME``.

    Args:
        folder: a run, a comparison, or a folder of runs.

    Raises:
        FileNotFoundError: there is no run in the folder.
        FolderError: a run is damaged, or of another version.
    """
    found = [_row(folder, name) for name in _places(folder) if (folder / name / "config.json").exists()]
    if not found:
        raise FileNotFoundError(f"no run in {folder}")
    return found


def write_csv(folder: Path, file: Path) -> None:
    """Write the rows of a folder, with a column for every key that any of them has.

    Raises:
        FileNotFoundError: there is no run in the folder.
        FolderError: a run is damaged, or of another version.
    """
    table = rows(folder)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in table for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    write_text(file, text.getvalue())


def _places(folder: Path) -> Sequence[str]:
    if (folder / "config.json").exists():
        return ["."]
    if (folder / "comparison.json").exists():
        return Comparison.load(folder).names()
    return sorted(path.parent.name for path in folder.glob("*/config.json"))


def _row(folder: Path, name: str) -> dict[str, Any]:
    place, config = folder / name, RunConfig.load(folder / name)
    told = {key: value for key, value in dataclasses.asdict(config).items() if key not in ("options", "model")}
    told |= {f"option.{key}": value for key, value in config.options.items()}
    told |= {f"model.{key}": value for key, value in config.model.items()}
    kind = "trial" if name.startswith("trials/") else "run"
    first = {"place": name, "kind": kind, "method": config.label, "status": "unfinished"}
    if (error := failure_of(place)) is not None:
        return {**first, "status": "failed", "error": error, **told}
    if not is_finished(place):
        return {**first, **told}
    summary: dict[str, Any] = dataclasses.asdict(read(place / "summary.json", lambda content: made(Summary, content)))
    own = {f"figure.{key}": value for key, value in summary.pop("figures").items()}
    done = {"steps_done": summary.pop("steps")}
    told |= {key: value for key, value in {**done, **summary}.items() if key not in ("label", "seed", "diverged")}
    return {**first, "status": "diverged" if summary["diverged"] else "finished", **told, **own}
