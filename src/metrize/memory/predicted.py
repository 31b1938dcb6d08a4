"""Bytes of a training step, told before anything is allocated."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metrize.optim.optimizer import Optimizer
from metrize.recipe import Recipe
from metrize.spaces import SpaceError
from metrize.step.assembly import executor_of
from metrize.step.assignment import assign
from metrize.step.group import trains

Target = nn.Module | Mapping[str, Sequence[int]] | Iterable[Sequence[int]]
"""What is to be trained: a module, on whatever device, or the shapes of its parameters, named or not."""

Build = Recipe | type[Optimizer] | Callable[[Any], Optimizer]
"""What is to train it: a recipe, an optimizer of the catalogue, or a function from parameters to an optimizer."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Bytes of a model, its gradients, its optimizer and the largest temporary of a step.

    Args:
        parameters: of the model.
        gradients: one for each trained parameter, in its dtype; the largest alone where steps run inside of backward.
        state: of the optimizer, exactly as it will be.
        temporary: the most that a step needs beside, an estimate from above.
        by_key: bytes of state by its key, such as ``exp_avg``.
        by_parameter: bytes of state by parameter.
    """

    parameters: int
    gradients: int
    state: int
    temporary: int
    by_key: dict[str, int]
    by_parameter: dict[str, int]

    @property
    def total(self) -> int:
        """All four together, without activations."""
        return self.parameters + self.gradients + self.state + self.temporary


def predict(
    target: Target,
    recipe: Build,
    *,
    dtype: torch.dtype = torch.float32,
    in_backward: bool = False,
) -> Prediction:
    """The bytes of training a model with an optimizer, without allocating any of them.

    Args:
        target: a module, which may live on the meta device and is not touched; or shapes.
        recipe: a recipe, an optimizer of the catalogue, or a function from parameters to an optimizer.
        dtype: of the parameters, where only shapes are given.
        in_backward: steps are taken inside of backward (`metrize.InBackward`).

    Raises:
        SpaceError: a parameter that the recipe cannot train, by name.
    """
    optimizer = built(target, recipe, dtype)
    by_key: dict[str, int] = {}
    by_parameter: dict[str, int] = {}
    parameters, sizes, temporaries = 0, [], Temporaries()
    for group in optimizer.param_groups:
        for index, (name, p) in enumerate(zip(names_of(group), group["params"], strict=True)):
            parameters += p.numel() * p.element_size()
            by_parameter[name] = 0
            if not trains(p):
                continue
            spec = optimizer.spec(group, index)
            for key, (shape, kind) in spec.items():
                by_key[key] = by_key.get(key, 0) + math.prod(shape) * kind.itemsize
            by_parameter[name] = sum(math.prod(shape) * kind.itemsize for shape, kind in spec.values())
            sizes.append(p.numel() * p.element_size())
            temporaries.add(1, *batch_of(group, index, p))
    gradients = max(sizes, default=0) if in_backward else sum(sizes)
    return Prediction(parameters, gradients, sum(by_key.values()), int(temporaries.most), by_key, by_parameter)


def built(target: Target, recipe: Build, dtype: torch.dtype) -> Optimizer:
    """The optimizer of a target, whose parameters may be mere shapes."""
    params: Any = target if isinstance(target, nn.Module) else _placeholders(target, dtype)
    if not callable(recipe):
        return Optimizer(params, recipe)
    try:
        return recipe(params)
    except SpaceError:  # a method that has to know which tensors are matrices
        divide = getattr(recipe, "divide_shapes", None)
        if divide is None or isinstance(target, nn.Module):
            raise
        return recipe(divide(params))


def _placeholders(shapes: Mapping[str, Sequence[int]] | Iterable[Sequence[int]], dtype: torch.dtype) -> list[Any]:
    named = shapes.items() if isinstance(shapes, Mapping) else ((str(i), shape) for i, shape in enumerate(shapes))
    return [(name, nn.Parameter(torch.empty(tuple(shape), dtype=dtype, device="meta"))) for name, shape in named]


def names_of(group: dict[str, Any]) -> list[str]:
    """The names of a group's parameters, or their places where names were not given."""
    return group.get("param_names") or [f"#{i}" for i in range(len(group["params"]))]


def batch_of(group: dict[str, Any], index: int, p: Tensor) -> tuple[Any, int, int]:
    """The bucket that a tensor is stepped in, the bytes it adds to its temporaries, and the most that these can be.

    The bytes are an estimate from above.
    """
    assignment = assign(group, index, p)
    executor = executor_of(assignment)
    among = executor.together(assignment)
    key = id(group), executor, index if among is None else among
    return key, *executor.temporary(assignment)


class Temporaries:
    """Bytes of temporaries, of one process or of several, while batches are filled tensor by tensor."""

    def __init__(self, ranks: int = 1) -> None:
        self._batches: dict[Any, Tensor] = {}
        self._most: dict[Any, int] = {}
        self._none = torch.zeros(ranks, dtype=torch.int64)

    def add(self, where: Tensor | int, batch: Any, size: int, most: int) -> None:
        """Add what a tensor takes, on those processes where it is stepped.

        Args:
            where: 1 for a process that steps it, else 0.
            batch, size, most: see `batch_of`.
        """
        self._batches[batch] = self._batches.get(batch, self._none) + where * size
        self._most[batch] = max(self._most.get(batch, 0), most)

    @property
    def most(self) -> Tensor:
        """Of each process, in the batch that takes most: one goes after the other."""
        sizes = [size.clamp(max=self._most[batch]) for batch, size in self._batches.items()]
        return torch.stack([self._none, *sizes]).amax(0)
