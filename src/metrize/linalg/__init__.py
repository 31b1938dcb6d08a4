"""Batched kernels on ``[..., rows, columns]``: pure tensor functions that know nothing of optimizers."""

from metrize.linalg.finite import all_finite
from metrize.linalg.phi import phi
from metrize.linalg.polar import newton_schulz_polish, polar
from metrize.linalg.products import addmm
from metrize.linalg.signs import householder_signs

__all__ = ["addmm", "all_finite", "householder_signs", "newton_schulz_polish", "phi", "polar"]
