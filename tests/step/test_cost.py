"""What a step costs on the host grows with the tensors and with nothing else; counted in calls, not in seconds."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import metrize

ROOT = os.path.dirname(metrize.__file__)


def calls(work: Callable[[], Any]) -> int:
    """Calls of the library's own functions."""
    count = 0

    def seen(frame: Any, event: str, _: Any) -> None:
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith(ROOT)

    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def weights(count: int) -> list[nn.Parameter]:
    found = [nn.Parameter(torch.ones(8)) for _ in range(count)]
    for p in found:
        p.grad = torch.ones(8)
    return found


METHODS = ["AdamW", "Lion", "Adam8bit", "SMMF", "SOAP"]


@pytest.mark.parametrize("name", METHODS)
def test_steps_inside_of_backward(name: str) -> None:
    each = []
    for count in (50, 400):
        params = [nn.Parameter(torch.ones(8)) for _ in range(count)]
        handle = metrize.InBackward(metrize.catalogue()[name](params))
        for _ in range(2):
            torch.stack([p.sum() for p in params]).sum().backward()
        loss = torch.stack([p.sum() for p in params]).sum()
        # backward runs on this thread on the CPU, so that the profiler sees the hooks
        each.append(calls(loss.backward) / count)
        handle.remove()
    assert each[1] <= 1.1 * each[0]


@pytest.mark.parametrize("name", METHODS)
def test_one_group_for_each_parameter(name: str) -> None:
    """As many trainers make them: groups with equal numbers are stepped together."""
    params, alone = weights(200), weights(200)
    together, apart = metrize.catalogue()[name](params), metrize.catalogue()[name]([{"params": [p]} for p in alone])
    for optimizer in (together, apart):
        optimizer.step()
    one, many = calls(together.step), calls(apart.step)
    assert many <= 2 * one + 10 * 200
    for a, b in zip(params, alone, strict=True):
        assert torch.equal(a, b)


def test_groups_with_other_numbers_are_stepped_apart() -> None:
    params = weights(6)
    groups = [{"params": [p], "lr": 0.1 * (1 + i % 2)} for i, p in enumerate(params)]
    optimizer = metrize.Lion(groups)
    optimizer.step()
    assert len(optimizer.buckets) == 2
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step()
    assert len(optimizer.buckets) == 3
    moved = [float(1 - p.detach()[0]) for p in params]
    assert moved == pytest.approx([0.6, 0.4, 0.2, 0.4, 0.2, 0.4], abs=1e-5)
