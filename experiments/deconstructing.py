"""Is every optimizer but SGD about as good as Adam, once its learning rate is tuned, and how much adaptivity is needed?

Claim (arXiv:2407.07972): on language models Adam, Adafactor, Lion and Signum reach about the same loss, over learning
rates of about the same range, and SGD does not. One second moment for each matrix is nearly enough, if the last layer
has one for each row (Adalayer*); so is SGD, if the last layer and the norms are adaptive. Here in miniature: a
byte-level transformer with untied head, 10 % warm-up, cosine to a tenth, no weight decay, eps 1e-15. A run reads less
than a sixth of the text, so the loss of its last batches is one of new text; they are the same for every method.

Run: ``python experiments/deconstructing.py [--steps 500] [--threads 1]``; it goes on where it was stopped. Writes
``deconstructing.md`` and ``deconstructing.png`` beside this file, and all losses to ``runs/deconstructing``.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

import metrize
from metrize import Factored, Recipe, Split, rules
from metrize.lab.data import Text, load_text, stream
from metrize.lab.models import GPT
from metrize.lab.report.plots import COLOURS

HERE = Path(__file__).parent
RUNS = HERE.parent / "runs" / "deconstructing"
CONTEXT, BATCH, SEEDS, LAST = 64, 16, 3, 20
ADAM: dict[str, Any] = {"betas": (0.9, 0.95), "eps": 1e-15}
ADAPTIVE = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SIGNS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)

Build = Callable[[GPT, float, Tensor], metrize.Optimizer]
STUDY = Recipe(moments=Split(square=Factored()), rule=rules.Adam())


@dataclasses.dataclass(frozen=True)
class Method:
    """How a method is built from a model, a learning rate and an example, and the rates to try."""

    build: Build
    rates: tuple[float, ...] = ADAPTIVE


METHODS = {
    "Adam": Method(lambda m, lr, x: metrize.AdamW(m, lr=lr, weight_decay=0.0, **ADAM)),
    "Adafactor": Method(lambda m, lr, x: metrize.Optimizer(m, STUDY, lr=lr, **ADAM)),
    "Adalayer*": Method(lambda m, lr, x: metrize.Adalayer(m, lr=lr, example=x)),
    "Adalayer*, embedding by rows": Method(lambda m, lr, x: metrize.Adalayer(m, lr=lr, embedding="rows", example=x)),
    "FAdam": Method(lambda m, lr, x: metrize.FAdam(m, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)),
    "Lion": Method(lambda m, lr, x: metrize.Lion(m, lr=lr, betas=(0.9, 0.95)), SIGNS),
    "Signum": Method(lambda m, lr, x: metrize.Signum(m, lr=lr, momentum=0.9), SIGNS),
    "SGD": Method(lambda m, lr, x: metrize.SGD(m, lr=lr, momentum=0.9), (1e-2, 3e-2, 1e-1, 3e-1, 1.0)),
    "SGD, last layer and norms Adalayer*": Method(
        lambda m, lr, x: metrize.Adalayer(m, lr=1e-2, hidden="sgd", hidden_lr=lr, example=x), (0.1, 0.3, 1.0, 3.0, 10.0)
    ),
}


@functools.cache
def read() -> Text:
    return load_text(None, CONTEXT)


def train(method: Method, lr: float, seed: int, steps: int) -> dict[str, float]:
    """One run: the mean loss of its last batches, infinite where it diverged, and seconds of CPU time."""
    text = read()
    shape = {"width": 64, "layers": 2, "heads": 4, "context": CONTEXT, "tied": False}
    model = GPT(**shape, generator=stream(seed, "weights"))
    optimizer = method.build(model, lr, text.batch(seed, 0, 2)[0])
    schedule = LambdaLR(optimizer, lambda t: factor((t + 1) / steps))
    losses, start = [], time.process_time()
    for step in range(steps):
        inputs, targets = text.batch(seed, step, BATCH)
        optimizer.zero_grad()
        loss = model.loss(model(inputs), targets)
        loss.backward()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            return {"loss": math.inf, "seconds": time.process_time() - start}
        optimizer.step()
        schedule.step()
    return {"loss": statistics.mean(losses[-LAST:]), "seconds": time.process_time() - start}


def factor(share: float) -> float:
    """10 % warm-up, then a cosine to a tenth."""
    if share <= 0.1:
        return share / 0.1
    return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, (share - 0.1) / 0.9)))


@dataclasses.dataclass
class Results:
    """The runs so far, kept in a file."""

    steps: int

    def __post_init__(self) -> None:
        RUNS.mkdir(parents=True, exist_ok=True)
        self.file = RUNS / f"steps-{self.steps}.json"
        self.known: dict[str, dict[str, float]] = json.loads(self.file.read_text()) if self.file.exists() else {}

    def of(self, name: str, lr: float, seed: int = 0) -> dict[str, float]:
        key = f"{name} lr={lr:g} seed={seed}"
        if key not in self.known:
            self.known[key] = train(METHODS[name], lr, seed, self.steps)
            self.file.write_text(json.dumps(self.known, indent=1))
            print(f"{key}: {self.known[key]['loss']:.3f}", flush=True)
        return self.known[key]

    def best(self, name: str) -> float:
        return min(METHODS[name].rates, key=lambda lr: self.of(name, lr)["loss"])

    def final(self, name: str) -> list[float]:
        return [self.of(name, self.best(name), seed)["loss"] for seed in range(SEEDS)]


def row(results: Results, name: str) -> str:
    final, best = results.final(name), results.best(name)
    near = [lr for lr in METHODS[name].rates if results.of(name, lr)["loss"] < results.of(name, best)["loss"] + 0.1]
    told = f"{min(near):g} to {max(near):g}" if len(near) > 1 else f"{near[0]:g}"
    return f"| {name} | {best:g} | {statistics.mean(final):.3f} ± {statistics.stdev(final):.3f} | {told} |"


def grid(results: Results) -> list[str]:
    rates = sorted({lr for method in METHODS.values() for lr in method.rates})
    lines = ["| method | " + " | ".join(f"{lr:g}" for lr in rates) + " |", "|---" * (len(rates) + 1) + "|"]
    for name, method in METHODS.items():
        losses = {lr: f"{results.of(name, lr)['loss']:.3f}" for lr in method.rates}
        lines.append(f"| {name} | " + " | ".join(losses.get(lr, "") for lr in rates) + " |")
    return lines


def draw(results: Results) -> None:
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for at, (name, method) in enumerate(METHODS.items()):
        losses = [results.of(name, lr)["loss"] for lr in method.rates]
        dash = "o-" if at < len(COLOURS) else "s--"
        axes.plot(method.rates, losses, dash, color=COLOURS[at % len(COLOURS)], label=name, markersize=4)
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss, nats a byte", ylim=(None, 3.6))
    axes.grid(alpha=0.15)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(HERE / "deconstructing.png", dpi=150, facecolor="white")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    results = Results(given.steps)
    table = [row(results, name) for name in METHODS]
    seconds = sum(run["seconds"] for run in results.known.values())
    lines = [
        "# What makes a good optimizer for language, in miniature",
        "",
        f"Byte-level transformer (2 blocks, width 64, context {CONTEXT}) on the standard library of Python "
        f"{platform.python_version()}, batch {BATCH}, {given.steps} steps, {SEEDS} seeds (mean ± standard deviation); "
        f"torch {torch.__version__}, {given.threads} thread, {platform.machine()}, {seconds / 60:.0f} minutes of CPU "
        "time. Losses are those of the last 20 batches, nearly all of it text that the model has not seen, in nats a "
        "byte. The learning rate is the best one of seed 0. Written by `experiments/deconstructing.py`.",
        "",
        "| method | lr | loss | rates within 0.1 of it (seed 0) |",
        "|---|---|---|---|",
        *table,
        "",
        "For SGD with an adaptive last layer, the learning rate is that of the hidden matrices and of the embedding; "
        "the last layer and the norms have 0.01.",
        "",
        "![Loss over learning rate](deconstructing.png)",
        "",
        "Every learning rate tried (seed 0):",
        "",
        *grid(results),
    ]
    draw(results)
    (HERE / "deconstructing.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
