"""Pulses on a ring: a linear wave equation, discretised so that it stays a Hamiltonian system."""

from __future__ import annotations

import dataclasses
import itertools
import math

import torch
from torch import Tensor

from metrize.lab.data.samples import Samples

_LENGTH = 10.0
_SPEEDS, _WIDTHS = (0.6, 0.7, 0.8, 0.9, 1.0), (0.5, 0.6, 0.75)
_HELD_OUT_SPEEDS, _HELD_OUT_WIDTHS = (0.65, 0.85), (0.55, 0.7)
# between two states that are kept; a pulse of speed 1 runs once around the ring in 100 of them
_INTERVAL, _INTERVALS = 0.1, 100
# leapfrog steps in the time in which a pulse of speed 1 passes a cell; one is the limit of stability
_STEPS_A_CELL = 6


@dataclasses.dataclass(frozen=True, eq=False)
class Waves(Samples):
    """States ``(q, p)`` of the wave equation ``q_tt = c^2 q_xx``, to be encoded and decoded: targets are the inputs.

    Args:
        paths: ``[pulses, times, 2N]``: the held-out pulses followed for twice the time of `inputs`.
        speeds: ``[pulses]``: the wave speed c of each.
        interval: time between two states of a path.
    """

    paths: Tensor
    speeds: Tensor
    interval: float


def simulate(cells: int = 64) -> Waves:
    """Right-going Gaussian pulses of 15 widths and speeds, and 4 others held out, on a ring of length 10.

    Args:
        cells: N, the grid; a state has ``2N`` numbers in float64, positions first, then momenta.

    Raises:
        ValueError: fewer than 8 cells.
    """
    if cells < 8:
        raise ValueError(f"cells={cells} cannot show a pulse; use at least 8")
    train, _ = _paths(_SPEEDS, _WIDTHS, cells, _INTERVALS)
    paths, speeds = _paths(_HELD_OUT_SPEEDS, _HELD_OUT_WIDTHS, cells, 2 * _INTERVALS)
    states, held_out = train.flatten(0, 1), paths[:, : _INTERVALS + 1].flatten(0, 1)
    return Waves(states, states, (held_out, held_out), paths, speeds, _INTERVAL)


def energy(states: Tensor, speeds: Tensor) -> Tensor:
    """The Hamiltonian ``H = 1/2 sum_i p_i^2 + (c / dx)^2 (q_{i+1} - q_i)^2``.

    Args:
        states: ``[..., 2N]``.
        speeds: c, broadcast with ``[...]``.
    """
    q, p = states.chunk(2, -1)
    slopes = (q.roll(-1, -1) - q) / _spacing(q)
    return (p.square().sum(-1) + speeds.square() * slopes.square().sum(-1)) / 2


def vector_field(states: Tensor, speeds: Tensor) -> Tensor:
    """The motion ``J grad H`` of states ``[..., 2N]``: ``q' = p``, ``p' = c^2 q_xx``."""
    q, p = states.chunk(2, -1)
    return torch.cat([p, _force(q, speeds)], -1)


def _force(q: Tensor, speeds: Tensor) -> Tensor:
    bends = (q.roll(1, -1) - 2 * q + q.roll(-1, -1)) / _spacing(q) ** 2
    return speeds.unsqueeze(-1).square() * bends


def _spacing(q: Tensor) -> float:
    return _LENGTH / q.shape[-1]


def _paths(speeds: tuple[float, ...], widths: tuple[float, ...], cells: int, intervals: int) -> tuple[Tensor, Tensor]:
    """States ``[pulses, intervals + 1, 2N]`` of every speed with every width, by leapfrog, and the speeds."""
    c, width = torch.tensor(list(itertools.product(speeds, widths)), dtype=torch.float64).unbind(-1)
    q, p = _pulses(c, width, cells)
    steps = math.ceil(_STEPS_A_CELL * _INTERVAL / _spacing(q))
    states = [torch.cat([q, p], -1)]
    for _ in range(intervals):
        for _ in range(steps):
            q, p = _leapfrog(q, p, c, _INTERVAL / steps)
        states.append(torch.cat([q, p], -1))
    return torch.stack(states, 1), c


def _pulses(speeds: Tensor, widths: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Gaussians in the middle of the ring that run to the right, ``p = -c q_x``."""
    x = (torch.arange(cells, dtype=torch.float64) / cells - 0.5) * _LENGTH
    q = (-(x**2) / (2 * widths[:, None] ** 2)).exp()
    return q, -speeds[:, None] * (q.roll(-1, -1) - q.roll(1, -1)) / (2 * _spacing(q))


def _leapfrog(q: Tensor, p: Tensor, speeds: Tensor, dt: float) -> tuple[Tensor, Tensor]:
    p = p + dt / 2 * _force(q, speeds)
    q = q + dt * p
    return q, p + dt / 2 * _force(q, speeds)
