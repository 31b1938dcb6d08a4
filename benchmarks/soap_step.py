"""Cost of a step of SOAP against the peers, in one run: time, its peaks, memory.

Run: ``python benchmarks/soap_step.py [--periods 3] [--threads 2] [--heavyball]`` (needs the extra ``bench``; with the
last option HeavyBall compiles for minutes before its first step). Every optimizer takes the same steps with random
gradients on a transformer of 10.7 million parameters, all in turn, so that drift of the machine hits all alike, and
refreshes its bases every 10 steps. Writes ``soap_step.json`` and ``soap_step.md`` beside this file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from timing import Step, Times, interleave, machine
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


def model() -> list[nn.Parameter]:
    return list(GPT(width=384, layers=6, heads=6, context=256, generator=torch.Generator().manual_seed(0)).parameters())


def gradients(count: int = 6) -> list[list[Tensor]]:
    """Random gradients, enough for factors of full rank."""
    generator = torch.Generator().manual_seed(1)
    return [[torch.randn(p.shape, generator=generator).mul_(1e-2) for p in model()] for _ in range(count)]


def stepping(optimizer: Optimizer, grads: list[list[Tensor]]) -> Step:
    """A step with the next gradients of an endless row."""
    params = optimizer.param_groups[0]["params"]
    row = itertools.cycle(grads)

    def step() -> None:
        for p, grad in zip(params, next(row), strict=True):
            p.grad = grad
        optimizer.step()

    return step


def seconds(step: Step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def tensors(content: Any) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict | list | tuple):
        for value in content.values() if isinstance(content, dict) else content:
            yield from tensors(value)


def parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def state_share(optimizer: Optimizer) -> float:
    """Bytes of state over bytes of parameters."""
    kept = sum(t.nbytes for t in tensors(dict(optimizer.state)))
    return kept / sum(p.nbytes for p in parameters(optimizer))


def formula_share() -> float:
    """The same by the paper's count: ``2 m^2 + 2 n^2 + 2 m n`` for a matrix, ``2 n`` for a vector."""
    params = model()
    factors = sum(2 * d * d for p in params if p.ndim > 1 for d in p.shape)
    size = sum(p.numel() for p in params)
    return (factors + 2 * size) / size


def report(times: Times, optimizers: dict[str, Optimizer], first: dict[str, float]) -> str:
    size = sum(p.numel() for p in model())
    count = len(times[REFERENCE])
    lines = [
        "# Cost of a step of SOAP",
        "",
        f"Transformer of {size / 1e6:.1f}M parameters, 24 hidden matrices of width 384, bases refreshed every {PERIOD} "
        f"steps; {machine()}, float32; {count} interleaved steps. Written by `benchmarks/soap_step.py`.",
        "",
        "| optimizer | mean ms | over metrize | median ms | slowest ms | slowest over median | state over parameters |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, each in times.items():
        mean, median = statistics.fmean(each), statistics.median(each)
        over = mean / statistics.fmean(times[REFERENCE])
        lines.append(
            f"| {name} | {mean:.0f} | {over:.2f} | {median:.0f} | {max(each):.0f} | {max(each) / median:.2f} | "
            f"{state_share(optimizers[name]):.2f} |"
        )
    lines += ["", f"State of the full form by the paper's count: {formula_share():.2f}."]
    lines += ["", "| optimizer | first step, s |", "|---|---|"]
    lines += [f"| {name} | {value:.1f} |" for name, value in first.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--periods", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--heavyball", action="store_true", help="measure HeavyBall too, which compiles for minutes")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    builds = BUILDS | ({"HeavyBall": heavyball} if given.heavyball else {})
    optimizers, grads = {name: build(model()) for name, build in builds.items()}, gradients()
    steps = {name: stepping(optimizer, grads) for name, optimizer in optimizers.items()}
    first = {name: seconds(step) for name, step in steps.items()}
    times = interleave(steps, repeats=given.periods * PERIOD, warmup=1)
    text = report(times, optimizers, first)
    (HERE / "soap_step.json").write_text(json.dumps({"ms": times, "first s": first}) + "\n")
    (HERE / "soap_step.md").write_text(text)
    print(text)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
