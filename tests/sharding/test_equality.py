"""A step on many processes has the bits of a step on one."""

from __future__ import annotations

import functools
import random
from typing import Any

import pytest
import shard_jobs
import torch
from cases import VARIANTS
from shard_jobs import largest_difference, trained
from shard_pool import Pool

import metrize
from metrize.part import Part

SPACES = ["Stiefel()", "Stiefel(section='transported')", "Grassmann()"]
ON_SPACES = [(name, space) for name in ("Adam", "SGD", "SMMF", "SOAP", "Adam8bit") for space in SPACES]


def _catalogue() -> list[Any]:
    """Every optimizer with every variant of the conformance suite on 2 and 4 processes; a fixed sample by default."""
    cases = [
        (size, name, {key: f"part {value!r}" if isinstance(value, Part) else value for key, value in options.items()})
        for name in metrize.catalogue()
        for options in VARIANTS.get(name, [{}])
        for size in (2, 4)
    ]
    kept = set(random.Random(0).sample(range(len(cases)), 24))
    marks = [[] if at in kept else [pytest.mark.slow] for at in range(len(cases))]
    return [
        pytest.param(*case, marks=mark, id=f"{case[1]}-{at}-{case[0]}")
        for at, (case, mark) in enumerate(zip(cases, marks, strict=True))
    ]


@functools.cache
def _alone(name: str, told: str, **more: Any) -> shard_jobs.Weights:
    return trained(name, dict(eval(told)), None, **more)  # the text of a list of pairs, which can be a key


@pytest.mark.parametrize(("size", "name", "options"), _catalogue())
def test_the_catalogue(pools: dict[int, Pool], size: int, name: str, options: dict[str, Any]) -> None:
    alone = _alone(name, repr(list(options.items())))
    start = shard_jobs.wholes(shard_jobs.sheets())
    assert any(not torch.equal(alone[key], start[key]) for key in start)
    assert largest_difference(pools[size].run(trained, name, options, (size,)), alone) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["AdamW", "Muon", "SMMF", "SOAP", "Prodigy", "Adam8bit", "SGD"])
def test_other_dtypes(pools: dict[int, Pool], name: str, dtype: torch.dtype) -> None:
    alone = _alone(name, "[]", dtype=dtype)
    assert largest_difference(pools[3].run(trained, name, {}, (3,), 5, dtype), alone) == 0


@pytest.mark.parametrize(("name", "space"), ON_SPACES)
def test_spaces(pools: dict[int, Pool], name: str, space: str) -> None:
    alone = _alone(name, "[]", space=space)
    assert largest_difference(pools[2].run(trained, name, {}, (2,), 5, torch.float32, space), alone) == 0


@pytest.mark.parametrize("name", ["AdamW", "Muon", "SOAP", "Prodigy"])
def test_replicas_of_shards(pools: dict[int, Pool], name: str) -> None:
    assert largest_difference(pools[4].run(trained, name, {}, (2, 2)), _alone(name, "[]")) == 0
