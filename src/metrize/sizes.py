"""Bytes as a person reads them: decimal units, as on the label of a device."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def unit(count: float) -> tuple[int, str]:
    """The largest unit that is not above this many bytes, and its name; 1000 bytes are a kB."""
    power = 0
    while abs(count) >= 999.5 * 1000**power and power + 1 < len(_UNITS):
        power += 1
    return 1000**power, _UNITS[power]


def written(count: float) -> str:
    """Bytes to three digits in the unit that suits them, such as ``14.2 MB``."""
    size, name = unit(count)
    value = count / size
    digits = 0 if name == "B" else max(0, 3 - len(str(round(value))))
    return f"{value:.{digits}f} {name}"
