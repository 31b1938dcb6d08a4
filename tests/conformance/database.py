"""Entries of torch's optimizer database made of ours: the whole catalogue, and recipes that have no name there.

The database is private to torch (``torch.testing._internal``).
"""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import VARIANTS
from torch.optim.lr_scheduler import (
    ConstantLR,
    ExponentialLR,
    LinearLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from torch.testing._internal.common_optimizers import OptimizerInfo, OptimizerInput

import metrize
from metrize import Dense, Recipe, rules

Inputs = Callable[..., list[OptimizerInput]]


class AdamBfloat16(metrize.Adam):
    """Averages in another storage: no fused kernel."""

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, moments=Dense("bfloat16"), **options)


class AdamScalar(metrize.Adam):
    """One second moment for each parameter."""

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, second_moment="scalar", **options)


class AdamWBfloat16(metrize.AdamW):
    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, moments=Dense("bfloat16"), **options)


class SGDBfloat16(metrize.SGD):
    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, moments=Dense("bfloat16"), **options)


class Descent(metrize.Optimizer):
    """A recipe without a name in the catalogue, and without averages."""

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, Recipe(rule=rules.Gradient()), **options)


def entries(*options: dict[str, Any]) -> Inputs:
    """Fresh inputs at every call, because tests and schedulers write to them."""

    def inputs(device: str, dtype: torch.dtype | None = None) -> list[OptimizerInput]:
        return [OptimizerInput(params=None, kwargs=copy.deepcopy(kwargs), desc=str(kwargs)) for kwargs in options]

    return inputs


ADAM = entries(
    {},
    {"lr": 0.01},
    {"lr": torch.tensor(0.001)},
    {"betas": (0.5, 0.9), "eps": 1e-4},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "maximize": True},
    {"skip_nonfinite": False},
)
SGD = entries(
    {"lr": 1e-2},
    {"lr": torch.tensor(0.001)},
    {"lr": 1e-2, "weight_decay": 0.5},
    {"lr": 1e-2, "momentum": 0.9},
    {"lr": 1e-2, "weight_decay": 0.1, "maximize": True},
    {"lr": 1e-2, "momentum": 0.9, "dampening": 0.5},
    {"lr": 1e-2, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
)
DESCENT = entries({"lr": 1e-2}, {"lr": torch.tensor(0.01)}, {"lr": 1e-2, "weight_decay": 0.1, "maximize": True})


QUICK: dict[str, dict[str, Any]] = {
    "DistributedShampoo": {"epsilon": 1e-4},
    "FreeMuon": {"d0": 1e-3},
    "Prodigy": {"d0": 1e-3},
}
"""Numbers with which 20 steps on a few entries get anywhere."""


def of_method(method: str) -> Inputs:
    """Its defaults, the options that the contract is tested with, and those that every optimizer has."""
    quick = QUICK.get(method, {})
    lr = inspect.signature(metrize.catalogue()[method]).parameters["lr"].default or 0.01
    ascent = {"lr": lr, "maximize": True} | ({"constrained": False} if method == "Scion" else {})
    variants = [{**quick, **options} for options in VARIANTS.get(method, []) if "hidden_lr" not in options]
    return entries(quick, *filter(None, variants), {**quick, "lr": torch.tensor(lr)}, {**quick, **ascent})


SCHEDULERS = (
    [lambda opt: StepLR(opt, gamma=0.9, step_size=10), lambda opt: ReduceLROnPlateau(opt)],
    [lambda opt: LinearLR(opt, start_factor=0.4, total_iters=4), lambda opt: ExponentialLR(opt, gamma=0.9)],
    [lambda opt: PolynomialLR(opt, power=0.9, total_iters=4)],
    [
        lambda opt: SequentialLR(
            opt, schedulers=[ConstantLR(opt, factor=0.4, total_iters=4), ExponentialLR(opt, gamma=0.9)], milestones=[4]
        )
    ],
)

INPUTS: dict[type[metrize.Optimizer], Inputs] = {
    **{cls: of_method(name) for name, cls in metrize.catalogue().items()},
    metrize.Adam: ADAM,
    metrize.AdamW: ADAM,
    metrize.SGD: SGD,
    AdamBfloat16: ADAM,
    AdamScalar: ADAM,
    AdamWBfloat16: ADAM,
    SGDBfloat16: SGD,
    Descent: DESCENT,
}


ALWAYS = (metrize.Adam, metrize.AdamW, metrize.SGD)


class Entry(OptimizerInfo):
    """Every test runs on what is used most and on an eighth of the rest, drawn by name; all others are slow tests."""

    def get_decorators(self, test_class: Any, test_name: str, *rest: Any) -> list[Any]:
        kept = self.optim_cls in ALWAYS or random.Random(test_name + self.name).random() < 1 / 8
        return [*super().get_decorators(test_class, test_name, *rest), *([] if kept else [pytest.mark.slow])]


def takes_complex(cls: type[metrize.Optimizer]) -> bool:
    """As pairs of real numbers; `test_complex.py` has those that refuse them, and Scion, which goes by their shape."""
    try:
        cls([torch.nn.Parameter(torch.ones(3, 2, dtype=torch.complex64))])
    except metrize.SpaceError:
        return False
    return cls is not metrize.Scion


DATABASE = [
    Entry(
        cls,
        optim_inputs_func=inputs,
        scheduler_inputs=SCHEDULERS,
        supported_impls=(),
        not_og_supported_flags=(),
        supports_complex=takes_complex(cls),
    )
    for cls, inputs in INPUTS.items()
]

MATRICES = {cls for cls in metrize.catalogue().values() if issubclass(cls, metrize.Muon)}
"""Optimizers that take nothing but matrices."""

INTERMEDIATES = {
    metrize.Adam: 0,
    metrize.AdamW: 0,
    metrize.SGD: 0,
    AdamBfloat16: 5,
    AdamScalar: 3,
    AdamWBfloat16: 5,
    SGDBfloat16: 4,
    Descent: 2,
}
"""Tensors of a large parameter's size that a step of these may make besides the state."""
