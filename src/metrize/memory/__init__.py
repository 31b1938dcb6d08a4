"""Bytes: what an optimizer holds, and what one would hold."""

from metrize.memory.measured import state_bytes
from metrize.memory.predicted import Prediction, Target, predict
from metrize.memory.shapes import KNOWN

__all__ = ["KNOWN", "Prediction", "Target", "predict", "state_bytes"]
