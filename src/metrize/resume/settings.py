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


def other_meaning(old: Recipe, new: Recipe) -> list[str]:
    """The differences that give averages another meaning, though their names and shapes may be the same."""
    found = []
    for slot in ("rule", "frame", "step_size"):
        was, now = getattr(old, slot), getattr(new, slot)
        if type(was) is not type(now):
            found += [] if slot == "step_size" else differences(was, now, slot)  # whose names tell what they keep
            continue
        held = was.replace(**{name: getattr(now, name) for name in was.fixed})
        found += differences(was, held, slot)
    return found
