"""Arithmetic that does not depend on the surroundings it is called in."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

_PRODUCTS = ("cuda", "mkldnn") if hasattr(torch._C, "_get_fp32_precision_getter") else ()  # torch before 2.9 has none
_AUTOCASTS: Callable[[], Sequence[str]] = getattr(  # torch 2.6 has no list of its own
    torch._C, "_autocast_supported_devices", lambda: ("cpu", "cuda", "hpu", "mps", "xla", "xpu")
)
_lock = threading.Lock()
_exact: set[int] = set()  # threads that need full products, whose precision belongs to the whole process
_chosen: list[Callable[[], None]] = []  # how the user's precision is put back


def isolated(function: Callable[P, R]) -> Callable[P, R]:
    """Call a function without autocast, in torch's own default dtype and device, with products in full float32.

    Code that is called from there may ask for the user's precision again (`users_precision`). Where nothing differs
    from torch's defaults, this costs four questions.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not _disturbed():
            return function(*args, **kwargs)
        with neutral():
            return function(*args, **kwargs)

    return call


@contextlib.contextmanager
def neutral() -> Iterator[None]:
    """The surroundings of `isolated`."""
    dtype = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        for device in _AUTOCASTS():
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch._C._len_torch_function_stack():  # a default device is a mode on this stack
            stack.enter_context(torch.device("cpu"))
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        stack.enter_context(_full_products())
        yield


def users_precision() -> contextlib.AbstractContextManager[None]:
    """Matrix products as the user chose, for methods that are made for little precision, such as Newton-Schulz.

    They stay full while other threads need that.
    """
    if not _exact or _exact != {threading.get_ident()}:
        return contextlib.nullcontext()  # which torch.compile knows
    return _as_chosen()


@contextlib.contextmanager
def _as_chosen() -> Iterator[None]:
    _chosen[-1]()
    try:
        yield
    finally:
        _set_full()


def _disturbed() -> bool:
    return (
        torch._C._is_any_autocast_enabled()
        or torch.get_default_dtype() != torch.float32
        or torch._C._len_torch_function_stack() > 0
        or _legacy_precision() != "highest"
        or bool(_exact - {threading.get_ident()})  # who would put it back in the midst
    )


def _legacy_precision() -> str:
    """`torch.get_float32_matmul_precision`, which refuses to answer where precisions were set for each backend."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return "mixed"


@contextlib.contextmanager
def _full_products() -> Iterator[None]:
    me = threading.get_ident()
    if me in _exact or (not _exact and _legacy_precision() == "highest"):
        yield
        return
    with _lock:
        if not _exact:
            _chosen.append(_restoring())
        _exact.add(me)
        _set_full()
    try:
        yield
    finally:
        with _lock:
            _exact.remove(me)
            if not _exact:  # the last one switches it off
                _chosen.pop()()


def _restoring() -> Callable[[], None]:
    legacy, each = _legacy_precision(), [_own_precision(backend) for backend in _PRODUCTS]

    def restore() -> None:
        if legacy != "mixed":
            torch.set_float32_matmul_precision(legacy)
        for backend, precision in zip(_PRODUCTS, each, strict=True):
            torch._C._set_fp32_precision_setter(backend, "matmul", precision)

    return restore


def _own_precision(backend: str) -> str:
    """What is set for products of a backend; ``"none"`` where they follow the backend, or torch as a whole."""
    chosen, general = (torch._C._get_fp32_precision_getter(backend, of) for of in ("matmul", "all"))
    return "none" if chosen == general else chosen


def _set_full() -> None:
    for backend in _PRODUCTS:
        torch._C._set_fp32_precision_setter(backend, "matmul", "ieee")
    torch.set_float32_matmul_precision("highest")
