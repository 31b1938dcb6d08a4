"""Tensors of any shapes and dtypes between processes in one collective."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

_ALIGN = 16  # bytes: a piece can be seen in any dtype only where it begins at a multiple of its size

Form = tuple[tuple[int, ...], torch.dtype]
"""Shape and dtype of a tensor."""


def form(tensor: Tensor) -> Form:
    """What a receiver has to know of a tensor."""
    return tuple(tensor.shape), tensor.dtype


def room(forms: Sequence[Form]) -> int:
    """Bytes that these tensors take in a message."""
    return sum(_size(each) for each in forms)


def swap(
    outgoing: Sequence[Sequence[Tensor]],
    incoming: Sequence[Sequence[Form]],
    group: dist.ProcessGroup,
    device: torch.device,
) -> list[list[Tensor]]:
    """Send tensors to every process of a group and receive theirs, in one all-to-all of bytes.

    Args:
        outgoing: for each process, what it gets.
        incoming: for each process, what comes from it.
        group: the processes.
        device: where messages are made.

    Returns:
        for each process, its tensors, which are views of one buffer.
    """
    sent = [[form(tensor) for tensor in each] for each in outgoing]
    message = torch.empty(sum(map(room, sent)), dtype=torch.uint8, device=device)
    places = _views(message, [*itertools.chain.from_iterable(sent)])
    for place, tensor in zip(places, itertools.chain.from_iterable(outgoing), strict=True):
        place.copy_(tensor)
    reply = torch.empty(sum(map(room, incoming)), dtype=torch.uint8, device=device)
    dist.all_to_all_single(reply, message, [room(each) for each in incoming], [room(each) for each in sent], group)
    views = iter(_views(reply, [*itertools.chain.from_iterable(incoming)]))
    return [list(itertools.islice(views, len(each))) for each in incoming]


def _size(form: Form) -> int:
    shape, dtype = form
    return -(-math.prod(shape) * dtype.itemsize // _ALIGN) * _ALIGN


def _views(buffer: Tensor, forms: Sequence[Form]) -> list[Tensor]:
    """The tensors that lie in a buffer, one after the other."""
    starts = itertools.accumulate((_size(each) for each in forms), initial=0)
    return [
        buffer[start : start + math.prod(shape) * dtype.itemsize].view(dtype).view(shape)
        for start, (shape, dtype) in zip(starts, forms, strict=False)
    ]
