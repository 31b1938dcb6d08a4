"""How an average is stored: read, write, update, bytes. Knows no norms."""

from metrize.moments.base import Averages, Kind, Moments, Slot
from metrize.moments.dense import Dense

__all__ = ["Averages", "Dense", "Kind", "Moments", "Slot"]
