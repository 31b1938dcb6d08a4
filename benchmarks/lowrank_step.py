"""Cost of low-rank frames: of a refresh over full singular vectors, and of a step between two over its bare products.

Run: ``python benchmarks/lowrank_step.py``. One thread; times are medians over interleaved repetitions, comparisons
medians of paired ratios with their quartiles. Writes ``lowrank_step.json`` and ``lowrank_step.md`` beside this file.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from timing import Step, Times, interleave, machine, quartiles, ratio, spread
from torch import Tensor, nn

import metrize
from metrize import frames
from metrize.frames.bases import leading, sketched, tucker
from metrize.frames.correlation import Correlation
from metrize.frames.subspace import expand, project

HERE = Path(__file__).parent
MATRICES = [(1024, 1024, 128), (1024, 2736, 256), (2048, 2048, 512)]
"""Rows, columns and rank: GaLore's recipes for LLaMA-60M (twice as wide), -350M and -1B."""
CONVOLUTION = (256, 256, 3, 3)
SVD = "singular vectors of the gradient (GaLore)"
PRODUCTS = "two bare products with the basis"

torch.set_num_threads(1)


def gradient(*shape: int) -> Tensor:
    """Singular values that fall off, as those of a gradient do, in noise."""
    draw = torch.Generator().manual_seed(0)
    m, n = shape[0], math.prod(shape[1:])
    strength = torch.arange(1, min(m, n) + 1) ** -1.0
    signal = torch.randn(m, min(m, n), generator=draw) * strength @ torch.randn(min(m, n), n, generator=draw)
    return (signal + 0.1 * torch.randn(m, n, generator=draw)).view(shape)


def refreshes(m: int, n: int, rank: int) -> Times:
    """(a) Making a basis anew."""
    grad = gradient(m, n)
    dim = 1 if m >= n else 0
    basis = sketched(grad, dim, torch.randn(grad.shape[dim], rank))
    kept = project(grad[None], {dim: basis[None]})[0]
    steps: dict[str, Step] = {
        SVD: lambda: leading(grad, rank, [dim]),
        "sketch from the basis before (COAP)": lambda: sketched(grad, dim, basis),
        "gradient step on the correlation (COAP)": lambda: Correlation(grad, kept, {dim: basis}, True).gradient(),
    }
    return interleave(steps, repeats=5, warmup=1)


def convolution() -> Times:
    """(b) The same for a convolution, against the singular vectors of its largest unfolding."""
    grad = gradient(*CONVOLUTION)
    ranks = frames.COAP().ranks(grad.shape)
    factors = tucker(grad, ranks)
    kept = project(grad[None], {d: q[None] for d, q in factors.items()})[0]
    steps: dict[str, Step] = {
        SVD: lambda: torch.linalg.svd(grad.flatten(1), full_matrices=False),
        "Tucker-2 (COAP)": lambda: tucker(grad, ranks),
        "gradient step on the correlation (COAP)": lambda: Correlation(grad, kept, factors, True).gradient(),
    }
    return interleave(steps, repeats=5, warmup=1)


def steps(m: int, n: int, rank: int) -> Times:
    """(c) A step between two refreshes."""
    grad = gradient(m, n)
    between = {"period": 10**9, "stagger": False}
    methods = {
        "COAP": lambda p: metrize.COAP(p, rank=rank, **between),
        "GaLore": lambda p: metrize.GaLore(p, rank=rank, **between),
        "APOLLO": lambda p: metrize.APOLLO(p, rank=rank, **between),
        "Flora": lambda p: metrize.Flora(p, rank=rank),
        "Online Subspace Descent": lambda p: metrize.Optimizer(p, metrize.Recipe(frame=frames.OnlineSubspace(rank))),
        "AdamW": lambda p: metrize.AdamW(p),
    }
    calls: dict[str, Step] = {}
    for name, build in methods.items():
        p = nn.Parameter(torch.zeros(m, n))
        p.grad = grad.clone()
        optimizer = build([p])
        optimizer.step()
        calls[name] = optimizer.step
        if name == "COAP":
            bases = {int(key[-1]): value[None] for key, value in optimizer.state[p].items() if key.startswith("basis")}
    calls[PRODUCTS] = lambda: expand(project(grad[None], bases), bases)
    return interleave(calls, repeats=25)


def rows(times: Times, over: str) -> list[str]:
    lines = ["| | ms | over the first line |" if over == SVD else f"| | ms | over {over} |", "|---|---|---|"]
    return [
        *lines,
        *(f"| {k} | {spread(quartiles(v), 1)} | {spread(ratio(times, over, k), 3)} |" for k, v in times.items()),
    ]


def report() -> str:
    results: dict[str, Times] = {}
    lines = [
        "# Low-rank frames",
        "",
        f"{machine()}, float32; medians [quartiles]. Written by `benchmarks/lowrank_step.py`.",
    ]
    for shape in MATRICES:
        m, n, rank = shape
        lines += ["", f"## Refresh of {m} x {n}, rank {rank}", ""]
        results[f"refresh {shape}"] = refreshes(*shape)
        lines += rows(results[f"refresh {shape}"], SVD)
        lines += ["", f"## Step of {m} x {n}, rank {rank}, between refreshes", ""]
        results[f"step {shape}"] = steps(*shape)
        lines += rows(results[f"step {shape}"], PRODUCTS)
    lines += ["", f"## Refresh of a convolution {' x '.join(map(str, CONVOLUTION))}", ""]
    results["convolution"] = convolution()
    lines += rows(results["convolution"], SVD)
    (HERE / "lowrank_step.json").write_text(json.dumps(results) + "\n")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = report()
    (HERE / "lowrank_step.md").write_text(text)
    print(text)
