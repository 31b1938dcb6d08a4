"""The commands; torch, matplotlib and jinja2 are imported by those that need them, so that ``--help`` is quick."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

from metrize import __version__
from metrize.cli import show
from metrize.cli.settings import Count, Every, Json, Setting, Words
from metrize.lab.config import FolderError, RunConfig
from metrize.lab.durable import NotWrittenError

app = App(
    name="metrize",
    help="PyTorch optimizers: plan a model, tell its memory, train, compare, report.",
    version=__version__,
    default_parameter=Parameter(negative=(), show_env_var=False),
    help_format="plaintext",  # the formatters of markup take a fifth of the start
)
data_app = App(name="data", help="Get data sets.")
app.command(data_app)
app.command("metrize.cli.plan:plan", name="plan", help="Show what each parameter of a model does and how to train it.")
app.command("metrize.cli.memory:memory", name="memory", help="Tell what training a model would hold in memory.")


class MendableError(Exception):
    """Something that the user can put right; its text says what."""


class StoppedError(Exception):
    """The user stopped the command; its text says how to go on."""


def run(arguments: Sequence[str]) -> int:
    """Run one command and turn what can go wrong into a line and an exit status."""
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except UnusedCliTokensError as error:
        show.error(_unused(error.unused_tokens or [], arguments))
        return 2
    except (CycloptsError, FolderError, MendableError, NotWrittenError, OSError) as error:
        show.error(_text(error))
        return 2
    except StoppedError as stopped:
        show.note(str(stopped))
        return 130
    except KeyboardInterrupt:
        return 130
    return 0


@app.command
def train(
    setting: Setting = Setting(),
    *,
    optimizer: str = RunConfig.optimizer,
    space: str | None = None,
    option: Words = (),
    seed: int = RunConfig.seed,
    out: Path | None = None,
    resume: Path | None = None,
    as_json: Json = False,
) -> None:
    """Train one model with one method, and draw its report.

    Args:
        setting: What is trained and for how long.
        optimizer: A name of `metrize list`.
        space: The space of the weights that the task constrains, such as "Stiefel()", or none; without it, the task's.
        option: Option of the optimizer, such as momentum=0.5; may be given again.
        seed: Decides the initial weights and the order of the data.
        out: Folder of the run. [default: runs/TASK-METHOD-seedN]
        resume: Go on with the interrupted run in this folder, bit for bit; no other option is needed, and only --nproc
            is possible.
        as_json: Print the table as JSON and nothing else; progress goes to standard error.
    """
    from metrize.cli.progress import watching
    from metrize.lab.compare import parse_options
    from metrize.lab.methods import space_of
    from metrize.lab.report import draw_report
    from metrize.lab.runs import slug
    from metrize.lab.trainer import train as train_run

    with _mendable(ValueError):
        base, options, own = setting.config(), parse_options(option), space_of(setting.task, space)
    config = dataclasses.replace(base, optimizer=optimizer, space=own, options=options, seed=seed)
    if resume:
        _refuse_others(dataclasses.replace(config, nproc=None) != RunConfig() or out is not None)
        with _mendable(ValueError):
            saved = RunConfig.load(resume)
            config = dataclasses.replace(saved, nproc=config.nproc or saved.nproc)
    folder = resume or out or Path("runs", f"{slug(config.task)}-{slug(config.label)}-seed{config.seed}")
    _check([config])
    with _stoppable(f"metrize train --resume {folder}"), watching([folder.name], stderr=as_json) as watch:
        train_run(config, folder, watch, resume=resume is not None)
    show.report(draw_report(folder), as_json)


@app.command
def compare(
    setting: Setting = Setting(),
    *,
    method: Words = (),
    seeds: Count = 1,
    sweep: Words = (),
    extend: Every = 0,
    target: float | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    as_json: Json = False,
) -> None:
    """Train several methods with several seeds, and show them in one table and one report.

    Args:
        setting: What is trained and for how long.
        method: A method, such as "SGD lr=0.01 momentum=0.5 on Stiefel()"; may be given again. Without it, the task's
            own: for digits, mnist and text, the four of arXiv:2305.16901.
        seeds: Runs of each method.
        sweep: Values of an option that every method is tried at before its best one runs with the seeds, such as
            lr=1e-4:1e-1:7, seven of them, or lr=1e-3,3e-3; may be given again.
        extend: How often the sweep may grow by a value, for all methods, beyond an edge where one has its best.
        target: Held-out loss to time; without it, the one that the second best method ends with.
        out: Folder of the comparison. [default: runs/TASK-comparison]
        resume: Go on with the interrupted comparison in this folder; finished runs are not repeated.
        as_json: Print the table as JSON and nothing else; progress goes to standard error.
    """
    from metrize.cli.progress import watching
    from metrize.lab.compare import NothingLeftError, parse_method
    from metrize.lab.compare import compare as compare_runs
    from metrize.lab.runs import Comparison, slug
    from metrize.lab.sweep import parse_grid
    from metrize.lab.tasks import task_of

    with _mendable(ValueError):
        base = setting.config()
        sentences = method or task_of(base).methods
        methods = [parse_method(sentence, base) for sentence in sentences]
        comparison = Comparison(methods, seeds, target, parse_grid(sweep), extend)
    if resume:
        others = (setting != Setting(), method, seeds != 1, sweep, extend, target is not None, out is not None)
        _refuse_others(any(map(bool, others)))
        comparison = Comparison.load(resume)
    folder = resume or out or Path("runs", f"{slug(base.task)}-comparison")
    _check([config for _, config in comparison.trials()] or comparison.methods)
    names = [Path(name).name for name in comparison.names()]
    stoppable = _stoppable(f"metrize compare --resume {folder}")
    with stoppable, _mendable(NothingLeftError), watching(names, stderr=as_json) as watch:
        report = compare_runs(comparison, folder, watch, resume=resume is not None)
    show.report(report, as_json)


@app.command
def report(folder: Path, *, target: float | None = None, csv: Path | None = None, as_json: Json = False) -> None:
    """Draw the report of a run, of a comparison, or of any folder of runs again.

    Args:
        folder: The run, the comparison, or the folder of runs.
        target: Held-out loss to time; without it, the comparison's own, or what the second best method ends with.
        csv: File for a row of each run and of each trial of a sweep, with all of their figures.
        as_json: Print the table as JSON and nothing else.
    """
    from metrize.lab.export import write_csv
    from metrize.lab.report import draw_report

    if csv is not None:
        write_csv(folder, csv)
    show.report(draw_report(folder, target), as_json)


@app.command(name="list")
def list_all(*, as_json: Json = False) -> None:
    """List the optimizers and what each is made of, and the tasks and what each is about.

    Args:
        as_json: Print JSON and nothing else.
    """
    import metrize
    from metrize.lab.tasks import TASKS

    named: dict[str, Any] = metrize.catalogue()
    recipes = {name: optimizer.recipe() for name, optimizer in named.items()}
    tasks = {name: show.facts(task) for name, task in TASKS.items()}
    if as_json:
        show.as_json({"optimizers": {name: show.slots(recipe) for name, recipe in recipes.items()}, "tasks": tasks})
    else:
        show.recipes(recipes, default=metrize.Recipe())
        show.table("task", tasks)


@data_app.command
def mnist(*, data_root: Path) -> None:
    """Get the four files of MNIST.

    Args:
        data_root: Folder to put them into.
    """
    from metrize.lab.data.mnist import fetch_mnist

    with _mendable(RuntimeError):
        files = fetch_mnist(data_root)
    show.note("\n".join(map(str, files)))


@contextlib.contextmanager
def _mendable(*kinds: type[Exception]) -> Iterator[None]:
    """Errors of these kinds are the user's here; anywhere else they would be ours, and deserve a traceback."""
    try:
        yield
    except kinds as error:
        raise MendableError(str(error)) from error


