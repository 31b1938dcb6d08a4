"""Cost of a Muon step on GPT-2 small's 48 hidden matrices, against the peers in one run.

Run: ``python benchmarks/muon_step.py`` (needs the extra ``bench``; ``--heavyball`` adds HeavyBall, which compiles for
minutes first). Two threads. Prints the time over the flops model at the machine's own rate of 16-bit products.
Writes ``muon_step.json`` and ``muon_step.md`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import torch
from timing import Step, interleave, machine, quartiles, ratio, spread, table, with_grad
from torch import nn

import metrize

HERE = Path(__file__).parent
SHAPES = [(2304, 768), (768, 768), (3072, 768), (768, 3072)] * 12
STEPS = 5  # of Newton-Schulz, everywhere


def matrices() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [with_grad(0.02 * torch.randn(shape, generator=generator)) for shape in SHAPES]


def heavyball() -> Step:
    """HeavyBall's Muon, compiled."""
    import heavyball

    params = matrices()
    grads = [p.grad.clone() for p in params]
    optimizer = heavyball.Muon(params, lr=1e-3, weight_decay=0)

    def step() -> None:
        for p, grad in zip(params, grads, strict=True):  # it takes them away
            p.grad = grad
        optimizer.step()

    return step


def flops() -> float:
    """Of Newton-Schulz alone: ``4 q r^2 + 2 r^3`` a step for r rows and q >= r columns."""
    sides = [(min(shape), max(shape)) for shape in SHAPES]
    return STEPS * sum(4 * q * r * r + 2 * r**3 for r, q in sides)


def product_rate() -> float:
    """Flops per millisecond of 16-bit products of the largest size at hand, the median of many."""
    a, b = (torch.randn(shape, dtype=torch.bfloat16) for shape in ((768, 3072), (3072, 768)))
    times = interleave({"product": lambda: a @ b}, repeats=100)["product"]
    return 2 * 768 * 768 * 3072 / quartiles(times)[0]


def main(with_heavyball: bool) -> str:
    options = {"lr": 1e-3, "weight_decay": 0.0}
    steps: dict[str, Step] = {
        "metrize Muon": metrize.Muon(matrices(), accuracy="muon", **options).step,
        "metrize Muon, Polar Express": metrize.Muon(matrices(), accuracy="fast", **options).step,
        "torch.optim.Muon": torch.optim.Muon(matrices(), ns_steps=STEPS, **options).step,
    }
    if with_heavyball:
        steps["HeavyBall Muon"] = heavyball()
    rate = product_rate()
    times = interleave(steps, repeats=7, warmup=2)
    model = flops() / rate
    over = {name: quartiles(values)[0] / model for name, values in times.items()}
    (HERE / "muon_step.json").write_text(json.dumps({"ms": times, "flops": flops(), "flops per ms": rate}) + "\n")
    lines = [
        "# Cost of a Muon step",
        "",
        f"GPT-2 small's 48 hidden matrices, {STEPS} steps of Newton-Schulz. {machine()}. "
        "Written by `benchmarks/muon_step.py`.",
        "",
        *table(times, "metrize Muon"),
        "",
        f"Flops model: {flops() / 1e12:.2f} Tflop at {rate / 1e9:.2f} Tflop/s, the rate of a 16-bit product "
        f"768 x 3072 x 768 here, is {model:.0f} ms.",
        "",
        *(f"- {name}: {value:.2f} times the model" for name, value in over.items()),
        f"- torch.optim.Muon over ours: {spread(ratio(times, 'metrize Muon', 'torch.optim.Muon'))}",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("--heavyball", action="store_true")
    torch.set_num_threads(2)
    text = main(parser.parse_args().heavyball)
    (HERE / "muon_step.md").write_text(text)
    print(text)
