"""A container of optimizers for torchtitan, one for each part of the model."""

from __future__ import annotations

import dataclasses
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
from torch.distributed.checkpoint.stateful import Stateful

from metrize.integrations.build import build

_FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


class OptimizersContainer(torch.optim.Optimizer, Stateful):
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


@dataclasses.dataclass(kw_only=True)
class Config:
    """What torchtitan's ``Trainer.Config`` takes as its ``optimizer``: ``Config(name="muon", lr=0.02)``.

    Args:
        name: as `metrize.create` takes it.
        lr: learning rate; None: the optimizer's own.
        weight_decay: spares embeddings, norms, biases and other vectors.
        options: of the optimizer.
    """

    name: str
    lr: float | None = None
    weight_decay: float = 0.0
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def build(self, *, model_parts: Sequence[nn.Module]) -> OptimizersContainer:
        """The container of a model that is sharded already."""
        return OptimizersContainer(model_parts, self.name, self.lr, self.weight_decay, **self.options)

    def to_dict(self) -> dict[str, Any]:
        """The fields, for the log."""
        return dataclasses.asdict(self)
