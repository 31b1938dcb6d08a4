"""Cost of a step of Lion, Signum and Prodigy over a plain copy of as many bytes, and against the peers, in one run.

Run: ``python benchmarks/elementwise_step.py`` (needs the extra ``bench``). Two threads, a transformer's 10.7 million
parameters. Writes ``elementwise_step.json`` and ``elementwise_step.md`` beside this file.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from timing import Step, interleave, machine, quartiles, spread, table, with_grad
from torch import nn

import metrize
from metrize.lab.models.gpt import GPT

HERE = Path(__file__).parent
BYTES = {"Lion": 20, "Signum": 20, "Prodigy": 52}
"""Read and written for each float32 parameter: p, g and averages read, p and averages written. Prodigy reads p, g, m,
v, s, p0 and writes p, m, v, s; its sums come first, so that g, s, p0 and p are read once more but for s."""


def parameters() -> list[nn.Parameter]:
    model = GPT(width=384, layers=6, heads=6, context=256, generator=torch.Generator().manual_seed(0))
    return [with_grad(p) for p in model.parameters()]


def peers() -> dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]]:
    from lion_pytorch import Lion
    from prodigyopt import Prodigy
    from pytorch_optimizer import SignSGD

    return {
        "lion-pytorch": lambda p: Lion(p, lr=1e-4),
        "pytorch_optimizer SignSGD(momentum=0.9)": lambda p: SignSGD(p, lr=1e-3, momentum=0.9),
        "prodigyopt": lambda p: Prodigy(p),
    }


def copy_of(size: int) -> Step:
    """A copy that reads and writes `size` bytes together."""
    source = torch.empty(size // 8)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def main() -> str:
    size = sum(p.numel() for p in parameters())
    steps: dict[str, Step] = {
        "metrize Lion": metrize.Lion(parameters(), skip_nonfinite=False).step,
        "metrize Signum": metrize.Signum(parameters(), skip_nonfinite=False).step,
        "metrize Prodigy": metrize.Prodigy(parameters(), skip_nonfinite=False).step,
        "torch AdamW(fused=True)": torch.optim.AdamW(parameters(), fused=True).step,
    }
    steps |= {name: build(parameters()).step for name, build in peers().items()}
    steps |= {f"copy of the bytes of {name}": copy_of(bytes_each * size) for name, bytes_each in BYTES.items()}
    times = interleave(steps, repeats=30, warmup=5)
    (HERE / "elementwise_step.json").write_text(json.dumps(times) + "\n")
    lines = [
        "# Cost of elementwise steps",
        "",
        f"{size / 1e6:.1f}M parameters, float32, without the check for gradients that are not finite. {machine()}. "
        "Written by `benchmarks/elementwise_step.py`.",
        "",
        *table(times, "metrize Lion"),
        "",
    ]
    for name, bytes_each in BYTES.items():
        over = [a / b for a, b in zip(times[f"metrize {name}"], times[f"copy of the bytes of {name}"], strict=True)]
        lines.append(f"- {name} over a copy of the same {bytes_each} bytes a parameter: {spread(quartiles(over))}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    text = main()
    (HERE / "elementwise_step.md").write_text(text)
    print(text)
