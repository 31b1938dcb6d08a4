"""An option does in a parameter group what it does in the constructor, or is refused by its name."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
import re
from collections import OrderedDict
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from torch import nn

import metrize
from metrize import Blocks, Dense, Quantized, Stiefel, Stochastic, frames, norms, rules, step_sizes
from metrize.arguments import arguments_of

CATALOGUE = metrize.catalogue()
KEPT = ("lr", "weight_decay", "maximize", "skip_nonfinite")
TOLD: dict[str, Any] = {
    "space": Stiefel(),
    "frame": frames.COAP(rank=2),
    "moments": Dense("bfloat16"),
    "first_moment": Dense("bfloat16"),
    "step_size": step_sizes.Decaying(power=0.25),
    "decay": "independent",
    "rounding": Stochastic(),
    "norm": norms.RMS(),
    "blocks": {"*head*": Blocks("tensor")},
    "rest": {"lr": 0.125},
    "exponent": 0.25,
    "exponent_override": 0.25,
    "inner": "8bit",
    "grafting": "adam",
    "accuracy": "exact",
    "head_dim": 4,
    "map": "linear",
    "hidden": "frozen",
    "block": 64,
    "rank": 2,
    "min_size": 4,
    "beta3": 0.5,
    "lr": 0.125,
    "eps": 0.25,
    "hidden_lr": 0.25,
    "lr_decay": 0.5,
    "lr_power": 0.25,
    "scale": 0.25,
    "growth": 1.5,
    "relative_step": True,
    "initial_accumulator_value": 0.5,
    "weight_decay": 0.25,
    "momentum": 0.5,
    "dampening": 0.5,
    "decay_rate": -0.3,
    "tolerance": 0.5,
    "shampoo_beta": 0.5,
    "start_preconditioning_step": 3,
}
"""Another legal value of an argument whose annotation does not tell one."""

OWN: dict[tuple[str, str], Any] = {
    ("Muon", "scale"): "adam",
    ("COAPMuon", "scale"): "adam",
    ("FreeMuon", "scale"): "muon",
    ("CAME", "eps"): (1e-20, 1e-10),
    ("Adafactor", "eps"): (1e-20, 1e-2),
    ("Flora", "eps"): (1e-20, 1e-2),
    ("Prodigy", "growth_rate"): 2.0,
    ("FreeMuon", "growth_rate"): 2.0,
    ("FreeMuon", "step_size"): step_sizes.Prodigy(d0=0.5),
    ("Adafactor", "dialect"): "optax",
}
BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    ("SGD", "nesterov"): {"momentum": 0.5},
    ("Adalayer", "freeze_after"): {"hidden": "frozen"},
    ("Adalayer", "hidden_lr"): {"hidden": "sgd"},
    ("Adafactor", "warmup_init"): {"relative_step": True},
    ("Adafactor", "relative_step"): {"lr": 0.5},
    ("APOLLO", "granularity"): {"mini": True},
}
"""What an argument needs beside it, so that it does something."""


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    layers = OrderedDict(embed=nn.Embedding(12, 8), q_proj=nn.Linear(8, 8), lm_head=nn.Linear(8, 12))
    return nn.Sequential(layers).to(dtype)


def default_of(cls: type, name: str) -> Any:
    for base in cls.__mro__:
        parameters = inspect.signature(base.__init__).parameters  # type: ignore[misc]
        if name in parameters and parameters[name].default is not inspect.Parameter.empty:
            return parameters[name].default
    return getattr(vars(cls).get("further"), name, None)


def another(cls: type, name: str) -> Any:
    """A legal value that is not the default."""
    default, annotation = default_of(cls, name), arguments_of(cls)[name]
    if (cls.__name__, name) in OWN:
        return OWN[cls.__name__, name]
    if isinstance(default, bool) or annotation == "bool":
        return not default
    choices = re.findall(r"'(\w+)'|\"(\w+)\"", annotation) if "Literal" in annotation else []
    for choice in (a or b for a, b in choices):
        if choice != default:
            return choice
    if annotation.startswith("tuple[float, float"):
        return (0.5,) * annotation.count("float")
    if name in TOLD and TOLD[name] != default:
        return TOLD[name]
    return default + 1 if isinstance(default, int) else default / 2


def content(optimizer: metrize.Optimizer, start: int) -> dict[str, Any]:
    """Recipe, numbers and declared state of every parameter of the groups from `start` on."""
    found = {}
    for group in optimizer.param_groups[start:]:
        recipe = metrize.parse(group["recipe"])
        numbers = {key: group[key] for key in (*KEPT, *recipe.hyper())}  # type: ignore[attr-defined]
        for index, name in enumerate(group["param_names"]):
            found[name] = (group["recipe"], numbers, optimizer.spec(group, index))
    return found


SWEEP = [(name, option) for name, cls in CATALOGUE.items() for option in arguments_of(cls)]


@pytest.mark.filterwarnings("ignore:weight_decay=.*does nothing")
@pytest.mark.parametrize(("name", "option"), SWEEP)
def test_a_group_honours_every_argument_of_the_constructor(name: str, option: str) -> None:
    cls = CATALOGUE[name]
    told = {**BESIDE.get((name, option), {}), option: another(cls, option)}
    dtype = torch.bfloat16 if option == "rounding" else torch.float32

    def members() -> Any:
        if option != "space":
            return model(dtype)
        return [("weight", nn.Parameter(Stiefel().project_(torch.randn(8, 4, generator=generator()))))]

    try:
        right = content(cls(members(), **told), 0)
    except metrize.SpaceError as refused:  # and as clearly in a group
        with pytest.raises(metrize.SpaceError, match=re.escape(str(refused))):
            cls([{"params": members(), **told}])
        return
    plain = content(cls(members(), **BESIDE.get((name, option), {})), 0)
    later = cls(model(dtype))
    start = len(later.param_groups)
    later.add_param_group({"params": members(), **told})
    assert content(later, start) == right
    assert content(cls([{"params": members(), **told}]), 0) == right
    assert right != plain
