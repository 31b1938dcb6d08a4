"""A symplectic autoencoder: few canonical coordinates for the states of a large Hamiltonian system."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import metrize
from metrize.lab.models.base import Model, Weight, squared_distance
from metrize.linalg.symplectic import adjoint

_WAVES = 10
_SPREAD = 0.5


class SymplecticAutoencoder(Model):
    """``z -> S(U z)`` and back by ``x -> U^+ S^-1(x)``, where ``U^+ = J^T U^T J`` and S is symplectic and invertible.

    With ``U^T J U = J`` the decoder keeps the symplectic form, and the encoder is its left inverse, so that the reduced
    system is again Hamiltonian. If U has orthonormal columns too, as those of the form ``diag(Phi, Phi)`` have, then
    ``U^+ = U^T``. The linear part is as in arXiv:2312.10004; one map S for both directions is ours.

    Args:
        cells: N; a state has ``2N`` numbers, positions first, then momenta.
        reduced: n; the code has ``2n`` numbers.
        layers: of S, which alternately change positions and momenta; 0 makes the autoencoder linear.
        width: hidden numbers of each layer.
        inverse: ``transpose`` encodes with U^T, which suits every U with orthonormal columns; ``symplectic`` with U^+,
            for the other symplectic ones.
        generator: draws the initial weights: U random of the form ``diag(Phi, Phi)``, S the identity.

    Raises:
        ValueError: the code is not smaller than the state, or the inverse is unknown.
    """

    def __init__(
        self,
        cells: int = 64,
        reduced: int = 4,
        layers: int = 4,
        width: int = 64,
        inverse: str = "transpose",
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if not 1 <= reduced < cells:
            raise ValueError(f"reduced must be between 1 and {cells - 1}, one less than the cells, not {reduced}")
        if inverse not in ("symplectic", "transpose"):
            raise ValueError(f"unknown inverse {inverse!r}; known: symplectic, transpose")
        self.inverse = inverse
        # in double precision, since the energy is a small difference of large numbers
        basis = torch.empty(2 * cells, 2 * reduced, dtype=torch.float64)
        self.basis = nn.Parameter(metrize.SymplecticStiefel().random_(basis, generator))
        self.layers = nn.ModuleList(_Shear(cells, width, generator) for _ in range(layers))

    def forward(self, states: Tensor) -> Tensor:
        """The states ``[..., 2N]`` as the code remembers them."""
        return self.decode(self.encode(states))

    def encode(self, states: Tensor) -> Tensor:
        """Codes ``[..., 2n]`` of states ``[..., 2N]``."""
        q, p = states.chunk(2, -1)
        for at, layer in reversed(list(enumerate(self.layers))):
            q, p = (q, p - layer(q)) if at % 2 else (q - layer(p), p)
        inverse = adjoint(self.basis) if self.inverse == "symplectic" else self.basis.mT
        return torch.cat([q, p], -1) @ inverse.mT

    def decode(self, codes: Tensor) -> Tensor:
        """States ``[..., 2N]`` of codes ``[..., 2n]``."""
        q, p = (codes @ self.basis.mT).chunk(2, -1)
        for at, layer in enumerate(self.layers):
            q, p = (q, p + layer(q)) if at % 2 else (q + layer(p), p)
        return torch.cat([q, p], -1)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """``||X - X'||_F^2 / N`` of N states, ``[N, 2N]``."""
        return squared_distance(outputs, targets)

    def constrained(self) -> list[Weight]:
        """U, ``[2N, 2n]``."""
        return [Weight(self, "basis")]


class _Shear(nn.Module):
    """The gradient of ``sum_i a_i log cosh(K v + b)_i``, symplectic when added to the other half (arXiv:2001.03750)."""

    def __init__(self, cells: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.K = nn.Parameter(_smooth_rows(width, cells, generator))
        self.a = nn.Parameter(torch.zeros(width, dtype=torch.float64))
        bias = torch.empty(width, dtype=torch.float64)
        self.b = nn.Parameter(bias.normal_(0.0, _SPREAD, generator=generator))

    def forward(self, v: Tensor) -> Tensor:
        return (self.a * (v @ self.K.mT + self.b).tanh()) @ self.K


def _smooth_rows(rows: int, cells: int, generator: torch.Generator) -> Tensor:
    """Random functions on a ring of cells, without their short waves, of length 1 on average.

    Rough rows would add ripples to what is decoded: small ones, but they hold much energy.
    """
    kept = min(_WAVES, cells // 2)
    waves = torch.randn(rows, kept, 2, dtype=torch.float64, generator=generator)
    return torch.fft.irfft(torch.view_as_complex(waves), n=cells, norm="ortho") / (2 * kept**0.5)
