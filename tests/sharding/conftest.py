"""Pools of processes, each started at its first use and kept for the whole session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from shard_pool import Pool


@pytest.fixture(scope="session")
def pools() -> Iterator[dict[int, Pool]]:
    """By number of processes."""
    made = {size: Pool(size) for size in (1, 2, 3, 4)}
    yield made
    for pool in made.values():
        pool.stop()
