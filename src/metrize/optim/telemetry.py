"""How large weights and steps are, each in the norm its recipe assigns to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from metrize.ambient import isolated
from metrize.linalg import whole
from metrize.optim.optimizer import Optimizer
from metrize.recipe import parse_recipe
from metrize.step.assignment import as_real
from metrize.step.group import name_of


class Sizes(NamedTuple):
    """Norms of a weight and of its last step, 0-d tensors on the device of the weight.

    Attributes:
        weight: after the step.
        update: of the difference that the step made, weight decay included.
    """

    weight: Tensor
    update: Tensor


@contextlib.contextmanager
def measured(optimizer: Optimizer) -> Iterator[dict[str, Sizes]]:
    """Measure the steps taken inside the ``with`` block, without asking the device for a single number.

    The norm of a parameter is the one its rule descends in: `MaxEntry` for Adam, the norm of a `Steepest` rule for that
    one. Weights that grow, or updates that shrink, in the norm of the output layer are the first sign of a rate that
    does not fit the width (arXiv:2510.03871). It costs a copy of the parameters.

    Args:
        optimizer: whose steps are measured.

    Yields:
        A dict that is empty in the block, and holds `Sizes` by the parameter's name behind it.
    """
    before = _copies(optimizer)
    sizes: dict[str, Sizes] = {}
    yield sizes
    sizes.update(_sizes(optimizer, before))


def _copies(optimizer: Optimizer) -> list[list[Tensor]]:
    return [[whole(p.detach()).clone() for p in group["params"]] for group in optimizer.param_groups]


@isolated
def _sizes(optimizer: Optimizer, before: list[list[Tensor]]) -> dict[str, Sizes]:
    """The norms of all weights and of what they differ by."""
    sizes: dict[str, Sizes] = {}
    for group, kept in zip(optimizer.param_groups, before, strict=True):
        norm = parse_recipe(group["recipe"]).rule.in_norm()
        for index, (p, old) in enumerate(zip(group["params"], kept, strict=True)):
            with torch.no_grad():
                now = as_real(whole(p.detach()))
                pair = torch.stack([now, now - as_real(old)])
            sizes[name_of(group, index)] = Sizes(*norm.norm(pair).unbind())
    return sizes
