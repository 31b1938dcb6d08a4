"""Batches of one's own: an iterable such as a DataLoader, or a function that yields them."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from metrize import calls
from metrize.lab.data.streams import stream

Batches = Iterable[Any] | Callable[..., Iterable[Any]]
"""Batches that can be gone through again, or a function that yields them, of some of ``batch_size``, ``generator``."""


_HELD_OUT_BATCH = 128
"""Samples of a held-out batch, where a function asks; the same for every run, so that losses compare."""


@contextlib.contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """Torch's own random numbers come from `generator`, and the caller's are as before.

    Args:
        generator: where the seed comes from.
    """
    with torch.random.fork_rng():
        torch.manual_seed(generator.initial_seed())
        yield


class Streamed:
    """The batches of a run, in an order that its seed decides.

    Args:
        train: what a run learns from, one pass after another.
        held_out: what no batch of `train` contains.
    """

    def __init__(self, train: Batches, held_out: Batches) -> None:
        self._train, self._rest = train, held_out
        self._reader: tuple[tuple[int, int], int, Iterator[Any]] | None = None

    @property
    def held_out(self) -> list[Any]:
        """All held-out batches.

        Raises:
            ValueError: there is none.
        """
        with seeded(stream(0, "held out")):
            found = list(_pass(self._rest, "held_out", _HELD_OUT_BATCH, stream(0, "held out")))
        if not found:
            raise ValueError("held_out yields no batch")
        return found

    def batch(self, seed: int, step: int, size: int) -> Any:
        """The batch of one step; a resumed run goes through the batches before it again, without training on them.

        Args:
            seed: the run's seed.
            step: counted from 0 over the whole run.
            size: samples of the batch, which a function may take.

        Raises:
            ValueError: a pass yields no batch.
        """
        if self._reader is None or self._reader[0] != (seed, size) or self._reader[1] > step:
            self._reader = (seed, size), 0, self._all(seed, size)
        key, at, reader = self._reader
        *_, batch = itertools.islice(reader, step - at + 1)
        self._reader = key, step + 1, reader
        return batch

    def _all(self, seed: int, size: int) -> Iterator[Any]:
        for epoch in itertools.count():
            one = _Seeded(
                _pass(self._train, "train", size, stream(seed, "batches", epoch)), stream(seed, "pass", epoch)
            )
            first = next(one, None)
            if first is None:
                after = (
                    f" in pass {epoch + 1}: give a list, a DataLoader or a function, not an iterator" if epoch else ""
                )
                raise ValueError(f"train yields no batch{after}")
            yield first
            yield from one


class _Seeded(Iterator[Any]):
    """An iterator whose use of torch's own random numbers is a stream of its own."""

    def __init__(self, inner: Iterator[Any], generator: torch.Generator) -> None:
        self._inner, self._state = inner, generator.get_state()

    def __next__(self) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._state)
            try:
                return next(self._inner)
            finally:
                self._state = torch.get_rng_state()


def samples_in(batch: Any) -> int:
    """Samples of a batch: the length of its first tensor."""
    return next((len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim), 1)


def _pass(batches: Batches, name: str, size: int, generator: torch.Generator) -> Iterator[Any]:
    """One pass; a generator function starts when the first batch is asked for."""
    made: Any = batches
    if callable(batches) and not isinstance(batches, Iterable):
        given = {"batch_size": size, "generator": generator}
        wanted = inspect.signature(batches).parameters
        made = calls.call(batches, **{key: value for key, value in given.items() if key in wanted})
    elif isinstance(own := getattr(batches, "generator", None), torch.Generator):
        own.manual_seed(generator.initial_seed())  # a DataLoader's
    if not isinstance(made, Iterable):
        raise ValueError(f"{name} gives {type(made).__name__}: batches are an iterable, or a function that yields them")
    yield from made
