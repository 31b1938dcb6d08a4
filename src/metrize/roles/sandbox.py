"""Running a model without leaving a trace in it."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Example = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any] | Callable[[nn.Module], Any]
"""What a forward pass takes: its argument, its arguments, its named arguments, or a function of the model."""


def run(model: nn.Module, example: Example) -> Any:
    """The output of one forward pass.

    Args:
        model: the model.
        example: see `Example`.
    """
    if isinstance(example, Tensor):
        return model(example)
    if isinstance(example, Mapping):
        return model(**example)
    if isinstance(example, tuple | list):
        return model(*example)
    return example(model)


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, eager and in full precision, and everything a forward pass changes put back afterwards.

    Buffers, modes, the states of torch's and Python's generators. Modules are switched one by one, since `eval` may be
    overridden: some adapters merge weights there.
    """
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        stack.callback(random.setstate, random.getstate())
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        stack.callback(_restore_modes, {module: module.training for module in model.modules()})
        stack.callback(_restore_buffers, _buffers(model))
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and loading the compiler takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for device in {"cpu", *(p.device.type for p in model.parameters())} - {"meta"}:
            stack.enter_context(torch.autocast(device, enabled=False))
        torch.backends.mha.set_fastpath_enabled(False)  # one fused call for a whole layer would hide its weights
        for module in model.modules():
            module.training = False
        yield


def _restore_modes(modes: Mapping[nn.Module, bool]) -> None:
    for module, training in modes.items():
        module.training = training


_Buffers = list[tuple[nn.Module, dict[str, Tensor | None], dict[str, Tensor]]]


def _buffers(model: nn.Module) -> _Buffers:
    """Each module's buffers, and copies of their numbers."""
    return [
        (
            module,
            dict(module._buffers),
            {name: b.clone() for name, b in module._buffers.items() if b is not None and not b.is_meta},
        )
        for module in model.modules()
        if module._buffers
    ]


@torch.no_grad()
def _restore_buffers(buffers: _Buffers) -> None:
    for module, originals, values in buffers:
        module._buffers.clear()
        module._buffers.update(originals)
        for name, value in values.items():
            buffer = originals[name]
            if buffer is not None and not torch.equal(buffer, value):
                buffer.copy_(value)
