"""Does optimization on the Grassmann manifold find the principal subspace of the digits?

The optimum is known from the singular values, so that what is left can be told exactly: ``f(Y) / f* - 1`` for the
reconstruction error ``f(Y) = ||X - X Y Y^T||^2`` of an 8-dimensional subspace of the 64 pixels. Each method has the
learning rate of its grid with the lowest training loss in a short run.

Run: ``python experiments/subspace.py [--steps 1000] [--threads 1]``; it goes on where it was stopped. Writes
``subspace.md`` beside this file and all runs under ``runs/subspace``.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import statistics
from pathlib import Path

import torch
from stiefel_transformer import best, go_on

from metrize.lab.compare import parse_method
from metrize.lab.config import RunConfig

HERE = Path(__file__).parent
RUNS = HERE.parent / "runs" / "subspace"
SEEDS, SWEEP_STEPS = 3, 200
# all 1,437 training samples, where nothing but the method itself is between it and the optimum
BATCHES = (128, 1437)
METHODS = {
    "Adam on Grassmann()": (3e-3, 1e-2, 3e-2, 1e-1),
    "Adam second_moment=scalar on Grassmann()": (3e-3, 1e-2, 3e-2, 1e-1),
    "SGD momentum=0.9 on Grassmann()": (1e-2, 3e-2, 1e-1, 3e-1),
    "Adam on none": (1e-3, 3e-3, 1e-2, 3e-2),
    "SGD momentum=0.9 on none": (1e-2, 3e-2, 1e-1, 3e-1),
}


def chosen(base: RunConfig, folder: Path) -> list[RunConfig]:
    """Every method with the best learning rate of its grid."""
    swept = dataclasses.replace(base, steps=SWEEP_STEPS)
    found = []
    for at, (sentence, rates) in enumerate(METHODS.items()):
        method = parse_method(sentence, swept)
        runs = go_on(folder / f"sweep-{at}", [dataclasses.replace(method, lr=lr) for lr in rates], 1)
        found.append(dataclasses.replace(best(runs), steps=base.steps))
    return found


def table(base: RunConfig, folder: Path) -> list[str]:
    methods = chosen(base, folder)
    runs = go_on(folder / "final", methods, SEEDS)
    lines = ["| method | lr | excess over the SVD | worst seed | error on the manifold |", "|---|---|---|---|---|"]
    for sentence, method in zip(METHODS, methods, strict=True):
        own = [run.summary for run in runs if dataclasses.replace(run.config, seed=method.seed) == method]
        assert len(own) == SEEDS
        left = [summary.figures["excess"] for summary in own]
        errors = [summary.space_error for summary in own if summary.space_error is not None]
        off = f"{max(errors):.1e}" if errors else "-"
        lines.append(f"| {sentence} | {method.lr:g} | {statistics.mean(left):.1e} | {max(left):.1e} | {off} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    base = RunConfig("subspace", steps=given.steps, eval_every=0, checkpoint_every=0, threads=given.threads)
    lines = [
        "# The principal subspace of the digits",
        "",
        f"8 of 64 dimensions, {given.steps} steps, mean of {SEEDS} seeds; the weights are float32; torch "
        f"{torch.__version__}, {given.threads} thread, {platform.machine()}. Learning rates by the training loss after "
        f"{SWEEP_STEPS} steps. Written by `experiments/subspace.py`.",
    ]
    for batch in BATCHES:
        setting = dataclasses.replace(base, batch_size=batch)
        lines += ["", f"Batches of {batch}:", "", *table(setting, RUNS / f"batch-{batch}")]
    (HERE / "subspace.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
