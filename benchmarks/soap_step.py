"""Cost of a step of SOAP against the peers, in one run: time, its peaks, memory.

Run: ``python benchmarks/soap_step.py [--periods 3] [--threads 2] [--heavyball]`` (needs ``pytorch_optimizer==4.1.0``
and, for the last one, ``heavyball==3.2.1``, which compiles for minutes before its first step). Every optimizer steps
the same transformer of 10.7 million parameters with the same random gradients, all in turn, so that drift of the machine
hits all alike, and refreshes its bases every 10 steps. Writes ``soap_step.json`` and ``soap_step.md`` beside this file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import metrize
from metrize.lab.models.gpt import GPT

HERE = Path(__file__).parent
PERIOD = 10
Optimizer = torch.optim.Optimizer
Build = Callable[[list[nn.Parameter]], Optimizer]


def soap(**options: Any) -> Build:
    return lambda params: metrize.SOAP(params, precondition_frequency=PERIOD, **options)


def peer(params: list[nn.Parameter]) -> Optimizer:
    import pytorch_optimizer

    return pytorch_optimizer.SOAP(params, precondition_frequency=PERIOD)


def heavyball(params: list[nn.Parameter]) -> Optimizer:
    import heavyball

    made: Optimizer = heavyball.SOAP(
        params, precondition_frequency=PERIOD, use_precond_schedule=False, merge_dims=False, max_precond_dim=10000
    )
    return made


BUILDS: dict[str, Build] = {
    "metrize": soap(),
    "metrize, faithful": soap(faithful=True),
    "metrize, one-sided": soap(one_sided=True),
    "metrize, one-sided and factored": soap(one_sided=True, moments=metrize.Factored()),
    "pytorch_optimizer": peer,
}
REFERENCE = "metrize"


@dataclasses.dataclass
class Runner:
    """One optimizer with a copy of the model's parameters, and the milliseconds of its steps."""

    params: list[nn.Parameter]
    optimizer: Optimizer
    times: list[float] = dataclasses.field(default_factory=list)
    first: float = 0.0

    def step(self, seed: int, count: bool) -> None:
        generator = torch.Generator().manual_seed(seed)
        for p in self.params:
            p.grad = torch.randn(p.shape, generator=generator).mul_(1e-2)
        start = time.perf_counter()
        self.optimizer.step()
        elapsed = 1e3 * (time.perf_counter() - start)
        if count:
            self.times.append(elapsed)
        else:
            self.first += elapsed

    @property
    def mean(self) -> float:
        return statistics.fmean(self.times)

    @property
    def median(self) -> float:
        return statistics.median(self.times)


def runner(build: Build) -> Runner:
    model = GPT(width=384, layers=6, heads=6, context=256, generator=torch.Generator().manual_seed(0))
    params = list(model.parameters())
    return Runner(params, build(params))


def measured(names: list[str], builds: dict[str, Build], periods: int) -> dict[str, Runner]:
    """Whole periods of every optimizer, all in turn, after the two steps that make the state and the first bases."""
    runners = {name: runner(builds[name]) for name in names}
    for step in range(2 + periods * PERIOD):
        for one in runners.values():
            one.step(step, count=step >= 2)
    return runners


def tensors(content: Any) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict | list | tuple):
        for value in content.values() if isinstance(content, dict) else content:
            yield from tensors(value)


def state_share(one: Runner) -> float:
    """Bytes of state over bytes of parameters."""
    return sum(t.nbytes for t in tensors(dict(one.optimizer.state))) / sum(p.nbytes for p in one.params)


def formula_share(params: list[nn.Parameter]) -> float:
    """The same by the paper's count: ``2 m^2 + 2 n^2 + 2 m n`` for a matrix, ``2 n`` for a vector."""
    full = sum(2 * sum(d * d for d in p.shape) + 2 * p.numel() if p.ndim > 1 else 2 * p.numel() for p in params)
    return full / sum(p.numel() for p in params)


def report(runners: dict[str, Runner]) -> str:
    size = sum(p.numel() for p in runners[REFERENCE].params)
    lines = [
        "# Cost of a step of SOAP",
        "",
        f"Transformer of {size / 1e6:.1f}M parameters, 24 hidden matrices of width 384, bases refreshed every {PERIOD} "
        f"steps; torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, float32; "
        f"{len(runners[REFERENCE].times)} interleaved steps. Written by `benchmarks/soap_step.py`.",
        "",
        "| optimizer | mean ms | over metrize | median ms | slowest ms | slowest over median | state over parameters |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in runners.items():
        lines.append(
            f"| {name} | {one.mean:.0f} | {one.mean / runners[REFERENCE].mean:.2f} | {one.median:.0f} | "
            f"{max(one.times):.0f} | {max(one.times) / one.median:.2f} | {state_share(one):.2f} |"
        )
    lines += ["", f"State of the full form by the paper's count: {formula_share(runners[REFERENCE].params):.2f}."]
    lines += ["", "| optimizer | first two steps, s |", "|---|---|"]
    lines += [f"| {name} | {one.first / 1e3:.1f} |" for name, one in runners.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--periods", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--heavyball", action="store_true", help="measure HeavyBall too, which compiles for minutes")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    builds = BUILDS | ({"HeavyBall": heavyball} if given.heavyball else {})
    runners = measured(list(builds), builds, given.periods)
    text = report(runners)
    times = {name: {"ms": one.times, "first ms": one.first} for name, one in runners.items()}
    (HERE / "soap_step.json").write_text(json.dumps(times) + "\n")
    (HERE / "soap_step.md").write_text(text)
    print(text)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
