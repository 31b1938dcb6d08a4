"""Learning rates over a run, each a pure function of the step, so that a resumed run has none to restore."""

from __future__ import annotations

import math
from collections.abc import Callable

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
    # warmup, stable, decay: the last fifth falls to zero
    "wsd": lambda done: min(1.0, (1.0 - done) / 0.2),
}
"""The share of the learning rate that is left, by the share of the steps after the warm-up that is done."""


def factor(schedule: str, step: int, steps: int, warmup: float = 0) -> float:
    """What a step multiplies the learning rate by.

    Args:
        schedule: a name of `SCHEDULES`.
        step: counted from 0.
        steps: of the whole run.
        warmup: steps that rise linearly to 1; below 1, a share of all steps.
    """
    rising = warmup_steps(steps, warmup)
    if step < rising:
        return (step + 1) / rising
    return SCHEDULES[schedule]((step - rising) / max(1, steps - rising))


def warmup_steps(steps: int, warmup: float) -> int:
    """Steps of the warm-up: those that are asked for, or the asked share of all."""
    return round(warmup * steps) if warmup < 1 else round(warmup)
