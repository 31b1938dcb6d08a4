"""Sentences of several papers against their parents: what does each part bring, and what does it cost?

Two tasks. "digits" is a perceptron of three layers of 128 on scikit-learn's digits, the matrices of these layers on the
Stiefel manifold for the methods that say so. "subspace" is the principal subspace of the same digits, whose optimum is
known. Every method has the learning rate of its grid that ends best on seed 0, falling to 0, and the table has that
rate on three seeds; `FreeMuon` and `Prodigy` have no grid.

Run: ``python experiments/compositions.py`` (three minutes on one core). Writes ``compositions.md``, ``.json`` and
``.png`` beside this file.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from torch import Tensor, nn

import metrize
from metrize import Grassmann, Stiefel, constrain
from metrize.lab.data import load_digits
from metrize.lab.tasks.subspace import excess

mpl.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
STEPS = {"digits": 300, "subspace": 150}
COMPOSED = ("StiefelSMMF", "GrassmannSOAP", "SOAP8bit", "COAPMuon", "FreeMuon")


@dataclasses.dataclass(frozen=True)
class Method:
    """An optimizer of a whole model, the space of its matrices, and the learning rates to try."""

    build: Callable[[Any, float], metrize.Optimizer]
    rates: tuple[float, ...]
    space: metrize.Space | None = None


ADAM, MUON = (3e-3, 1e-2, 3e-2, 1e-1), (3e-2, 1e-1, 3e-1)
RANK = {"rank": 32, "period": 10}
METHODS: dict[str, dict[str, Method]] = {
    "digits": {
        "AdamW": Method(lambda m, lr: metrize.AdamW(m, lr=lr), ADAM),
        "SMMF": Method(lambda m, lr: metrize.SMMF(m, lr=lr), ADAM),
        "Adam on Stiefel": Method(lambda m, lr: metrize.Adam(m, lr=lr), ADAM, Stiefel()),
        "StiefelSMMF": Method(lambda m, lr: metrize.SMMF(m, lr=lr), ADAM, Stiefel()),
        "Adam8bit": Method(lambda m, lr: metrize.Adam8bit(m, lr=lr), ADAM),
        "SOAP": Method(lambda m, lr: metrize.SOAP(m, lr=lr, weight_decay=0.0), ADAM),
        "SOAP8bit": Method(lambda m, lr: metrize.SOAP8bit(m, lr=lr, weight_decay=0.0), ADAM),
        "SOAP, Quantized()": Method(
            lambda m, lr: metrize.SOAP(m, lr=lr, weight_decay=0.0, moments=metrize.Quantized()), ADAM
        ),
        "COAP": Method(lambda m, lr: metrize.COAP(m, lr=lr, **RANK), ADAM),
        "Muon": Method(lambda m, lr: metrize.Muon(m, lr=lr, rest={"lr": 1e-2}), MUON),
        "COAPMuon": Method(lambda m, lr: metrize.COAPMuon(m, lr=lr, rest={"lr": 1e-2}, **RANK), MUON),
        "Prodigy": Method(lambda m, lr: metrize.Prodigy(m, lr=lr), (1.0,)),
        "FreeMuon": Method(lambda m, lr: metrize.FreeMuon(m, lr=lr), (1.0,)),
    },
    "subspace": {
        "Adam": Method(lambda m, lr: metrize.Adam(m, lr=lr), ADAM),
        "SMMF": Method(lambda m, lr: metrize.SMMF(m, lr=lr), ADAM),
        "Adam on Stiefel": Method(lambda m, lr: metrize.Adam(m, lr=lr), ADAM, Stiefel()),
        "StiefelSMMF": Method(lambda m, lr: metrize.StiefelSMMF(m, lr=lr), ADAM, Stiefel()),
        "SOAP": Method(lambda m, lr: metrize.SOAP(m, lr=lr, weight_decay=0.0), ADAM),
        "Adam on Grassmann": Method(lambda m, lr: metrize.Adam(m, lr=lr), ADAM, Grassmann()),
        "GrassmannSOAP": Method(lambda m, lr: metrize.GrassmannSOAP(m, lr=lr), ADAM, Grassmann()),
    },
}


class Digits(nn.Sequential):
    """64 - 128 - 128 - 128 - 10; a space is that of all matrices but the last."""

    def __init__(self, space: metrize.Space | None) -> None:
        widths = [64, 128, 128, 128]
        hidden = [nn.Linear(*pair) for pair in itertools.pairwise(widths)]
        super().__init__(*(part for layer in hidden for part in (layer, nn.ReLU())), nn.Linear(widths[-1], 10))
        for layer in hidden if space is not None else ():
            constrain(layer, "weight", space)


class Subspace(nn.Module):
    """Eight of 64 dimensions."""

    def __init__(self, space: metrize.Space | None) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.randn(64, 8) / 8)
        if space is not None:
            constrain(self, "basis", space)


def digits(method: Method, lr: float, seed: int) -> dict[str, Any]:
    """Held-out loss after batches of 64."""
    data = load_digits(side=8)
    torch.manual_seed(seed)
    model = Digits(method.space)

    def loss_of(step: int) -> Tensor:
        x, y = data.batch(seed, step, 64)
        return nn.functional.cross_entropy(model(x.flatten(1)), y)

    found = _train(model, method.build(model, lr), loss_of, STEPS["digits"])
    x, y = data.held_out
    with torch.no_grad():
        return {**found, "loss": nn.functional.cross_entropy(model(x.flatten(1)), y).item()}


def subspace(method: Method, lr: float, seed: int) -> dict[str, Any]:
    """Excess over the singular value decomposition after steps with all samples."""
    samples = load_digits(side=8).inputs.flatten(1)
    samples = samples - samples.mean(0)
    torch.manual_seed(seed)
    model = Subspace(method.space)

    def loss_of(step: int) -> Tensor:
        return (samples - samples @ model.basis @ model.basis.mT).square().sum(1).mean()

    found = _train(model, method.build(model, lr), loss_of, STEPS["subspace"])
    return {**found, "loss": excess(model.basis.detach(), samples)}


def _train(
    model: nn.Module, optimizer: metrize.Optimizer, loss_of: Callable[[int], Tensor], steps: int
) -> dict[str, Any]:
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / steps)
    times = []
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(step).backward()
        start = time.process_time()
        optimizer.step()
        times.append(time.process_time() - start)
        schedule.step()
    errors = [error.item() for error in metrize.error_on_space(model).values()]
    return {
        "bytes": metrize.state_bytes(optimizer),
        "ms": 1e3 * statistics.mean(times[1:]),  # refreshes are spread over the steps, so that a median misses them
        "error": max(errors, default=None),
    }


TASKS: dict[str, Callable[[Method, float, int], dict[str, Any]]] = {"digits": digits, "subspace": subspace}


def measure() -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for task, run in TASKS.items():
        for name, method in METHODS[task].items():
            first = {lr: run(method, lr, SEEDS[0]) for lr in method.rates}
            lr = min(first, key=lambda rate: (math.isnan(first[rate]["loss"]), first[rate]["loss"]))
            runs = [first[lr], *(run(method, lr, seed) for seed in SEEDS[1:])]
            errors = [each["error"] for each in runs if each["error"] is not None]
            found.setdefault(task, {})[name] = {
                "lr": lr,
                "losses": [each["loss"] for each in runs],
                "bytes": runs[0]["bytes"],
                "ms": statistics.median(each["ms"] for each in runs),
                "error": max(errors, default=None),
            }
            print(task, name, found[task][name], flush=True)
    return found


def table(task: str, methods: dict[str, dict[str, Any]]) -> list[str]:
    said = {"digits": "held-out loss", "subspace": "excess over the SVD"}[task]
    lines = [f"| method | lr | {said} | state bytes | ms a step | error on the space |", "|---|---|---|---|---|---|"]
    for name, row in methods.items():
        shown = f"**{name}**" if name in COMPOSED else name
        mean, spread = statistics.mean(row["losses"]), statistics.stdev(row["losses"])
        loss = f"{mean:.4f} ± {spread:.4f}" if task == "digits" else f"{mean:.1e} ± {spread:.0e}"
        error = "-" if row["error"] is None else f"{row['error']:.1e}"
        lines.append(f"| {shown} | {row['lr']:g} | {loss} | {row['bytes']:,} | {row['ms']:.2f} | {error} |")
    return lines


def draw(found: dict[str, dict[str, dict[str, Any]]]) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, (task, methods) in zip(axes, found.items(), strict=True):
        for at, (name, row) in enumerate(methods.items()):
            composed = name in COMPOSED  # its name on the left, that of its parents on the right
            beside = (-5, 3) if composed else (5, 4) if at % 2 else (5, -9)
            loss = statistics.mean(row["losses"])
            axis.plot(row["bytes"], loss, "o" if composed else "s", color="tab:red" if composed else "tab:gray")
            side = "right" if composed else "left"
            axis.annotate(name, (row["bytes"], loss), xytext=beside, textcoords="offset points", fontsize=7, ha=side)
        axis.set(xscale="log", yscale="log", xlabel="state bytes", title=task)
        axis.margins(x=0.3, y=0.1)
    axes[0].set_ylabel("held-out loss")
    axes[1].set_ylabel("excess over the SVD")
    figure.savefig(HERE / "compositions.png", dpi=130)


def main() -> None:
    torch.set_num_threads(1)
    found = measure()
    (HERE / "compositions.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found)
    lines = [
        "# Sentences of several papers against their parents",
        "",
        "Mean and spread of three seeds at the best learning rate of a grid, which falls to 0; "
        f"{STEPS['digits']} steps of 64 samples on the digits, {STEPS['subspace']} steps with all samples for the "
        "subspace. The two with COAP keep rank 32. Milliseconds are those of the optimizer's step, on one core; torch "
        f"{torch.__version__}, {platform.machine()}. In bold: the sentences that are new here. Written by "
        "`experiments/compositions.py`.",
    ]
    for task, methods in found.items():
        lines += ["", f"## {task}", "", *table(task, methods)]
    lines += ["", "![loss and bytes](compositions.png)"]
    (HERE / "compositions.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
