"""The contract suite for a part, a recipe or an optimizer of one's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from metrize.testing import promises
from metrize.testing.subject import subject_of, telling

SHAPES: tuple[tuple[int, ...], ...] = ((), (5,), (8, 4), (4, 8), (2, 8, 4), (4, 2, 3, 3))

PROMISES: tuple[Callable[..., None], ...] = (
    promises.prints_and_parses,
    promises.changes_nothing_that_it_reads,
    promises.trains,
    promises.goes_on,
    promises.members_are_apart,
    promises.parts_agree,
    promises.executors_agree,
    promises.fits_in,
)


def check(subject: Any, *, shapes: Sequence[Sequence[int]] = SHAPES, **options: Any) -> None:
    """Assert that a part, a recipe or an optimizer keeps what the library promises of it.

    That it is built on shapes, or refused with a reason; prints and is read back; trains in float32, bfloat16 and
    float64, stays finite, and keeps the state that it declares; leaves what it reads alone; steps equal tensors as it
    steps each alone, in pieces and in parts as it does whole; goes on bit for bit from a checkpoint, a copy and a
    pickle; and works on a manifold, in an eigenbasis and in 8 bits, where that is legal. Takes seconds at most, on the
    CPU and without global random numbers.

    Args:
        subject: a part, such as a rule or a storage; a recipe; the text of either; or a subclass of `Optimizer`.
        shapes: of parameters; what is refused by a ValueError is passed over, and one of them has to be accepted.
        options: of the optimizer's constructor, or numbers of the rule, such as ``momentum=0.5``.

    Raises:
        AssertionError: with the promise that is broken, and how to mend it.
        TypeError: something that cannot be checked.
    """
    found = subject_of(subject, options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # such as one of a weight decay that does nothing here
        accepted = promises.accepted(found, [torch.Size(shape) for shape in shapes])
        for promise in PROMISES:
            with telling(found, f"asking whether it {promise.__name__.replace('_', ' ')}"):
                promise(found, accepted)
