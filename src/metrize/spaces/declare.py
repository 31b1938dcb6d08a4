"""Declaring a space where the weight is: on the module, so that it survives deepcopy, pickling and ``.to()``."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from metrize.ambient import isolated
from metrize.linalg import whole
from metrize.spaces.base import Space, SpaceError, parse_space

_RECORD = "metrize_spaces"  # on modules: {parameter name: text}
_TAG = "metrize_space"  # on parameters: text
_revision = 0


@isolated
def constrain(module: nn.Module, name: str, space: Space | None, *, project: bool = True) -> nn.Module:
    """Let a weight of a module live on a space from now on; every optimizer of this library honours it.

    Args:
        module: the module that owns the weight.
        name: the weight's name in that module, such as ``"weight"``.
        space: where it lives; None takes the constraint away.
        project: move the weight to the nearest point of the space; False refuses a weight that is not on it.

    Returns:
        The module.

    Raises:
        AttributeError: the module has no such parameter.
        SpaceError: the space cannot hold the weight, no one point is nearest to it (zeros), the weight is off the space
            and ``project`` is False, or it is tied and lives on another space by its other module.
    """
    weight = module._parameters.get(name)
    if weight is None:
        names = ", ".join(repr(n) for n, p in module._parameters.items() if p is not None)
        raise AttributeError(f"{type(module).__name__} has no parameter {name!r} of its own; it has {names or 'none'}")
    record: dict[str, str] = module.__dict__.setdefault(_RECORD, {})
    if space is None:
        record.pop(name, None)
        weight.__dict__.pop(_TAG, None)
        return module
    with naming(f"{type(module).__name__}.{name}"):
        _refuse_second(declared_space(weight), record.get(name), space)
        space.check(weight)
        if project and weight.device.type != "meta":
            space.project_(weight)
        check_point(space, weight)
    if isinstance(module, _ConvNd) and name == "weight" and space.matrices:
        _warn_of_kernels(type(module).__name__, weight, space)
    if not any(isinstance(hook, _Remind) for hook in module._forward_pre_hooks.values()):
        module.register_forward_pre_hook(_Remind())
    record[name] = repr(space)
    tag(weight, repr(space))
    return module


def _warn_of_kernels(layer: str, weight: Tensor, space: Space) -> None:
    rows, columns = weight.shape[-2:]
    warnings.warn(
        f"{space} reads {layer}.weight of shape {tuple(weight.shape)} as {weight[..., 0, 0].numel()} matrices of "
        f"{rows} x {columns}, one by one. For one matrix (out, in * kernel), let a module of your own keep a weight of "
        "that shape, constrain it, and call torch.nn.functional.conv on a view of it; for filters of length 1, take "
        "Sphere(axis=(1, 2, ...))",
        UserWarning,
        stacklevel=3,
    )


def spaces_of(model: nn.Module) -> dict[str, Space]:
    """The declared spaces of a model's weights, by qualified name."""
    return {name: parse_space(text) for name, (_, text) in _declared(model).items()}


@isolated
def error_on_space(model: nn.Module) -> dict[str, Tensor]:
    """How far each constrained weight is from satisfying its space's equation, by qualified name.

    Returns:
        0-d tensors: for Stiefel the largest ``||Y^T Y - I||_F`` over the matrices of the weight.
    """
    return {name: parse_space(text).error_of(whole(weight)) for name, (weight, text) in _declared(model).items()}


def remind(model: nn.Module) -> None:
    """Write the model's declarations on its parameters, which lose them in a deepcopy."""
    for weight, text in _declared(model).values():
        tag(weight, text)


def declared_space(parameter: Tensor) -> str | None:
    """The text of the space declared for a parameter, as far as the parameter itself knows."""
    text: str | None = getattr(parameter, _TAG, None)
    return text


def _refuse_second(known: str | None, own: str | None, space: Space) -> None:
    """A module may change its mind about its weight, and not about a weight that another module declared too."""
    if known is not None and known not in (own, repr(space)):
        raise SpaceError(f"tied, and already declared on {parse_space(known)}, so it cannot live on {space} as well")


def tag(parameter: Tensor, text: str) -> None:
    """Write a declaration on a parameter, so that an optimizer that is given bare tensors finds it."""
    global _revision
    if declared_space(parameter) != text:
        setattr(parameter, _TAG, text)
        _revision += 1


def revision() -> int:
    """Changes whenever some parameter's declaration does; optimizers look for new ones only then."""
    return _revision


@isolated
def check_point(space: Space, tensor: Tensor, dtype: torch.dtype | None = None) -> None:
    """Refuse a tensor that is off its space by more than rounding to a dtype explains, its own if not said.

    Raises:
        SpaceError: with the error seen, the tolerance and the remedy.
    """
    if tensor.device.type == "meta" or space.flat:
        return
    error, bound = float(space.error_of(whole(tensor))), space.tolerance(tensor.shape, dtype or tensor.dtype)
    if not error <= bound:
        raise SpaceError(
            f"not a point of {space}{space.condition and ', ' + space.condition}: its error is {error:.3g} and at most "
            f"{bound:.3g} is accepted; "
            f"put it there with `{space}.project_(parameter)` or `metrize.constrain(module, name, {space})`"
        )


@contextlib.contextmanager
def naming(name: str | Callable[[], str]) -> Iterator[None]:
    """Prefix the parameter's name, or what tells it then, to a `SpaceError` raised inside."""
    try:
        yield
    except SpaceError as error:
        told = name if isinstance(name, str) else name()
        raise SpaceError(f"parameter {told!r}: {error}") from None


class _Remind:
    """Forward hook: parameters forget attributes in deepcopy and conversion, modules do not."""

    def __call__(self, module: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling():
            return
        for name, text in module.__dict__.get(_RECORD, {}).items():
            weight = module._parameters.get(name)
            if weight is not None and declared_space(weight) is None:
                tag(weight, text)


def _declared(model: nn.Module) -> dict[str, tuple[Tensor, str]]:
    found: dict[str, tuple[Tensor, str]] = {}
    for path, module in model.named_modules():
        for name, text in module.__dict__.get(_RECORD, {}).items():
            weight = module._parameters.get(name)
            if weight is not None:
                found[f"{path}.{name}" if path else name] = (weight, text)
    return found
