"""An optimizer by name, for configuration files and command lines."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

from metrize import calls
from metrize.named import catalogue
from metrize.optim.groups import Params
from metrize.optim.optimizer import Optimizer
from metrize.recipe import parse_recipe


def create(name: str, params: Params, **options: Any) -> torch.optim.Optimizer:
    """Make an optimizer that a configuration names.

    Args:
        name: of the catalogue in any case, such as ``"soap"``; a recipe, such as ``"Recipe(rule=Lion())"``; or where a
            class lies, such as ``"package.module.Class"`` or ``"package.module:Class"``.
        params: a module, parameters, named parameters or groups.
        options: ``lr`` and the other keyword arguments of the optimizer.

    Raises:
        ValueError: nothing of this name is known; says what is near.
        TypeError: an option that the optimizer does not take, or something that is no optimizer.
    """
    if "(" in name:
        return calls.call(Optimizer, params, parse_recipe(name), **options)
    made = calls.call(_found(name), params, **options)
    if not isinstance(made, torch.optim.Optimizer):
        raise TypeError(f"{name!r} makes a {type(made).__name__}, which is no torch.optim.Optimizer")
    return made


def _found(name: str) -> Callable[..., Any]:
    known = catalogue()
    lower = {each.lower(): each for each in known}
    if name.lower() in lower:
        return known[lower[name.lower()]]
    if "." in name or ":" in name:
        return _imported(name)
    raise ValueError(f"unknown optimizer {name!r}{calls.near(name, known)}")


def _imported(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"cannot find the optimizer {path!r}: {error}") from error
    if not callable(found):
        raise TypeError(f"{path!r} is a {type(found).__name__}, which makes no optimizer")
    made: Callable[..., Any] = found
    return made
