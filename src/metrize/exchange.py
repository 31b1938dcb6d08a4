"""What crosses processes between the phases of a step; within one process, nothing does."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metrize.bucket import Bucket


class Exchange:
    """One process: every sum is complete and every tensor whole."""

    def sum(self, statistics: list[Tensor]) -> None:
        """Complete the sums of all scopes in place."""

    def to_owners(self, bucket: Bucket) -> None:
        """Send rows to the process that computes their whole tensor."""

    def from_owners(self, bucket: Bucket) -> None:
        """Send the rows of the result back."""


def agree(buckets: list[Bucket], exchange: Exchange) -> None:
    """Sum what the buckets measured over the scopes of their step sizes, and tell each its sum."""
    totals: dict[Any, Tensor] = {}
    scopes = {}
    for bucket in buckets:
        share = bucket.statistics()
        if share is not None:
            scope = bucket.recipe.step_size.scope
            key = (type(bucket.recipe.step_size), id(bucket.group) if scope == "group" else None)
            totals[key] = totals[key] + share.to(totals[key].device) if key in totals else share
            scopes[id(bucket)] = key
    exchange.sum(list(totals.values()))
    for bucket in buckets:
        if id(bucket) in scopes:
            bucket.settle(totals[scopes[id(bucket)]])
