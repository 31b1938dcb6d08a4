"""Checks for parts, recipes and optimizers of one's own, with torch alone; see `check`."""

from metrize.testing.check import check

__all__ = ["check"]
