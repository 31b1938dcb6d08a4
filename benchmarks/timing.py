"""How the benchmarks take time: calls in turn, medians with quartiles, ratios pair by pair."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

Step = Callable[[], object]
Times = dict[str, list[float]]


def interleave(steps: dict[str, Step], repeats: int, warmup: int = 3) -> Times:
    """Milliseconds of each call, all calls in turn, so that drift of the machine hits all alike."""
    times: Times = {name: [] for name in steps}
    for turn in range(warmup + repeats):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn >= warmup:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4)
    return middle, low, high


def ratio(times: Times, name: str, other: str) -> tuple[float, float, float]:
    """Time of `other` over time of `name`, pair by pair: how many times faster `name` is."""
    return quartiles([b / a for a, b in zip(times[name], times[other], strict=True)])


def spread(values: tuple[float, float, float], digits: int = 2) -> str:
    """``1.23 [1.20, 1.31]``."""
    middle, low, high = (f"{value:.{digits}f}" for value in values)
    return f"{middle} [{low}, {high}]"


def table(times: Times, ours: str) -> list[str]:
    """Rows of a markdown table: name, milliseconds, and how many times as long as `ours`."""
    rows = [f"| {name} | {spread(quartiles(times[name]))} | {spread(ratio(times, ours, name))} |" for name in times]
    return ["| | ms, median and quartiles | time over ours |", "|---|---|---|", *rows]


def machine() -> str:
    """What the figures were taken on, in a line."""
    told = (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name"))
    model = next(told, platform.processor())
    return f"{model or 'CPU'}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def with_grad(tensor: Tensor) -> nn.Parameter:
    """A parameter with this value and a random gradient."""
    parameter = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor.clone())
    parameter.grad = torch.randn_like(parameter)
    return parameter


def _cpuinfo() -> list[str]:
    info = Path("/proc/cpuinfo")
    return info.read_text().splitlines() if info.exists() else []
