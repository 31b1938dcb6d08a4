"""Quality and bytes side by side: memory-efficient optimizers against AdamW.

Run: ``python experiments/memory_quality.py`` (about a quarter of an hour on one core). Two tasks: a small convolutional
network on scikit-learn's digits, and a byte-level transformer on the standard library's sources. Every method's
learning rate is the best of a grid on seed 0; the table has that rate on three seeds. Writes ``memory_quality.md`` and
``.json`` beside this file.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import metrize
from metrize.lab.data import load_digits, load_text, stream
from metrize.lab.models.gpt import GPT

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
Build = Callable[[nn.Module, float], metrize.Optimizer]

METHODS: dict[str, tuple[Build, tuple[float, ...]]] = {
    "AdamW": (lambda m, lr: metrize.AdamW(m, lr=lr, weight_decay=0), (3e-3, 1e-2, 2e-2)),
    "Adam8bit": (lambda m, lr: metrize.Adam8bit(m, lr=lr), (3e-3, 1e-2, 2e-2)),
    "SMMF": (lambda m, lr: metrize.SMMF(m, lr=lr, decay_rate=-0.8), (1e-2, 2e-2, 4e-2)),
    "Adafactor": (lambda m, lr: metrize.Adafactor(m, lr=lr), (1e-2, 3e-2, 1e-1)),
    "CAME": (lambda m, lr: metrize.CAME(m, lr=lr), (1e-3, 3e-3, 1e-2)),
    "SM3": (lambda m, lr: metrize.SM3(m, lr=lr), (3e-2, 1e-1, 3e-1)),
    "COAP": (lambda m, lr: metrize.COAP(m, lr=lr), (1e-2, 2e-2, 4e-2)),
    "AdamMini": (lambda m, lr: metrize.AdamMini(m, lr=lr), (3e-3, 1e-2, 2e-2)),
}


class Digits(nn.Sequential):
    """Two convolutions and two linear layers."""

    def __init__(self) -> None:
        layers = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        super().__init__(*layers, nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))


def digits(build: Build, lr: float, seed: int) -> tuple[float, list[float], int]:
    """Held-out loss, training losses and state bytes after 12 epochs of 64 samples a step, lr falling to 0."""
    data = load_digits(side=8)
    torch.manual_seed(seed)
    model = Digits()

    def loss_of(step: int) -> Tensor:
        x, y = data.batch(seed, step, 64)
        return nn.functional.cross_entropy(model(x[:, None]), y)

    losses, size = _train(model, build(model, lr), loss_of, steps=12 * 22, warmup=0)
    x, y = data.held_out
    with torch.no_grad():
        return nn.functional.cross_entropy(model(x[:, None]), y).item(), losses, size


def text(build: Build, lr: float, seed: int) -> tuple[float, list[float], int]:
    """Held-out nats a byte, training losses and state bytes after 300 steps of 32 times 32 bytes."""
    data = load_text(None, context=32)
    model = GPT(width=64, layers=2, heads=4, context=32, generator=stream(seed, "weights"))

    def loss_of(step: int) -> Tensor:
        x, y = data.batch(seed, step, 32)
        return model.loss(model(x), y)

    losses, size = _train(model, build(model, lr), loss_of, steps=300, warmup=30)
    x, y = data.held_out
    with torch.no_grad():
        return model.loss(model(x), y).item(), losses, size


def _train(
    model: nn.Module, optimizer: metrize.Optimizer, loss_of: Callable[[int], Tensor], steps: int, warmup: int
) -> tuple[list[float], int]:
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: min((t + 1) / max(1, warmup), 1.0) * (1 - t / steps)
    )
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = loss_of(step)
        if not math.isfinite(loss.item()):
            return [*losses, math.inf], metrize.state_bytes(optimizer)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses, metrize.state_bytes(optimizer)


TASKS: dict[str, Callable[[Build, float, int], tuple[float, list[float], int]]] = {"digits": digits, "text": text}


def measure() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for task, run in TASKS.items():
        for name, (build, rates) in METHODS.items():
            first = {lr: run(build, lr, SEEDS[0]) for lr in rates}
            lr = min(first, key=lambda rate: first[rate][0])
            runs = [first[lr], *(run(build, lr, seed) for seed in SEEDS[1:])]
            found.setdefault(task, {})[name] = {
                "lr": lr,
                "held-out": [ends for ends, _, _ in runs],
                "early": statistics.mean(statistics.mean(losses[20:40]) for _, losses, _ in runs),
                "bytes": runs[0][2],
            }
            print(task, name, found[task][name], flush=True)
    return found


def written(found: dict[str, dict[str, Any]]) -> str:
    lines = [
        "# Quality and bytes side by side",
        "",
        "Held-out loss (mean and spread of three seeds) at the best rate of a grid of three, the training loss of",
        "steps 20 to 40, where some methods start slowly, and the bytes of state. The rate falls to 0, gradients are",
        "clipped at 1. Written by `experiments/memory_quality.py`.",
    ]
    for task, methods in found.items():
        lines += [
            "",
            f"## {task}",
            "",
            "| method | lr | held-out loss | early training loss | state bytes | of AdamW's |",
        ]
        lines.append("|---|---|---|---|---|---|")
        for name, row in methods.items():
            ends = row["held-out"]
            spread = statistics.stdev(ends)
            share = row["bytes"] / methods["AdamW"]["bytes"]
            lines.append(
                f"| {name} | {row['lr']:g} | {statistics.mean(ends):.4f} ± {spread:.4f} | {row['early']:.3f} | "
                f"{row['bytes']:,} | {share:.1%} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = measure()
    (HERE / "memory_quality.json").write_text(json.dumps(results) + "\n")
    (HERE / "memory_quality.md").write_text(written(results))
    print(written(results))
