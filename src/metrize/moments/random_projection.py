"""An average behind a random projection that is remembered by its seed."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from metrize.linalg.seeds import gaussian, next_seed, split_seed
from metrize.moments.base import Kind, Moments, Slot
from metrize.moments.dense import Dense
from metrize.moments.factored import Factored
from metrize.part import Spec


@dataclasses.dataclass(frozen=True)
class RandomProjection(Moments):
    """Averages of gradients as ``C = M P``, with a random P of which only the seed is kept (arXiv:2402.03293).

    For a matrix ``[m, n]`` with m >= n, ``C <- decay C + gain X P``, where P ``[n, r]`` has normal entries of variance
    ``1 / r``; a wide one is projected from the left. The average to use is ``decay C P^T + gain X``, with the C of the
    step before and the whole of X. At every `period`-th step of a parameter a new P is drawn and C is taken along,
    ``C <- (C P_old^T) P_new``, so that the error of one projection does not last. The seed starts as the parameter's
    place in the optimizer, counted from 1; kinds of devices draw different numbers, so that a checkpoint is to be
    continued on the kind it was written on.

    Matrices whose shorter side is below the rank, and those whose longer side is more than `max_aspect` times the
    shorter one, such as embeddings, keep their averages of gradients densely; other tensors all their averages.

    Args:
        rank: r.
        period: kappa, steps between two draws.
        max_aspect: see above.
        square: storage of a matrix' averages of squares.

    Raises:
        ValueError: a number out of range.
    """

    rank: int = 256
    period: int = 1000
    max_aspect: float = 4.0
    square: Moments = dataclasses.field(default_factory=lambda: Factored("last"))

    matrices: ClassVar[bool] = True

    projects: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.rank < 1 or self.period < 1:
            raise ValueError(f"RandomProjection(rank={self.rank}, period={self.period}): at least 1")
        if not self.max_aspect >= 1:
            raise ValueError(f"RandomProjection(max_aspect={self.max_aspect}): at least 1")

    def of(self, shape: torch.Size, kind: Kind) -> Moments:
        if len(shape) != 2:
            return Dense()
        if kind == "square":
            return self.square.of(shape, kind)
        fits = min(shape) >= self.rank and max(shape) <= self.max_aspect * min(shape)
        return self if fits else Dense()

    def state_spec(self, name: str, shape: torch.Size, dtype: torch.dtype, kind: Kind) -> Spec:
        kept = (self.rank, shape[1]) if _is_wide(shape) else (shape[0], self.rank)
        return {name: (kept, dtype), f"{name}.seed": ((), torch.int64)}

    def read(self, slot: Slot, state: dict[str, Tensor]) -> Tensor:
        return torch.stack([_up(slot, c, self._drawn(slot, seed, c)) for c, seed in self._members(slot, state)])

    def write(self, slot: Slot, state: dict[str, Tensor], value: Tensor) -> None:
        for (c, seed), member in zip(self._members(slot, state), value, strict=True):
            c.copy_(_down(slot, member, self._drawn(slot, seed, c)))

    def update(
        self, slot: Slot, state: dict[str, Tensor], value: Tensor, decay: float | Tensor, gain: float | Tensor
    ) -> Tensor:
        stack = slot.stored(value)
        averages = torch.empty_like(stack)
        for i, (c, seed) in enumerate(self._members(slot, state)):
            own_decay, own_gain = (x.reshape(-1)[i] if isinstance(x, Tensor) else x for x in (decay, gain))
            fresh, p = stack[i] * own_gain, self._drawn(slot, seed, c)
            whole = _up(slot, c, p)
            if int(state["step"][i]) % self.period == 0:
                seed.fill_(next_seed(int(seed)))
                p = self._drawn(slot, seed, c)
                c.copy_(_down(slot, whole, p))
            c.mul_(own_decay).add_(_down(slot, fresh, p))
            torch.add(fresh, whole.mul_(own_decay), out=averages[i])
        return slot.points(averages)

    def _members(self, slot: Slot, state: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The compressed average and the seed of each member, to be changed in place."""
        return list(zip(state[slot.name].unbind(), state[f"{slot.name}.seed"].unbind(), strict=True))

    def _drawn(self, slot: Slot, seed: Tensor, c: Tensor) -> Tensor:
        """P: ``[r, m]`` to be applied from the left of a wide matrix, else ``[n, r]`` from the right."""
        left, right = split_seed(int(seed))
        m, n = slot.shape
        shape, own = ((self.rank, m), left) if _is_wide(slot.shape) else ((n, self.rank), right)
        return gaussian(shape, own, slot.dtype, c.device) / math.sqrt(self.rank)


def _up(slot: Slot, c: Tensor, p: Tensor) -> Tensor:
    return p.mT @ c if _is_wide(slot.shape) else c @ p.mT


def _down(slot: Slot, whole: Tensor, p: Tensor) -> Tensor:
    return p @ whole if _is_wide(slot.shape) else whole @ p


def _is_wide(shape: torch.Size) -> bool:
    return shape[0] < shape[1]
