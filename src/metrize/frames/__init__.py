"""In which coordinates averages are kept: linear changes of coordinates. Knows no spaces."""

from metrize.frames.base import Carry, Frame, Identity

__all__ = ["Carry", "Frame", "Identity"]
