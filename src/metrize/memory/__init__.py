"""Bytes: what an optimizer holds, and what one would hold."""

from metrize.memory.measured import state_bytes
from metrize.memory.predicted import Prediction, Target, predict
from metrize.memory.shapes import KNOWN
from metrize.memory.sharded import RankPrediction, ShardedPrediction, predict_sharded

__all__ = [
    "KNOWN",
    "Prediction",
    "RankPrediction",
    "ShardedPrediction",
    "Target",
    "predict",
    "predict_sharded",
    "state_bytes",
]
