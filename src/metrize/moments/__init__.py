"""How an average is stored: read, write, update, bytes. Knows no norms."""

from metrize.moments.base import Averages, Kind, Moments, Slot, accumulate_
from metrize.moments.blocks import Blocks
from metrize.moments.cover import Cover
from metrize.moments.dense import Dense
from metrize.moments.factored import Factored
from metrize.moments.outer import Outer
from metrize.moments.quantized import Quantized
from metrize.moments.random_projection import RandomProjection
from metrize.moments.rank_one import RankOne
from metrize.moments.split import Split
from metrize.moments.stream import Boxes, Cut, Stream, boxes

__all__ = [
    "Averages",
    "Blocks",
    "Boxes",
    "Cover",
    "Cut",
    "Dense",
    "Factored",
    "Kind",
    "Moments",
    "Outer",
    "Quantized",
    "RandomProjection",
    "RankOne",
    "Slot",
    "Split",
    "Stream",
    "accumulate_",
    "boxes",
]
