"""How an average is stored: read, write, bytes. Knows no norms."""

from metrize.moments.base import Averages, Moments
from metrize.moments.dense import Dense

__all__ = ["Averages", "Dense", "Moments"]
