"""The optimizers that work inside a low-rank frame."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from metrize import rules
from metrize.frames import Frame
from metrize.moments import Dense, Factored, Moments, Quantized, Split
from metrize.part import Part
from metrize.recipe import Recipe

Inner = Literal["adam", "8bit", "adafactor"]


def inner_recipe(frame: Frame, inner: Inner, moments: Moments | None, quantized: Moments = Quantized()) -> Recipe:
    """Adam as the published codes have it (an eps that is not corrected, decay after the step), or Adafactor.

    Args:
        frame: in whose coordinates it works.
        inner: which of the two; ``"8bit"`` is Adam too.
        moments: storage of its averages; None: dense, for ``"8bit"`` quantized, and for Adafactor factored squares.
        quantized: what ``"8bit"`` means.

    Raises:
        ValueError: there is no such optimizer.
    """
    if inner in ("adam", "8bit"):
        rule, kept = rules.Adam(bias_correction="step"), quantized if inner == "8bit" else Dense()
        return Recipe(frame=frame, moments=moments or kept, rule=rule, decay="after")
    if inner == "adafactor":
        return Recipe(frame=frame, moments=moments or Split(Dense(), Factored("last")), rule=rules.Whitened())
    raise ValueError(f"inner={inner!r}: 'adam', '8bit' or 'adafactor'")


def inner_numbers(inner: Inner, betas: tuple[float, float], eps: float | None) -> dict[str, Any]:
    """The numbers of the group that it reads."""
    if inner in ("adam", "8bit"):
        return {"betas": betas, "eps": 1e-6 if eps is None else eps}
    return {"momentum": betas[0], "eps": 1e-30 if eps is None else eps}


def taken(part: type[Part], options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a part, taken out of options."""
    names = [field.name for field in dataclasses.fields(part) if field.name in options]
    return {name: options.pop(name) for name in names}
