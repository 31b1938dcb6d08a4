"""In which coordinates averages are kept: linear changes of coordinates. Knows no spaces."""

from metrize.frames.base import Frame, Identity

__all__ = ["Frame", "Identity"]
