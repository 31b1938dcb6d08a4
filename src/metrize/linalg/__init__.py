"""Batched kernels on ``[..., rows, columns]``: pure tensor functions that know nothing of optimizers."""

from metrize.linalg.alongside import alongside
from metrize.linalg.eigenbasis import LinAlgError
from metrize.linalg.finite import all_finite, all_usable, fault_of, largest_usable
from metrize.linalg.orthogonalize import orthogonalize
from metrize.linalg.phi import phi
from metrize.linalg.polar import newton_schulz_polish, polar
from metrize.linalg.polar_express import polar_express
from metrize.linalg.products import addmm, skew
from metrize.linalg.rows import in_rows
from metrize.linalg.sharded import held, is_flat_piece, is_sharded, whole
from metrize.linalg.signs import householder_signs
from metrize.linalg.spectral_norm import spectral_norm
from metrize.linalg.unit import unit

__all__ = [
    "LinAlgError",
    "addmm",
    "all_finite",
    "all_usable",
    "alongside",
    "fault_of",
    "held",
    "householder_signs",
    "in_rows",
    "is_flat_piece",
    "is_sharded",
    "largest_usable",
    "newton_schulz_polish",
    "orthogonalize",
    "phi",
    "polar",
    "polar_express",
    "skew",
    "spectral_norm",
    "unit",
    "whole",
]
