"""In which coordinates averages are kept: linear changes of coordinates. Knows no spaces."""

from metrize.frames.base import Carry, Frame, Identity
from metrize.frames.coap import COAP
from metrize.frames.galore import GaLore
from metrize.frames.refresh import FrameError

__all__ = ["COAP", "Carry", "Frame", "FrameError", "GaLore", "Identity"]
