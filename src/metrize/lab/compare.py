"""Several methods, several seeds, one setting: run one after another and shown in one table."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from metrize.lab import methods
from metrize.lab.config import FolderError, RunConfig
from metrize.lab.durable import first_line, write_text
from metrize.lab.events import Event
from metrize.lab.launch import ProcessError
from metrize.lab.report import Report, draw_report
from metrize.lab.runs import Comparison, end_of, failure_of, is_finished
from metrize.lab.tasks import task_of
from metrize.lab.tasks.own import rehearse
from metrize.lab.trainer import train

_OF_A_TRIAL = (ArithmeticError, RuntimeError, TypeError, ValueError)
"""What an optimizer or a model may raise at a point of a grid; all else, such as a full disk, ends a sweep."""


class NothingLeftError(Exception):
    """No trial of a sweep came to its end; the text says what became of them."""


def compare(
    comparison: Comparison, folder: Path, on_event: Callable[[Event], None] | None = None, resume: bool = False
) -> Report:
    """Train every method with every seed, each in a folder of its own, and draw the report.

    A trial of a sweep that fails is written down, and the others go on.

    Args:
        comparison: what to run; seed 0 of all methods comes first, so that an early stop still compares them.
        folder: where to keep it; made if missing.
        on_event: called with each event of each run.
        resume: go on with the comparison in the folder; finished runs are not repeated.

    Raises:
        Interrupted: a run was asked to stop; it is saved.
        FileExistsError: the folder holds runs already, and ``resume`` is off.
        NothingLeftError: no trial of a sweep came to its end.
    """
    if not resume:
        _occupy(folder, comparison)
    comparison = _tried(comparison, folder, on_event)
    for name, config in comparison.runs(folder):
        _run(config, folder / name, on_event)
    return draw_report(folder)


def _tried(comparison: Comparison, folder: Path, on_event: Callable[[Event], None] | None) -> Comparison:
    """The comparison with all of its trials over, and the grid that they came to."""
    for name, config in comparison.trials():
        with _failing(config, folder / name):
            _run(config, folder / name, on_event)
    if comparison.grid and not comparison.best(folder):
        raise NothingLeftError(f"no trial came to its end; {_failures(comparison, folder)}")
    if (wider := comparison.wider(folder)) is None:
        return comparison
    wider.save(folder)
    return _tried(wider, folder, on_event)


def _run(config: RunConfig, place: Path, on_event: Callable[[Event], None] | None) -> None:
    """Train in a folder, or go on there, unless it is over."""
    if not is_finished(place) and failure_of(place) is None:
        train(config, place, on_event, resume=(place / "config.json").exists())


@contextlib.contextmanager
def _failing(config: RunConfig, place: Path) -> Iterator[None]:
    """A trial that may fail, which is written down in its folder."""
    try:
        yield
    except (FolderError, ProcessError):
        raise
    except _OF_A_TRIAL as error:
        place.mkdir(parents=True, exist_ok=True)
        config.save(place)
        write_text(place / "failed.json", json.dumps({"error": first_line(error)}) + "\n")


def _failures(comparison: Comparison, folder: Path) -> str:
    """What became of the trials that have no result, in a few words."""
    told = [failure_of(folder / name) or "diverged" for name, _ in comparison.trials() if end_of(folder / name) is None]
    return ", ".join(f"{told.count(one)} of them: {one}" for one in dict.fromkeys(told))


def check(configs: Iterable[RunConfig]) -> None:
    """Build everything once, so that a misspelt method ends a comparison before its first step and not hours into it.

    Raises:
        ValueError: a name or a value is not known.
        TypeError: an option is not known.
        FileNotFoundError: the data are missing.
    """
    threads = torch.get_num_threads()
    # The trainer sets its arithmetic before torch starts worker threads, which inherit it; one thread starts none.
    torch.set_num_threads(1)
    try:
        for config in configs:
            model, _ = methods.build(config)
            data = task_of(config).load(config)
            if ":" in config.task:
                rehearse(config.task, model, data, config.seed, config.batch_size)
    finally:
        torch.set_num_threads(threads)


def parse_method(sentence: str, setting: RunConfig) -> RunConfig:
    """The configuration that a sentence such as ``SGD lr=0.01 momentum=0.5 on Stiefel()`` describes.

    Args:
        sentence: optimizer, options of it, and after `` on `` the space of the task's constrained weights; without it
            the task's own, and `` on none`` none.
        setting: everything that the sentence does not say.

    Raises:
        ValueError: an option is not ``name=value``, or the task is unknown.
    """
    method, _, space = sentence.partition(" on ")
    # Values such as (0.9, 0.99) hold spaces, so a word ends only where the next name begins.
    first, *words = re.split(r"\s+(?=\w+=)", method.strip())
    optimizer, *bare = first.split() or [""]
    options = parse_options([*bare, *words])
    lr = _number(options.pop("lr", setting.lr))
    own = methods.space_of(setting.task, space.strip())
    return dataclasses.replace(setting, optimizer=optimizer, space=own, lr=lr, options=options)


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """``["momentum=0.5"]`` as ``{"momentum": 0.5}``; a value that is no Python literal stays text.

    Raises:
        ValueError: a word is not ``name=value``.
    """
    return dict(map(_parse_option, words))


def _parse_option(word: str) -> tuple[str, Any]:
    name, equals, value = word.partition("=")
    if not (name.isidentifier() and equals):
        raise ValueError(f"{word!r} has no value: an option is written name=value")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        pass
    _refuse_bare(value)
    return name, value


def _refuse_bare(value: str) -> None:
    """A word behind a value that is one by itself, as in ``0.1 nesterov``."""
    head, _, last = value.rpartition(" ")
    try:
        ast.literal_eval(head)
    except (ValueError, SyntaxError):
        return
    raise ValueError(f"{last!r} has no value: an option is written name=value")


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"lr={value!r} is no number") from None


def _occupy(folder: Path, comparison: Comparison) -> None:
    if any((folder / name).exists() for name in ("comparison.json", "config.json")):
        raise FileExistsError(f"{folder} holds runs; go on with them (--resume) or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    comparison.save(folder)
