"""Steps inside of backward: each gradient is used and freed as soon as it is complete."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from metrize.ambient import isolated
from metrize.linalg import is_sharded
from metrize.optim.optimizer import Optimizer
from metrize.recipe import parse_recipe
from metrize.step.bucket import Bucket
from metrize.step.group import name_of
from metrize.step.guard import fault


class InBackward:
    """Steps every parameter in ``backward``, when its gradient is complete, and frees the gradient at once.

    No two gradients live at the same time, which saves the memory of all but the largest. The training loop stays as it
    is: ``optimizer.step()`` finds no gradients and does nothing, schedules and checkpoints work as ever. What needs all
    gradients together is no longer possible: clipping by their common norm, skipping the whole step because one of them
    is not finite (here that parameter alone is skipped, and counted), a closure.

    Args:
        optimizer: whose parameters are stepped; groups may be added later only after `remove`.
        accumulate: backward passes that make one step; their gradients are added up, as without this.

    Raises:
        ValueError: accumulate below 1, a sharded parameter, or a step size that needs to know the whole model.

    Example:
        >>> handle = metrize.InBackward(optimizer, accumulate=4)
        >>> handle.remove()  # an ordinary optimizer again
    """

    def __init__(self, optimizer: Optimizer, accumulate: int = 1) -> None:
        if accumulate < 1:
            raise ValueError(f"accumulate={accumulate}: backward passes of one step, at least 1")
        for group in optimizer.param_groups:
            recipe = parse_recipe(group["recipe"])
            if recipe.step_size.scope is not None:
                raise ValueError(
                    f"step_size={recipe.step_size} has to see all gradients before the first step, and in backward "
                    "there is one at a time; use a given learning rate"
                )
            for index, p in enumerate(group["params"]):
                if is_sharded(p):
                    raise ValueError(
                        f"parameter {name_of(group, index)!r} is sharded, and its gradient is complete only after "
                        "backward; take steps with optimizer.step()"
                    )
        self.optimizer, self.accumulate = optimizer, accumulate
        self._passes: dict[Tensor, int] = {}
        self._stepped: set[Tensor] = set()  # since the buckets were last looked at
        self._places: dict[Tensor, tuple[Bucket, int]] = {}
        params = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        self._handles: list[RemovableHandle] = [p.register_post_accumulate_grad_hook(self._arrived) for p in params]

    def remove(self) -> None:
        """Leave the steps to ``optimizer.step()`` again; gradients that have not been used stay."""
        for handle in self._handles:
            handle.remove()

    @isolated
    @torch.no_grad()
    def _arrived(self, p: Tensor) -> None:
        self._passes[p] = self._passes.get(p, 0) + 1
        if self._passes[p] < self.accumulate:
            return
        self._passes[p] = 0
        bucket, at = self._place(p)
        try:
            self._step(bucket, at)
        finally:
            p.grad = None

    def _place(self, p: Tensor) -> tuple[Bucket, int]:
        """Where a parameter is stepped; asked again with every backward pass, because models change."""
        if p in self._stepped or not self._stepped:
            self.optimizer.init_state()
            self._places = {q: (bucket, i) for bucket in self.optimizer.buckets for i, q in enumerate(bucket.params)}
            self._stepped.clear()
        self._stepped.add(p)
        return self._places[p]

    def _step(self, bucket: Bucket, member: int) -> None:
        bucket.gather([member])
        found = fault(*bucket.places[member], bucket.params[member].grad) if bucket.group["skip_nonfinite"] else None
        if found:
            self.optimizer.param_groups[0]["skipped_steps"] += 1
            warnings.warn(
                f'{found}: the step of this parameter was skipped (counted in param_groups[0]["skipped_steps"])',
                RuntimeWarning,
                stacklevel=5,
            )
            bucket.gradients = []
            return
        bucket.apply()
