"""One recipe, one answer: the same tensor, stepped by every executor that accepts it, in pieces, or in part."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe
from metrize.step import assembly, flat, piecewise
from metrize.step.assignment import assign
from metrize.step.bucket import Bucket
from metrize.step.exchange import Exchange
from metrize.step.windows import ShardSpan

PIECE = 48
"""Numbers of a piece, so that a small matrix goes through a step in several."""


def draw(seed: int, shape: Any) -> Tensor:
    """Random numbers in float64, the same for a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def executors(recipe: Recipe, p: Tensor, **numbers: Any) -> list[type[Bucket]]:
    """Those that accept, asked through the one list that the library asks."""
    optimizer = Optimizer([p], recipe, **numbers)
    assignment = assign(optimizer.param_groups[0], 0)
    return [executor for executor in assembly.EXECUTORS if executor.accepts(assignment)]


@contextlib.contextmanager
def small_pieces(executor: type[Bucket] | None = None) -> Iterator[None]:
    """Pieces of a few numbers, and one executor alone if it is named."""
    chosen = assembly.EXECUTORS if executor is None else (executor,)
    with (
        mock.patch.object(piecewise, "piece_size", return_value=PIECE),
        mock.patch.object(flat, "portion_size", return_value=PIECE),
        mock.patch.object(assembly, "EXECUTORS", chosen),
    ):
        yield


def run(
    recipe: Recipe,
    p: Tensor,
    executor: type[Bucket] | None = None,
    steps: int = 3,
    gradient: Callable[[int, Tensor], Tensor] | None = None,
    **options: Any,
) -> Tensor:
    """Where a few steps in small pieces lead, by one executor if it is named.

    Args:
        recipe: what trains.
        p: the parameter.
        executor: that takes the steps; None: whichever the library chooses.
        steps: how many.
        gradient: from the number of the step and the parameter to its gradient; None: random numbers.
        options: of the optimizer.
    """
    with small_pieces(executor):
        optimizer = Optimizer([p], recipe, **{"lr": 0.05, "weight_decay": 0.3, **options})
        _steps(optimizer, p, steps, gradient or _random)
        assert executor is None or type(optimizer.buckets[0]) is executor
    return p.detach().clone()


def run_part(recipe: Recipe, whole: Tensor, rows: slice, steps: int = 2, **options: Any) -> Tensor:
    """Where some rows of a matrix go, stepped without the rest, as by a process that holds them alone."""
    part = nn.Parameter(whole.detach()[rows].clone())
    span = ShardSpan(rows.start * whole[0].numel(), whole.numel())
    optimizer = Optimizer([part], recipe, **{"lr": 0.05, "weight_decay": 0.3, **options})
    with small_pieces(), mock.patch.object(Exchange, "span", return_value=span):
        _steps(optimizer, part, steps, lambda step, p: draw(step, whole.shape)[rows].to(p.dtype))
    return part.detach()


def _random(step: int, p: Tensor) -> Tensor:
    return torch.empty_like(p).copy_(draw(step, p.shape))


def _steps(optimizer: Optimizer, p: Tensor, steps: int, gradient: Callable[[int, Tensor], Tensor]) -> None:
    for step in range(steps):
        p.grad = gradient(step, p)
        optimizer.step()
