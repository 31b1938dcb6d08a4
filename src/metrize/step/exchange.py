"""What crosses processes between the phases of a step; within one process, nothing does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metrize.linalg import alongside
from metrize.recipe import parse_recipe
from metrize.step.bucket import Bucket
from metrize.step.windows import ShardSpan


class Exchange:
    """One process: every sum is complete and every tensor whole."""

    def local_target(self, p: Tensor) -> Tensor | None:
        """What this process steps for a parameter; None where another process steps it."""
        return p

    def contributes(self, p: Tensor) -> bool:
        """Whether this process adds its measurement of a parameter to the sums; exactly one replica does."""
        return True

    def span(self, p: Tensor) -> ShardSpan | None:
        """Where what this process steps lies in the whole parameter, if it is a part."""
        return None

    def agree(self, flag: bool) -> bool:
        """Whether it is so on every process."""
        return flag

    def open(self, finite: bool) -> bool:
        """Decide whether to step, alike on all processes, and bring gradients to where they are used.

        Args:
            finite: whether the gradients of this process are.
        """
        return finite

    def sum(self, statistics: list[Tensor]) -> None:
        """Complete the sums of all scopes in place."""

    def close(self) -> None:
        """Bring the new parameters back."""


def reduce_statistics(groups: Sequence[dict[str, Any]], buckets: Sequence[Bucket], exchange: Exchange) -> None:
    """Sum what the buckets measured over the scopes of their step sizes, and tell each its sum."""
    totals: dict[Any, Tensor] = {}
    for group in groups:  # and not by bucket: all processes have the same groups
        step_size = parse_recipe(group["recipe"]).step_size
        if step_size.scope is not None:
            totals[_scope(group)] = torch.zeros(step_size.sums, dtype=torch.float64)
    for bucket in buckets:
        share = bucket.statistics()
        if share is not None and bucket.contributes:
            totals[_scope(bucket.group)] = alongside(totals[_scope(bucket.group)], share) + share
    exchange.sum(list(totals.values()))
    for bucket in buckets:
        if _scope(bucket.group) in totals:
            bucket.receive(totals[_scope(bucket.group)])


def _scope(group: dict[str, Any]) -> Any:
    step_size = parse_recipe(group["recipe"]).step_size
    return type(step_size), id(group) if step_size.scope == "group" else step_size.scope
