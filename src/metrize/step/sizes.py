"""How much is worked on at a time, by the kind of device."""

from __future__ import annotations


def piece_size(device: str, numel: int) -> int:
    """Numbers of a piece of a tensor: few enough to stay in a core's cache, or to be small beside it on a device."""
    return 2**17 if device == "cpu" else 2**24


def chunk_size(device: str) -> int:
    """Numbers of a 16-bit parameter that are widened at a time."""
    return 2**24 if device == "cuda" else 2**18


def batched_size(device: str) -> int:
    """Numbers of a tensor that is still worth copying into a batch with its equals."""
    return 2**22 if device == "cuda" else 2**18


def batch_size(device: str, on_host: int) -> int:
    """Numbers of a batch of equal tensors; on the host, where stacks only save calls, each bucket has its own bound."""
    return 2**25 if device == "cuda" else on_host


def portion_size(device: str) -> int:
    """Numbers of many tensors laid end to end that are worked on at a time: 64 MiB in float32."""
    return 2**24
