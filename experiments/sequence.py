"""What does an orthogonal recurrent matrix do for a network that reads digits pixel by pixel?

64 steps, all of which the gradient has to pass. Every method is trained at every learning rate of its grid, and at the
best one with several seeds. All start from the same orthogonal recurrent matrix; ``on
none`` leaves it free from there on.

Run: ``python experiments/sequence.py [--steps 600] [--threads 1]``; it goes on where it was stopped. Writes
``sequence.md`` beside this file and all runs under ``runs/sequence``.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
from pathlib import Path

import torch
from stiefel_transformer import best, go_on, mean_sd

from metrize.lab.compare import parse_method
from metrize.lab.config import RunConfig
from metrize.lab.runs import Run

HERE = Path(__file__).parent
RUNS = HERE.parent / "runs" / "sequence"
SEEDS = 3
METHODS = {
    "Adam on Orthogonal()": (3e-4, 1e-3, 3e-3, 1e-2),
    "Adam on none": (3e-4, 1e-3, 3e-3, 1e-2),
    "SGD momentum=0.9 on Orthogonal()": (3e-4, 1e-3, 3e-3, 1e-2),
    "SGD momentum=0.9 on none": (3e-4, 1e-3, 3e-3, 1e-2),
}


def sweep(base: RunConfig) -> list[list[Run]]:
    """Every method at every learning rate of its grid, one seed."""
    found = []
    for at, (sentence, rates) in enumerate(METHODS.items()):
        method = parse_method(sentence, base)
        found.append(go_on(RUNS / f"sweep-{at}", [dataclasses.replace(method, lr=lr) for lr in rates], 1))
    return found


def final_table(base: RunConfig, swept: list[list[Run]]) -> list[str]:
    methods = [best(runs) for runs in swept]
    runs = go_on(RUNS / "final", methods, SEEDS)
    lines = [
        "| method | lr | training loss | held-out loss | accuracy | diverged | error on the manifold |",
        "|---|---|---|---|---|---|---|",
    ]
    for sentence, method in zip(METHODS, methods, strict=True):
        own = [run.summary for run in runs if dataclasses.replace(run.config, seed=method.seed) == method]
        alive = [summary for summary in own if not summary.diverged]
        errors = [summary.space_error for summary in alive if summary.space_error is not None]
        cells = [
            mean_sd([s.final_train_loss for s in alive]) if len(alive) > 1 else "-",
            mean_sd([s.final_eval_loss for s in alive]) if len(alive) > 1 else "-",
            mean_sd([s.figures["accuracy"] for s in alive]) if len(alive) > 1 else "-",
            f"{len(own) - len(alive)} of {len(own)}",
            f"{max(errors):.1e}" if errors else "-",
        ]
        lines.append(f"| {sentence} | {method.lr:g} | {' | '.join(cells)} |")
    return lines


def sweep_tables(swept: list[list[Run]]) -> list[str]:
    """Training loss by method and learning rate; the two optimizers have grids of their own."""
    lines = []
    for rates in dict.fromkeys(METHODS.values()):
        lines += ["", "| method | " + " | ".join(f"{lr:g}" for lr in rates) + " |", "|---" * (len(rates) + 1) + "|"]
        for (sentence, own), runs in zip(METHODS.items(), swept, strict=True):
            if own == rates:
                lines.append(f"| {sentence} | {' | '.join(_loss(run) for run in runs)} |")
    return lines


def _loss(run: Run) -> str:
    return "diverged" if run.summary.diverged else f"{run.summary.final_train_loss:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    base = RunConfig("sequence", steps=given.steps, eval_every=0, checkpoint_every=0, threads=given.threads)
    swept = sweep(base)
    lines = [
        "# An orthogonal recurrent network on digits, pixel by pixel",
        "",
        f"64 hidden numbers, modReLU, 64 steps of one pixel, batch 128, {given.steps} optimizer steps, {SEEDS} seeds "
        f"(mean ± standard deviation of those that did not diverge); torch {torch.__version__}, {given.threads} "
        f"thread, {platform.machine()}. Written by `experiments/sequence.py`.",
        "",
        *final_table(base, swept),
        "",
        "Training loss at the end for every learning rate tried (seed 0; guessing scores 2.303):",
        *sweep_tables(swept),
    ]
    (HERE / "sequence.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
