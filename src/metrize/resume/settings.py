"""What a run may change when it goes on: settings, and not what its state means."""

from __future__ import annotations

import dataclasses

from metrize.part import Part
from metrize.recipe import Recipe


def differences(old: Part, new: Part, at: str = "") -> list[str]:
    """``"frame.period 10 -> 20"`` for every argument that differs."""
    if type(old) is not type(new):
        return [f"{at} {old} -> {new}"]
    found = []
    for field in dataclasses.fields(old):
        was, now = getattr(old, field.name), getattr(new, field.name)
        path = f"{at}.{field.name}" if at else field.name
        if isinstance(was, Part) and isinstance(now, Part):
            found += differences(was, now, path)
        elif was != now:
            found.append(f"{path} {was!r} -> {now!r}")
    return found


def other_meaning(old: Recipe, new: Recipe, kin: bool = False) -> list[str]:
    """The differences that give averages another meaning, though their names and shapes may be the same.

    Args:
        old: that wrote them.
        new: that reads them.
        kin: a rule may be a kind of the other one.
    """
    found = []
    for slot in ("rule", "frame", "step_size"):
        was, now = getattr(old, slot), getattr(new, slot)
        related = kin and slot == "rule" and (isinstance(was, type(now)) or isinstance(now, type(was)))
        if type(was) is not type(now) and not related:
            found += [] if slot == "step_size" else differences(was, now, slot)  # whose names tell what they keep
            continue
        found += _fixed(was, now, slot)
    return found


def _fixed(old: Part, new: Part, at: str) -> list[str]:
    """`differences` of the arguments that say what state means; of one that is a part, of its own such arguments."""
    found = []
    for name in old.fixed if isinstance(new, type(old)) else new.fixed:
        was, now = getattr(old, name), getattr(new, name)
        if isinstance(was, Part) and type(was) is type(now):
            found += _fixed(was, now, f"{at}.{name}")
        else:
            found += differences(old, old.replace(**{name: now}), at)
    return found
