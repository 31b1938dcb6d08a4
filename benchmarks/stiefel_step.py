"""Cost of an optimizer step on the Stiefel manifold, and of one without it, against the peers in one run.

Run: ``python benchmarks/stiefel_step.py`` (needs the extra ``bench``). Two threads; every figure is a median over
interleaved repetitions with its quartiles, every comparison a median of paired ratios. Writes ``stiefel_step.json``
and ``stiefel_step.md`` beside this file.
"""

from __future__ import annotations

import json
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from timing import Step, interleave, quartiles, ratio, spread, with_grad
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import metrize
from metrize.lab.models.gpt import GPT

HERE = Path(__file__).parent
torch.set_num_threads(2)


def points(*shape: int) -> Tensor:
    return torch.linalg.qr(torch.randn(*shape))[0].contiguous()


class Heads(nn.Module):
    """One weight among many; exists so that torch's parametrization has a module to sit on."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())


def many_small() -> dict[str, Step]:
    """(a) 336 matrices of St(7, 49)."""
    import geoopt

    start = points(336, 49, 7)
    separate = [with_grad(y) for y in start]
    stack = with_grad(start)
    fused = [with_grad(y.mT.reshape(147, 49)) for y in start.view(16, 21, 49, 7)]
    steps: dict[str, Step] = {
        "metrize, 336 parameters": metrize.Adam(separate, space=metrize.Stiefel()).step,
        "metrize, 16 fused weights of 21": metrize.Adam(fused, space=metrize.Stiefel(blocks=21)).step,
        "metrize, one stacked parameter": metrize.Adam([stack], space=metrize.Stiefel()).step,
    }
    manifolds = {"Euclidean metric, QR": geoopt.EuclideanStiefel(), "canonical": geoopt.CanonicalStiefel()}
    for name, manifold in manifolds.items():
        peers = [with_grad(geoopt.ManifoldParameter(y.clone(), manifold=manifold)) for y in start]
        whole = with_grad(geoopt.ManifoldParameter(start.clone(), manifold=manifold))
        steps[f"geoopt RiemannianAdam, 336 parameters ({name})"] = geoopt.optim.RiemannianAdam(peers).step
        steps[f"geoopt RiemannianAdam, one stacked parameter ({name})"] = geoopt.optim.RiemannianAdam([whole]).step
    for form in ("cayley", "householder", "matrix_exp"):
        steps[f"torch orthogonal + Adam ({form}), with its backward"] = parametrized(start, form)
    return steps


def parametrized(start: Tensor, form: str) -> Step:
    """Forward and backward of torch's parametrization and an Adam step, on 336 modules."""
    modules = [Heads(y) for y in start]
    for module in modules:
        torch.nn.utils.parametrizations.orthogonal(module, "weight", orthogonal_map=form)
    grads = [torch.randn(49, 7) for _ in modules]
    optimizer = torch.optim.Adam([p for m in modules for p in m.parameters()])

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward([m.weight for m in modules], grads)
        optimizer.step()

    return step


def adamw() -> tuple[dict[str, Step], int]:
    """(c) AdamW on a transformer of about 10 million parameters."""
    steps: dict[str, Step] = {}
    size = 0
    builders: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
        "metrize AdamW": lambda p: metrize.AdamW(p, lr=1e-3),
        "metrize AdamW, skip_nonfinite=False": lambda p: metrize.AdamW(p, lr=1e-3, skip_nonfinite=False),
        "torch AdamW(fused=True)": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
    }
    for name, build in builders.items():
        model = GPT(width=384, layers=6, heads=6, context=256, generator=torch.Generator().manual_seed(0))
        parameters = [with_grad(p) for p in model.parameters()]
        size = sum(p.numel() for p in parameters)
        steps[name] = build(parameters).step
    return steps, size


def solves(rows: int, n: int) -> float:
    """Flops of the factorisations and solves of one step, which the profiler does not count."""
    lu, with_right_sides = 2 / 3 * n**3, 2 * n**3
    cayley = lu + with_right_sides
    section = 0.0 if rows == n else n**3 / 3 + lu + 4 / 3 * n**3  # Cholesky of the signs, inverse of K
    return cayley + section


