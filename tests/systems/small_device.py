"""A make-believe device without float64, such as Apple's; it computes on the host and calls itself another place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("mps")
_WIDE = (torch.float64, torch.complex128)
_ACROSS = (Tensor.copy_, torch._foreach_copy_)  # may read what lies elsewhere


_Generator = torch.Generator


class _HostGenerator:
    def __new__(cls, device: Any = None) -> Any:
        return _Generator()


class WrongPlaceError(RuntimeError):
    """What the device raises."""


class OnDevice(Tensor):
    """A tensor that lies on the device."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


class Device(TorchFunctionMode):
    """While it is open, what is made on the device lies there, and its generators are the host's."""

    def __enter__(self) -> Any:
        torch.Generator = _HostGenerator
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch.Generator = _Generator
        super().__exit__(*error)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


def on_device(tensor: Tensor) -> OnDevice:
    """A copy there.

    Raises:
        WrongPlaceError: it is in float64.
    """
    return _there(tensor.detach().clone())


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if function == Tensor.device.__get__:
        return DEVICE if isinstance(args[0], OnDevice) else torch.device("cpu")
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    place = _asked(function, args, kwargs)
    there = any(isinstance(x, OnDevice) for x in given) if place is None else place == DEVICE
    if there and place is None and function not in _ACROSS:
        _refuse_mixture(function, given)
    with torch._C.DisableTorchFunction():
        made = function(*_mapped(_here, args), **_mapped(_here, kwargs))
    return _mapped(lambda x: _placed(x, given if place is None else [], there), made)


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _mapped(change, inner) for key, inner in value.items()}
    if isinstance(value, tuple | list) and not isinstance(value, torch.Size):
        return type(value)([_mapped(change, inner) for inner in value])
    return change(value)


def _asked(function: Any, args: Any, kwargs: dict[str, Any]) -> torch.device | None:
    """Where a result is asked to lie; None: with the arguments."""
    if function is Tensor.cpu:
        return torch.device("cpu")
    words = [*(args[1:] if function in (Tensor.to, Tensor.type_as) else ()), kwargs.get("device")]
    for word in words:
        if isinstance(word, Tensor):
            return DEVICE if isinstance(word, OnDevice) else torch.device("cpu")
        if isinstance(word, str | torch.device):
            return torch.device(word)
    return None


def _here(value: Any) -> Any:
    place = isinstance(value, str | torch.device) and value in (DEVICE, str(DEVICE))
    return torch.device("cpu") if place else value


def _placed(value: Any, given: list[Tensor], there: bool) -> Any:
    if not isinstance(value, Tensor) or any(value is x for x in given):
        return value
    return _there(value) if there else value.as_subclass(Tensor)


def _there(tensor: Tensor) -> OnDevice:
    if tensor.dtype in _WIDE:
        raise WrongPlaceError(f"a tensor of {tuple(tensor.shape)} in {tensor.dtype} on a device without such numbers")
    return tensor.as_subclass(OnDevice)


def _refuse_mixture(function: Any, given: list[Tensor]) -> None:
    """A device computes with tensors of its own, and with single numbers of the host."""
    for x in given:
        if not isinstance(x, OnDevice) and x.ndim:
            raise WrongPlaceError(f"{function.__name__} mixes the device with a host tensor of {tuple(x.shape)}")
