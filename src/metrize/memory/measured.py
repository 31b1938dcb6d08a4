"""Bytes of optimizer state."""

from __future__ import annotations

from torch import Tensor

from metrize.optim.optimizer import Optimizer


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of all state an optimizer holds now, measured on its tensors."""
    tensors = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return sum(t.numel() * t.element_size() for t in tensors)