def units(rows: int, n: int) -> dict[str, float]:
    """(b) Flops of a step in units of ``2 N n^2``, and its time over the time of one such product."""
    y = with_grad(points(rows, n))
    optimizer = metrize.Adam([y], space=metrize.Stiefel())
    for _ in range(5):
        optimizer.step()  # the first steps polish
    period = metrize.Stiefel().polish_every
    with FlopCounterMode(display=False) as counter:
        for _ in range(period):
            optimizer.step()
    flops = counter.get_total_flops() / period
    unit = 2 * rows * n * n
    square = torch.randn(n, n)
    times = interleave({"step": optimizer.step, "product": lambda: y.detach() @ square}, repeats=40)
    middle, low, high = ratio(times, "product", "step")
    return {
        "units, products": flops / unit,
        "units, all": (flops + solves(rows, n)) / unit,
        "time over one product": middle,
        "quartiles": (low, high),
        "step ms": quartiles(times["step"])[0],
        "product ms": quartiles(times["product"])[0],
    }


def first_step() -> dict[str, float]:
    """Seconds of the first step of a fresh optimizer, allocation of its state included."""
    model = GPT(width=384, layers=6, heads=6, context=256, generator=torch.Generator().manual_seed(0))
    seconds = {}
    for name, cls in ((cls.__name__, cls) for cls in (metrize.Adam, metrize.AdamW, metrize.SGD)):
        optimizer = cls([with_grad(p) for p in model.parameters()])
        start = time.perf_counter()
        optimizer.step()
        seconds[name] = time.perf_counter() - start
    stiefel = metrize.Adam([with_grad(y) for y in points(336, 49, 7)], space=metrize.Stiefel())
    start = time.perf_counter()
    stiefel.step()
    return seconds | {"Adam, 336 matrices St(7, 49)": time.perf_counter() - start}


def report() -> str:
    torch.manual_seed(0)
    small = interleave(many_small(), repeats=25)
    plain, size = adamw()
    large = interleave(plain, repeats=60, warmup=5)
    matrices = {f"({rows}, {n})": units(rows, n) for rows, n in ((1024, 128), (1024, 512), (1024, 1024))}
    firsts = first_step()
    (HERE / "stiefel_step.json").write_text(
        json.dumps({"small": small, "adamw": large, "matrices": matrices, "first step s": firsts}) + "\n"
    )
    lines = [
        "# Cost of a step",
        "",
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, float32; "
        "medians [quartiles] over interleaved repetitions. Written by `benchmarks/stiefel_step.py`.",
        "",
        "## 336 matrices St(7, 49)",
        "",
        "| step | ms | over metrize, 336 parameters | over metrize, one stacked |",
        "|---|---|---|---|",
    ]
    for name, values in small.items():
        separate = ratio(small, "metrize, 336 parameters", name)
        stacked = ratio(small, "metrize, one stacked parameter", name)
        lines.append(f"| {name} | {spread(quartiles(values))} | {spread(separate)} | {spread(stacked)} |")
    lines += ["", "## One matrix", ""]
    lines.append("| (N, n) | products, units of 2Nn^2 | with solves | step over one product | ms |")
    lines.append("|---|---|---|---|---|")
    for name, row in matrices.items():
        lines.append(
            f"| {name} | {row['units, products']:.2f} | {row['units, all']:.2f} | "
            f"{spread((row['time over one product'], *row['quartiles']))} | {row['step ms']:.2f} |"
        )
    lines += ["", f"## AdamW, transformer of {size / 1e6:.1f}M parameters", "", "| step | ms | over torch fused |"]
    lines.append("|---|---|---|")
    for name, values in large.items():
        over = spread(ratio(large, "torch AdamW(fused=True)", name))
        lines.append(f"| {name} | {spread(quartiles(values))} | {over} |")
    lines += ["", "## First step, cold", "", "| optimizer | s |", "|---|---|"]
    lines += [f"| {name} | {value:.3f} |" for name, value in firsts.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    text = report()
    (HERE / "stiefel_step.md").write_text(text)
    print(text)
