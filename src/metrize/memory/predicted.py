"""Bytes of a training step, told before anything is allocated."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metrize.bucket import Bucket, Fused
from metrize.groups import space_of
from metrize.kinds import kind_of
from metrize.optimizer import Optimizer
from metrize.recipe import Recipe, parse_recipe
from metrize.spaces.base import compute_dtype
from metrize.streamed import Streamed, piece_size

Target = nn.Module | Mapping[str, Sequence[int]] | Iterable[Sequence[int]]
"""What is to be trained: a module, on whatever device, or the shapes of its parameters, named or not."""

Build = Recipe | type[Optimizer] | Callable[[Any], Optimizer]
"""What is to train it: a recipe, an optimizer of the catalogue, or a function from parameters to an optimizer."""

_TEMPORARIES: dict[type[Bucket], int] = {Fused: 0, Streamed: 8}
_OTHERWISE = 6  # float32 copies of a batch that a journey through all its parts keeps alive at the most


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
    sizes, temporary = [], 0
    for group in optimizer.param_groups:
        for index, (name, p) in enumerate(zip(names_of(group), group["params"], strict=True)):
            spec = optimizer.spec(group, index)
            for key, (shape, kind) in spec.items():
                by_key[key] = by_key.get(key, 0) + math.prod(shape) * kind.itemsize
            by_parameter[name] = sum(math.prod(shape) * kind.itemsize for shape, kind in spec.values())
            sizes.append(p.numel() * p.element_size())
            temporary = max(temporary, temporary_of(group, index, p))
    gradients = max(sizes, default=0) if in_backward else sum(sizes)
    return Prediction(sum(sizes), gradients, sum(by_key.values()), temporary, by_key, by_parameter)


def built(target: Target, recipe: Build, dtype: torch.dtype) -> Optimizer:
    """The optimizer of a target, whose parameters may be mere shapes."""
    params: Any = target if isinstance(target, nn.Module) else _placeholders(target, dtype)
    return Optimizer(params, recipe) if isinstance(recipe, Recipe) else recipe(params)


def _placeholders(shapes: Mapping[str, Sequence[int]] | Iterable[Sequence[int]], dtype: torch.dtype) -> list[Any]:
    named = shapes.items() if isinstance(shapes, Mapping) else ((str(i), shape) for i, shape in enumerate(shapes))
    return [(name, nn.Parameter(torch.empty(tuple(shape), dtype=dtype, device="meta"))) for name, shape in named]


def names_of(group: dict[str, Any]) -> list[str]:
    """The names of a group's parameters, or their places where names were not given."""
    return group.get("param_names") or [f"#{i}" for i in range(len(group["params"]))]


def temporary_of(group: dict[str, Any], index: int, p: Tensor) -> int:
    """Bytes that stepping a tensor takes for a while; an estimate from above."""
    recipe = parse_recipe(group["recipe"])
    kind = kind_of(recipe, space_of(group, index, recipe), p, group)
    numbers = p.numel() if kind is not Streamed else min(p.numel(), piece_size(p))
    return _TEMPORARIES.get(kind, _OTHERWISE) * numbers * compute_dtype(p.dtype).itemsize
