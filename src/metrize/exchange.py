"""What crosses processes between the phases of a step; within one process, nothing does."""

from __future__ import annotations

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
