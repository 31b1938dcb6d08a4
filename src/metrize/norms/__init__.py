"""Duality maps: in which unit ball a step is steepest. Pure functions of a tensor; knows no averages."""

from metrize.norms.base import MatrixNorm, Norm
from metrize.norms.layout import Layout
from metrize.norms.matrix import ColumnNorm, RowNorm, SignHead
from metrize.norms.modular import Modular, atom, bond, parallel, residual
from metrize.norms.schatten import Nuclear, Schatten, Spectral
from metrize.norms.tensor import RMS, Frobenius, MaxEntry

__all__ = [
    "RMS",
    "ColumnNorm",
    "Frobenius",
    "Layout",
    "MatrixNorm",
    "MaxEntry",
    "Modular",
    "Norm",
    "Nuclear",
    "RowNorm",
    "Schatten",
    "SignHead",
    "Spectral",
    "atom",
    "bond",
    "parallel",
    "residual",
]
