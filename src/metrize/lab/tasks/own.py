"""Tasks that are not the lab's: made of a model, batches and a loss, and found by their place."""

from __future__ import annotations

import functools
import inspect
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metrize import calls
from metrize.lab import places
from metrize.lab.data.batches import Batches, Streamed, samples_in, seeded
from metrize.lab.data.streams import stream
from metrize.lab.tasks.base import Figure, Task

METHODS = ("AdamW lr=1e-3", "Muon lr=0.02 rest={'lr': 1e-3}", "SOAP lr=3e-3")
"""What a comparison trains unless told otherwise."""


def task(
    model: Callable[..., nn.Module],
    train: Batches,
    loss: Callable[[Any, Any], Tensor],
    held_out: Batches,
    figures: Mapping[str, Callable[[Any, Any], float] | tuple[Callable[[Any, Any], float], Figure]] | None = None,
    *,
    about: str = "a task of one's own",
    methods: Sequence[str] = METHODS,
) -> Task:
    """A task of one's own, which `metrize train` and `metrize compare` take as ``package.module:name``.

    Models may use torch's own random numbers, in their initial weights and in dropout; a run's seed decides them.

    Args:
        model: makes the model; the ``--model`` options are its arguments, and ``generator`` is one if it has it.
        train: batches that can be gone through again, such as a DataLoader, or a function that yields those of one
            pass and takes any of ``batch_size`` and ``generator``.
        loss: of a model and a batch, 0-d, the mean over the samples.
        held_out: batches that `train` does not contain, in the same form.
        figures: what else is measured, by title: a function of a model and all held-out batches, or the pair of it and
            a `Figure`, which says how to write it and which is better.
        about: what it is, in a few words.
        methods: what a comparison trains unless told otherwise.

    Raises:
        TypeError: an argument is of the wrong kind.
    """
    _check_callable(model=model, loss=loss)
    _check_batches(train=train, held_out=held_out)
    measured = {name: _figure(name, given) for name, given in (figures or {}).items()}
    return Task(
        about,
        functools.partial(_model, model),
        lambda _: Streamed(train, held_out),
        figures={name: figure for name, (_, figure) in measured.items()},
        evaluate=functools.partial(_evaluate, loss, {name: measure for name, (measure, _) in measured.items()}),
        methods=tuple(methods),
        loss=functools.partial(_loss, loss),
    )


@functools.cache
def task_at(path: str) -> Task:
    """The task at ``package.module:name``, or that a function there returns.

    Raises:
        ValueError: there is none; says what is there.
    """
    value = places.found(path)
    made = value if isinstance(value, Task) or not callable(value) else places.called(path)
    if isinstance(made, Task):
        return made
    kind = "None" if made is None else f"a {type(made).__name__}"
    verb = "is" if made is value else "returned"
    raise ValueError(f"{path} {verb} {kind}; a task is what metrize.lab.task(model=, train=, loss=, held_out=) makes")


def rehearse(path: str, model: nn.Module, data: Any, seed: int, batch_size: int) -> None:
    """Compute the loss of a batch and the figures once, so that what is wrong is told before the first step.

    Args:
        path: place of the task.
        model: its model.
        data: its data.
        seed: of the run.
        batch_size: of the run.

    Raises:
        ValueError: something fails; says where.
    """
    own = task_at(path)
    try:
        with seeded(stream(seed, "rehearsal")):
            own.loss(model, data.batch(seed, 0, batch_size))
            own.evaluate(model.eval(), data)
    except Exception as error:  # whatever the user's functions raise
        said = str(error) if type(error) is ValueError else f"{places.first_line(error)}, {places.place(error)}"
        raise ValueError(f"{path}: {said}") from error


def _model(make: Callable[..., nn.Module], generator: torch.Generator, **options: Any) -> nn.Module:
    if "generator" in inspect.signature(make).parameters:
        options["generator"] = generator
    with seeded(generator):
        made = calls.call(make, **options)
    if not isinstance(made, nn.Module):
        raise ValueError(f"model made a {type(made).__name__}; it must make a torch.nn.Module")
    return made


def _loss(function: Callable[[Any, Any], Tensor], model: nn.Module, batch: Any) -> Tensor:
    loss = function(model, batch)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        kind = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise ValueError(f"loss gave {kind}; it must give one number, a 0-d tensor")
    return loss.squeeze()


@torch.no_grad()
def _evaluate(
    loss: Callable[[Any, Any], Tensor],
    figures: Mapping[str, Callable[[Any, Any], float]],
    model: nn.Module,
    data: Streamed,
) -> dict[str, float]:
    batches = data.held_out
    sizes = list(map(samples_in, batches))
    losses = [_loss(loss, model, batch).item() for batch in batches]
    mean = sum(size * one for size, one in zip(sizes, losses, strict=True)) / sum(sizes)
    return {"loss": mean, **{name: _number(name, measure(model, batches)) for name, measure in figures.items()}}


def _number(name: str, value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value.item())
    if not isinstance(value, numbers.Real):
        raise ValueError(f"figure {name!r} gave a {type(value).__name__}; it must give one number")
    return float(value)


def _figure(name: str, given: Any) -> tuple[Callable[[Any, Any], float], Figure]:
    measure, figure = given if isinstance(given, tuple) else (given, Figure(name, "{:.4g}".format, None))
    _check_callable(**{f"figures[{name!r}]": measure})
    if name == "loss":
        raise TypeError("a figure cannot be called 'loss', which is the held-out loss")
    return measure, figure


def _check_callable(**given: Any) -> None:
    for name, value in given.items():
        if not callable(value) or isinstance(value, nn.Module):
            raise TypeError(f"{name} is a {type(value).__name__}; it must be a function")


def _check_batches(**given: Any) -> None:
    for name, value in given.items():
        if not callable(value) and not hasattr(value, "__iter__"):
            raise TypeError(f"{name} is a {type(value).__name__}; it must be an iterable, or a function that yields")
