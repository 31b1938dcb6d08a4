"""Does a symplectic autoencoder reduce a wave equation better than the classical bases, and keep its energy?

Gaussian pulses on a ring, 64 cells, so 128 numbers, are reduced to 8. The symplectic autoencoder decodes by ``S(U z)``
with U on the symplectic Stiefel manifold and a symplectic S. Proper symplectic decomposition (PSD) and proper
orthogonal decomposition (POD) are the optima of the two linear cases, by one SVD each. The same network with U on the
Stiefel manifold, or free, is the same autoencoder without the symplectic structure. Learned and classical models are
judged on pulses that were held out: how well they are reconstructed, and what becomes of them when the reduced model
alone follows them, for twice the time of the training part.

Run: ``python experiments/wave.py [--steps 1000] [--threads 1]``; it goes on where it was stopped. Writes ``wave.md``
and ``wave.png`` beside this file and all runs under ``runs/wave``.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import statistics
from pathlib import Path

import torch
from matplotlib.figure import Figure
from stiefel_transformer import go_on, mean_sd

from metrize.lab.compare import parse_method
from metrize.lab.config import RunConfig
from metrize.lab.data import Waves, simulate
from metrize.lab.reduction import cotangent_lift, principal
from metrize.lab.report.plots import COLOURS
from metrize.lab.runs import Run
from metrize.lab.tasks import wave

HERE = Path(__file__).parent
RUNS = HERE.parent / "runs" / "wave"
SEEDS, REDUCED, LAYERS, LR = 3, 4, 4, 3e-3
MODELS = {
    "linear, U on SymplecticStiefel()": (0, "SymplecticStiefel()", "transpose"),
    "linear, U on its full form": (0, "SymplecticStiefel(form='full')", "symplectic"),
    "linear, U on Stiefel()": (0, "Stiefel()", "transpose"),
    f"{LAYERS} layers, U on SymplecticStiefel()": (LAYERS, "SymplecticStiefel()", "transpose"),
    f"{LAYERS} layers, U on its full form": (LAYERS, "SymplecticStiefel(form='full')", "symplectic"),
    f"{LAYERS} layers, U on Stiefel()": (LAYERS, "Stiefel()", "transpose"),
    f"{LAYERS} layers, U free": (LAYERS, "none", "transpose"),
}


def trained(base: RunConfig) -> dict[str, list[Run]]:
    """The runs of each model, a seed each."""
    methods = []
    for layers, space, inverse in MODELS.values():
        model = {"reduced": REDUCED, "layers": layers, "inverse": inverse}
        methods.append(dataclasses.replace(parse_method(f"Adam on {space}", base), model=model))
    runs = go_on(RUNS, methods, SEEDS)
    return {
        name: [run for run in runs if dataclasses.replace(run.config, seed=method.seed) == method]
        for name, method in zip(MODELS, methods, strict=True)
    }


def classical_rows(waves: Waves) -> list[str]:
    psd = wave.reconstruction(cotangent_lift(waves.inputs, REDUCED), waves)
    lines = []
    for name, basis in {"PSD, by SVD": cotangent_lift, "POD, by SVD": principal}.items():
        span = basis(waves.inputs, REDUCED)
        error, paths = wave.reconstruction(span, waves), wave.reduced_paths(span, waves)
        worst = wave.energy_errors(paths, waves).max()
        lines.append(
            f"| {name} | {error:.4f} | {error / psd:.3f} | {wave.path_error(paths, waves):.3f} | {worst:.1e} |"
        )
    return lines


def trained_row(name: str, runs: list[Run]) -> str:
    figures = [run.summary.figures for run in runs]
    assert len(figures) == SEEDS
    ratio = statistics.mean(figure["over_psd"] for figure in figures)
    paths = [figure["path"] for figure in figures if figure["path"] is not None]
    energies = [figure["energy"] for figure in figures if figure["energy"] is not None]
    gone = SEEDS - len(energies)
    worst = f"{max(energies):.1e}" if energies else ""
    told = " and ".join(filter(None, [worst, f"{gone} of {SEEDS} diverged" if gone else ""]))
    path = mean_sd(paths) if len(paths) == SEEDS and max(paths) < 10 else "diverged"
    errors = [figure["reconstruction"] for figure in figures]
    error = f"{statistics.mean(errors):.4f} ± {statistics.stdev(errors):.4f}"
    return f"| {name} | {error} | {ratio:.3f} | {path} | {told} |"


def draw(runs: dict[str, list[Run]]) -> None:
    """The energy error of every reduced model over time: a line a seed, and the references in black."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for colour, (name, own) in zip(COLOURS, runs.items(), strict=False):
        for at, run in enumerate(own):
            (profile,) = run.profiles
            axes.plot(profile.x, _positive(profile.y), color=colour, lw=1.2, label=None if at else name)
    for dash, (name, curve) in zip(("--", ":", "-."), profile.references.items(), strict=True):
        axes.plot(profile.x, _positive(curve), "k" + dash, lw=1.2, label=name)
    axes.axvline(profile.x[-1] / 2, color="grey", lw=0.8)
    axes.annotate(" end of the training part", (profile.x[-1] / 2, 2e-18), fontsize=8, color="grey")
    axes.set(yscale="log", xlabel="time", ylabel="energy error", ylim=(1e-18, 1e4), xlim=(0, profile.x[-1]))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.savefig(HERE / "wave.png", dpi=110, facecolor="white")


def _positive(values: list[float | None]) -> list[float]:
    return [value or float("nan") for value in values]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    base = RunConfig("wave", lr=LR, steps=given.steps, eval_every=0, checkpoint_every=0, threads=given.threads)
    runs = trained(base)
    lines = [
        "# A wave equation in 8 canonical coordinates",
        "",
        f"64 cells, n = {REDUCED}, Adam lr {LR:g}, batch 128, {given.steps} steps, {SEEDS} seeds (mean ± standard "
        f"deviation; of the energy error the largest); torch {torch.__version__}, {given.threads} thread, "
        f"{platform.machine()}. All figures are of held-out pulses. Written by `experiments/wave.py`.",
        "",
        "| model | reconstruction error | error / PSD's | reduced model's error | largest energy error |",
        "|---|---|---|---|---|",
        *classical_rows(simulate()),
        *(trained_row(name, own) for name, own in runs.items()),
        "",
        "![Energy error of the reduced models over time](wave.png)",
    ]
    draw(runs)
    (HERE / "wave.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
