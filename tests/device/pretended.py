"""A CUDA device that is only pretended, so that a machine without one can tell what a step would do there.

Tensors say that they are on ``cuda:0`` and compute on the host, or, with ``meta=True``, on ``cuda:1`` and not at all: then
size cost nothing. Every branch of the library is the device's. What is counted while a `Device` is entered:

- *launches* and *bytes* of kernels, as `kernels.cost` says;
- *waits*: a number of the device that the host reads, and a copy between both that blocks;
- *mixed*: a kernel that is given a vector of the host, which torch refuses on a real device.

What is not seen: what a kernel costs, what overlaps, and what only fails on a real device.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from types import FrameType
from typing import Any, ClassVar
from unittest import mock

import kernels
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
REAL, META = torch.device("cuda", 0), torch.device("cuda", 1)  # apart, since the library keeps tables by device


class Storage:
    """The memory of a tensor on the device; that of one on meta has an address as well."""

    def __init__(self, tensor: Tensor) -> None:
        self._real = tensor.untyped_storage()

    def data_ptr(self) -> int:
        return self._real.data_ptr() or self._real._cdata

    def nbytes(self) -> int:
        return self._real.nbytes()


class OnDevice(Tensor):
    """On the device, as far as anyone can tell; ``held`` does the arithmetic.

    Python's bindings set the device before they dispatch, which fails where there is none, so those that the library
    calls are replaced.
    """

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        like = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        self = Tensor._make_wrapper_subclass(cls, held.shape, **like, device=META if held.is_meta else REAL)
        self.held = held
        return self

    def __init__(self, held: Tensor) -> None:
        pass

    def untyped_storage(self) -> Storage:
        return Storage(self.held)

    def data_ptr(self) -> int:
        return self.untyped_storage().data_ptr() + self.storage_offset() * self.element_size()

    def item(self) -> Any:
        return aten._local_scalar_dense.default(self.detach())

    def __float__(self) -> float:
        return float(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    __index__ = __int__

    def cpu(self) -> Tensor:
        return aten._to_copy.default(self.detach(), device=torch.device("cpu"))

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def contiguous(self, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
        if self.is_contiguous(memory_format=memory_format):
            return self
        return aten.clone.default(self, memory_format=memory_format)

    def copy_(self, source: Tensor, non_blocking: bool = False) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            aten.copy_.default(self, source, non_blocking)
        return self

    def __getitem__(self, index: Any) -> Tensor:
        view, picks = _split_index(self, index)
        return aten.index.Tensor(view, picks) if picks else view

    def __setitem__(self, index: Any, value: Any) -> None:
        view, picks = _split_index(self, index)
        if not isinstance(value, Tensor):
            value = aten.full.default([], value, dtype=self.dtype, device=self.device)
        if picks:
            aten.index_put_.default(view, picks, value.to(self.dtype))
        else:
            view.copy_(value)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Device.now.run(func, args, kwargs or {})


def _split_index(tensor: Tensor, index: Any) -> tuple[Tensor, list[Tensor | None] | None]:
    """What an index takes as a view, and the tensors that pick from it."""
    parts = [torch.tensor(i) if isinstance(i, list) else i for i in (index if isinstance(index, tuple) else (index,))]
    dots = next((k for k, i in enumerate(parts) if i is Ellipsis), len(parts))
    used = sum(_width(i) for i in parts if i is not Ellipsis)
    parts[dots : dots + 1] = [slice(None)] * (tensor.ndim - used)
    dim, picks = 0, []
    for i in parts:
        if isinstance(i, int) or (isinstance(i, Tensor) and not i.ndim and i.dtype != torch.bool):
            tensor = aten.select.int(tensor, dim, int(i))
            continue
        if i is None:
            tensor = tensor.unsqueeze(dim)
        elif isinstance(i, slice) and i != slice(None):
            tensor = aten.slice.Tensor(tensor, dim, i.start, i.stop, i.step or 1)
        picks.append(i if isinstance(i, Tensor) else None)
        dim += max(1, _width(i))
    return tensor, picks if any(pick is not None for pick in picks) else None


def _width(i: Any) -> int:
    """Dimensions that one part of an index uses up."""
    if i is None:
        return 0
    return i.ndim if isinstance(i, Tensor) and i.dtype == torch.bool else 1


class Device(TorchDispatchMode):
    """Counts while it is entered.

    Args:
        meta: tensors have shapes and no numbers; a number that the host reads is 1.
    """

    now: ClassVar[Device]

    def __init__(self, meta: bool = False) -> None:
        super().__init__()
        self.meta = meta
        self.reset()

    def reset(self) -> None:
        """Count from zero."""
        self.launches = self.bytes = 0
        self.waits: Counter[str] = Counter()  # by line of the library
        self.mixed: Counter[str] = Counter()
        self.launched: Counter[str] = Counter()  # launches by line

    def __enter__(self) -> Device:
        Device.now = self
        with contextlib.ExitStack() as stack:
            for owner, name, fake in _fakes():
                stack.enter_context(mock.patch.object(owner, name, fake))
            self._stack = stack.pop_all()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._stack.close()

    def put(self, tensor: Tensor) -> OnDevice:
        """A tensor of the host on the device."""
        return OnDevice(tensor.detach().to("meta") if self.meta else tensor.detach().clone())

    def put_model(self, model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
        """The parameters of a module on the device, in place, in another dtype if given."""
        moved: dict[int, nn.Parameter] = {}
        for module in model.modules():
            for key, p in module._parameters.items():
                if p is not None:
                    moved.setdefault(id(p), nn.Parameter(self.put(p if dtype is None else p.to(dtype))))
                    module._parameters[key] = moved[id(p)]
        return model

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """One operation: counted, and carried out where the numbers are."""
        base = kernels.base_name(func._schema)
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        ours = {id(x.held): x for x in tensors if isinstance(x, OnDevice)}
        host = [x for x in tensors if not isinstance(x, OnDevice)]
        target = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
        if not ours and target != "cuda":
            return func(*args, **kwargs)
        crossing = base in ("_to_copy", "copy") and (bool(host) or target == "cpu")
        self._look(func, base, args, kwargs, host, crossing)
        if self.meta and base in ("_local_scalar_dense", "is_nonzero", "equal"):
            return _some_number(args[0].dtype)
        down = target == "cpu" or (base == "copy" and not isinstance(args[0], OnDevice))
        if self.meta and down:
            return _ones_like(args, kwargs, base)
        inner, named = tree_map(self._inside, (args, kwargs | ({"device": self._place} if target else {})))
        out = None if self.meta and base.startswith("_fused") else func(*inner, **named)
        if down:
            return args[0] if base == "copy" else out
        if base not in kernels.FREE:
            self._count(func, inner, named, out)
        return tree_map(lambda x: _outside(x, ours), out)

    @property
    def _place(self) -> str:
        return "meta" if self.meta else "cpu"

    def _inside(self, x: Any) -> Any:
        if isinstance(x, OnDevice):
            return x.held
        return x.detach().to("meta") if self.meta and isinstance(x, Tensor) and x.device.type == "cpu" else x

    def _count(self, func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        launches, nbytes = kernels.cost(func._schema, args, kwargs, out)
        self.launches += launches
        self.bytes += nbytes
        self.launched[_line()] += launches

    def _look(self, func: Any, base: str, args: Any, kwargs: Any, host: list[Tensor], crossing: bool) -> None:
        """Does the host wait here, or does a kernel meet a tensor of the host?"""
        blocks = crossing and not _in_flight(base, args, kwargs)
        picks = [x for x in tree_leaves(args[1]) if isinstance(x, Tensor)] if base in kernels.INDEXED else []
        searches = any(x.dtype in (torch.bool, torch.uint8) or not isinstance(x, OnDevice) for x in picks)
        counts = base == "repeat_interleave" and kwargs.get("output_size") is None
        if blocks or searches or counts or base in kernels.WAITS:
            self.waits[_line()] += 1
        elif not crossing and base not in kernels.FREE and any(x.ndim for x in host):
            self.mixed[f"{func} at {_line()}"] += 1


def _in_flight(base: str, args: Any, kwargs: Any) -> bool:
    """Whether a copy is one to the device that was asked not to block; the other way always waits for its data."""
    asked = kwargs.get("non_blocking") or (base == "copy" and args[2:3] == (True,))
    to_device = isinstance(args[0], OnDevice) if base == "copy" else not isinstance(args[0], OnDevice)
    return bool(asked and to_device)


def _outside(x: Any, ours: dict[int, OnDevice]) -> Any:
    if not isinstance(x, Tensor):
        return x
    return ours[id(x)] if id(x) in ours else OnDevice(x)


def _some_number(dtype: torch.dtype) -> Any:
    if dtype == torch.bool:
        return True
    return 1.0 if dtype.is_floating_point else 1


def _ones_like(args: Any, kwargs: dict[str, Any], base: str) -> Tensor:
    """What the host gets of a tensor without numbers."""
    if base == "copy":
        return args[0].fill_(1)
    return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)


def _fakes() -> Iterator[tuple[Any, str, Any]]:
    """What torch's bindings for CUDA need from a machine that has none."""
    generator = torch.Generator

    class OfTheHost:
        def __new__(cls, device: Any = "cpu") -> Any:
            return generator("cpu")

    yield torch, "Generator", OfTheHost
    yield torch.cuda, "_lazy_init", lambda: None
    yield torch.cuda, "get_device_capability", lambda *_: (9, 0)


def _line() -> str:
    """The innermost line of the library, or else of torch's optimizers."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        for package in ("/metrize/", "/torch/optim/"):
            if package in name:
                return f"{name.rpartition(package)[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"
