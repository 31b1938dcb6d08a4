"""In which coordinates averages are kept: linear changes of coordinates. Knows no spaces."""

from metrize.frames.apollo import APOLLO
from metrize.frames.base import Carry, Frame, Identity
from metrize.frames.coap import COAP
from metrize.frames.eigenbasis import Eigenbasis
from metrize.frames.galore import GaLore
from metrize.frames.online import OnlineSubspace
from metrize.frames.refresh import FrameError

__all__ = ["APOLLO", "COAP", "Carry", "Eigenbasis", "Frame", "FrameError", "GaLore", "Identity", "OnlineSubspace"]
