"""Does Adam on the Stiefel manifold train the paper's transformer where unconstrained Adam does not?

Claim (arXiv:2305.16901): with 16 blocks and no skip connections the loss of Adam on Stiefel falls, while unconstrained
Adam stays on the plateau sqrt(1.8) = 1.342 of a constant prediction. Here on digits, with the paper's numbers
(betas 0.9 and 0.99, momentum 0.5) and a learning rate chosen for each method from the same grid by a short run.

Run: ``python experiments/stiefel_transformer.py [--steps 1000] [--sweep-steps 200] [--threads 1]``; it goes on where it
was stopped. Writes ``stiefel_transformer.md`` beside this file and all runs under ``runs/stiefel_transformer``.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import statistics
from pathlib import Path

import torch

from metrize.lab.compare import compare, parse_method
from metrize.lab.config import RunConfig
from metrize.lab.runs import Comparison, Run, read_runs

HERE = Path(__file__).parent
RUNS = HERE.parent / "runs" / "stiefel_transformer"
PLATEAU = 1.8**0.5
SEEDS = 3

METHODS = {
    "Adam betas=(0.9,0.99)": (3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3),
    "Adam betas=(0.9,0.99) on Stiefel()": (3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3),
    "SGD on Stiefel()": (1e-4, 3e-4, 1e-3, 1e-2),
    "SGD momentum=0.5 on Stiefel()": (1e-4, 3e-4, 1e-3, 1e-2),
}
RATES = sorted({lr for rates in METHODS.values() for lr in rates})


def go_on(folder: Path, methods: list[RunConfig], seeds: int) -> list[Run]:
    compare(Comparison(methods, seeds), folder, resume=(folder / "comparison.json").exists())
    return read_runs(folder)


def sweep(base: RunConfig) -> dict[str, list[Run]]:
    """Every method at every learning rate of its grid, one seed."""
    found = {}
    for at, (sentence, rates) in enumerate(METHODS.items()):
        method = parse_method(sentence, base)
        found[sentence] = go_on(RUNS / f"sweep-{at}", [dataclasses.replace(method, lr=lr) for lr in rates], 1)
    return found


def best(runs: list[Run]) -> RunConfig:
    """The learning rate with the lowest training loss at the end; a run that diverged has none."""
    alive = [run for run in runs if not run.summary.diverged]
    return min(alive, key=lambda run: run.summary.final_train_loss).config


def mean_sd(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def final_table(base: RunConfig, swept: dict[str, list[Run]]) -> list[str]:
    methods = [dataclasses.replace(best(runs), steps=base.steps, eval_every=base.eval_every) for runs in swept.values()]
    runs = go_on(RUNS / "final", methods, SEEDS)
    lines = [
        "| method | lr | training loss | held-out loss | accuracy | ms a step | optimizer | error on the manifold |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for sentence, method in zip(METHODS, methods, strict=True):
        own = [r.summary for r in runs if dataclasses.replace(r.config, seed=method.seed) == method]
        assert len(own) == SEEDS
        errors = [s.space_error for s in own if s.space_error is not None]
        lines.append(
            f"| {sentence} | {method.lr:g} | {mean_sd([s.final_train_loss for s in own])} | "
            f"{mean_sd([s.final_eval_loss for s in own])} | {mean_sd([s.figures['accuracy'] for s in own])} | "
            f"{statistics.median(s.ms_per_step for s in own):.0f} | "
            f"{statistics.median(s.optimizer_ms_per_step for s in own):.1f} | "
            f"{f'{max(errors):.1e}' if errors else '-'} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--sweep-steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    base = RunConfig(task="digits", model={"layers": 16}, batch_size=128, threads=given.threads, checkpoint_every=0)
    swept = sweep(dataclasses.replace(base, steps=given.sweep_steps, eval_every=0))
    lines = [
        "# Adam on Stiefel trains the paper's transformer without skip connections",
        "",
        f"digits, 16 blocks, batch 128, {given.steps} steps, {SEEDS} seeds (mean ± standard deviation); torch "
        f"{torch.__version__}, {given.threads} thread, {platform.machine()}. A constant prediction scores "
        f"{PLATEAU:.3f}, a uniform one {0.9**0.5:.3f}. Written by `experiments/stiefel_transformer.py`.",
        "",
        *final_table(dataclasses.replace(base, steps=given.steps, eval_every=100), swept),
        "",
        f"Training loss after {given.sweep_steps} steps for every learning rate tried (seed 0):",
        "",
        "| method | " + " | ".join(f"{lr:g}" for lr in RATES) + " |",
        "|---" * (len(RATES) + 1) + "|",
    ]
    for sentence, runs in swept.items():
        losses = {run.config.lr: f"{run.summary.final_train_loss:.3f}" for run in runs}
        lines.append(f"| {sentence} | " + " | ".join(losses.get(lr, "") for lr in RATES) + " |")
    (HERE / "stiefel_transformer.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
