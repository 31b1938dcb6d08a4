"""Random streams: every draw of the lab comes from a generator that its purpose and the run's seed name."""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, *purpose: str | int) -> torch.Generator:
    """A generator for one purpose of one run, such as ``stream(0, "order", epoch)``.

    The key is hashed, so that neighbouring seeds and epochs share no numbers and a resumed run has no generator
    to restore.

    Args:
        seed: the run's seed.
        purpose: what the numbers are for, as words and counters.
    """
    # torch's Mersenne twister takes 32 bits of a seed
    key = hashlib.blake2b(repr((seed, *purpose)).encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(key, "big"))