@contextlib.contextmanager
def _stoppable(command: str) -> Iterator[None]:
    """Ctrl-C, and what breaks a run that is saved, say how to go on."""
    from metrize.frames import FrameError
    from metrize.lab.checkpoint import CheckpointError
    from metrize.lab.durable import NotWrittenError
    from metrize.lab.launch import ProcessError
    from metrize.lab.trainer import Interrupted

    try:
        yield
    except (Interrupted, KeyboardInterrupt) as stopped:
        raise StoppedError(f"stopped; go on with: {command}") from stopped
    except (CheckpointError, FrameError, NotWrittenError, ProcessError) as broken:
        raise MendableError(f"{broken}; go on with: {command}") from broken


def _check(configs: Iterable[RunConfig]) -> None:
    from metrize.lab.compare import check

    with _mendable(ValueError, TypeError):
        check(configs)


def _refuse_others(given: bool) -> None:
    if given:
        raise MendableError("--resume reads everything from its folder; leave the other options out")


def _unused(words: Sequence[str], arguments: Sequence[str]) -> str:
    """Words that no option took; where several stand behind one option, how it is given again."""
    text = f"unexpected: {' '.join(words)}"
    behind = len(arguments) - list(reversed(arguments)).index(words[0]) - 1
    flag, first = ["", "", *arguments[:behind]][-2:]
    if not flag.startswith("--"):
        return text
    again = " ".join(f"{flag} {word}" for word in (first, *words))
    return f"{text}\n{flag} takes one value, and one that may be given again is written so: {again}"


def _text(error: Exception) -> str:
    """What an error says, in one line."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return "; ".join(line for line in map(str.strip, str(error).splitlines()) if line)
