"""Two processes for sharded models, from the pool of `tests/sharding`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "sharding"))

from shard_pool import Pool


@pytest.fixture(scope="module")
def two() -> Iterator[Pool]:
    """Forked at the first job, after the frameworks were imported."""
    pool = Pool(2)
    yield pool
    pool.stop()
