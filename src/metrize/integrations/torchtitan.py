"""A container of optimizers for torchtitan, one for each part of the model."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from metrize.integrations.build import build

_FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


class OptimizersContainer(torch.optim.Optimizer):
    """The optimizers of the parts of a model, as one, with state dicts that any number of processes can load.

    Args:
        model_parts: modules, sharded already.
        name: as `metrize.create` takes it.
        lr: learning rate.
        weight_decay: spares embeddings, norms, biases and other vectors.
        options: of the optimizer.
    """

    def __init__(
        self,
        model_parts: Sequence[nn.Module],
        name: str,
        lr: float | None = None,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        self.model_parts = list(model_parts)
        self.optimizers = [build(part, name, lr, weight_decay, options) for part in self.model_parts]
        super().__init__([p for part in self.model_parts for p in part.parameters() if p.requires_grad], {"lr": lr})

    def __iter__(self) -> Iterator[torch.optim.Optimizer]:
        return iter(self.optimizers)

    def __len__(self) -> int:
        return len(self.optimizers)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step of every optimizer."""
        for optimizer in self.optimizers:
            optimizer.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parts."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The state of all parts, by names.

        Raises:
            ValueError: two parts have a parameter of one name.
        """
        names = [name for part in self.model_parts for name, _ in part.named_parameters()]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two parts of the model have a parameter {min(twice)!r}; state is kept by name")
        get = functools.partial(get_optimizer_state_dict, options=_FLAT)
        return {
            key: value
            for part, optimizer in zip(self.model_parts, self.optimizers, strict=True)
            for key, value in get(part, optimizer).items()
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        for part, optimizer in zip(self.model_parts, self.optimizers, strict=True):
            set_optimizer_state_dict(part, optimizer, optim_state_dict=state_dict, options=_FLAT)


def build_optimizers(
    model_parts: Sequence[nn.Module], optimizer_config: Any, parallel_dims: Any = None, ft_manager: Any = None
) -> OptimizersContainer:
    """What a ``TrainSpec`` takes as its ``build_optimizers_fn``: ``optimizer.name`` is that of metrize.

    Options beyond rate and decay: ``functools.partial(OptimizersContainer, ...)`` in a function of your own.
    """
    decay = getattr(optimizer_config, "weight_decay", 0.0)
    return OptimizersContainer(model_parts, optimizer_config.name, optimizer_config.lr, decay)
