"""Does the best learning rate stay where it is when the network gets wider?

Run: ``python experiments/width_transfer.py`` (about three minutes on one core). A perceptron with five layers learns
the labels of a random teacher for 100 steps, at widths 32 to 256, over a grid of learning rates two apart. Writes
``width_transfer.md``, ``.json`` and ``.png`` beside this file.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from torch import Tensor, nn

import metrize

HERE = Path(__file__).parent
WIDTHS, SEEDS, STEPS, BATCH, INPUTS, CLASSES = (32, 64, 128, 256), (0, 1, 2), 100, 128, 32, 10
RATES = [2.0**-k for k in range(1, 13)]
TIE = 1.03  # losses that differ by less are not told apart with three seeds

Build = Callable[[nn.Module, float], torch.optim.Optimizer]


def all_norms(model: nn.Module, lr: float) -> metrize.Optimizer:
    """Every weight in the norm of its role, as `metrize.plan` assigns it."""
    groups = metrize.plan(model, torch.zeros(2, INPUTS)).groups()
    return metrize.Optimizer(groups, lr=lr)


METHODS: dict[str, Build] = {
    "Adam": lambda model, lr: metrize.Adam(model, lr=lr),
    "norms by role": all_norms,
    "Muon (original scale), first and last layer Adam": lambda model, lr: metrize.Muon(model, lr=lr, rest={"lr": 3e-3}),
    "Muon (Adam's scale), first and last layer Adam": lambda model, lr: metrize.Muon(
        model, lr=lr, scale="adam", rest={"lr": 3e-3}
    ),
}


def network(width: int, zero_head: bool) -> nn.Sequential:
    sizes = [INPUTS, width, width, width, width]
    hidden = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b, bias=False), nn.ReLU())]
    model = nn.Sequential(*hidden, nn.Linear(width, CLASSES, bias=False))
    for layer in model[::2]:
        nn.init.normal_(layer.weight, std=math.sqrt(2 / layer.in_features))
    if zero_head:
        nn.init.zeros_(model[-1].weight)
    return model


def teacher(seed: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Batches of inputs and the labels that a fixed random network gives them."""
    torch.manual_seed(1000 + seed)
    model = nn.Sequential(nn.Linear(INPUTS, 64), nn.Tanh(), nn.Linear(64, CLASSES))
    model[-1].weight.data.mul_(4)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(BATCH, INPUTS, generator=torch.Generator().manual_seed(step))
        with torch.no_grad():
            return x, model(x).argmax(-1)

    return batch


def final_loss(build: Build, name: str, width: int, lr: float, seed: int) -> float:
    """Mean training loss of the last 30 steps; infinity where it diverged."""
    batch = teacher(seed)
    torch.manual_seed(seed)
    model = network(width, zero_head=name == "norms by role")
    optimizer = build(model, lr)
    losses = []
    for step in range(STEPS):
        x, y = batch(step)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        if not math.isfinite(loss.item()):
            return math.inf
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return statistics.mean(losses[-30:])


def sweep() -> dict[str, dict[int, list[float]]]:
    return {
        name: {
            width: [statistics.mean(final_loss(build, name, width, lr, seed) for seed in SEEDS) for lr in RATES]
            for width in WIDTHS
        }
        for name, build in METHODS.items()
    }


def best(losses: list[float]) -> int:
    return losses.index(min(losses))


def within(losses: list[float]) -> list[int]:
    """Places of the learning rates that are as good as the best."""
    return [i for i, loss in enumerate(losses) if loss <= TIE * min(losses)]


def draw(results: dict[str, dict[int, list[float]]]) -> None:
    matplotlib.use("agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for axes, (name, widths) in zip(figure.subplots(1, len(results), sharey=True), results.items(), strict=True):
        for width, losses in widths.items():
            axes.plot(RATES, losses, marker=".", label=str(width))
            axes.plot(RATES[best(losses)], min(losses), "ko", ms=5)
        axes.set(xscale="log", title=name.replace(",", "\n"), xlabel="learning rate", ylim=(0.0, 2.4))
        axes.title.set_fontsize(9)
    figure.axes[0].set_ylabel("loss, mean of the last 30 of 100 steps")
    figure.axes[0].legend(title="width", frameon=False)
    figure.savefig(HERE / "width_transfer.png", dpi=130)


def written(results: dict[str, dict[int, list[float]]]) -> str:
    lines = [
        "# Does the best learning rate stay where it is when the network gets wider?",
        "",
        f"A perceptron {INPUTS}-w-w-w-w-{CLASSES} without biases learns a random teacher for {STEPS} steps of {BATCH}; "
        f"mean of {len(SEEDS)} seeds, learning rates 2^-1 to 2^-{len(RATES)}. "
        "Written by `experiments/width_transfer.py`.",
        "",
        f"| method | {' | '.join(f'width {width}: best rate, loss' for width in WIDTHS)} | as good at every width |",
        "|---|" + "---|" * (len(WIDTHS) + 1),
    ]
    for name, widths in results.items():
        cells = [f"2^-{best(losses) + 1}, {min(losses):.3f}" for losses in widths.values()]
        shared = set.intersection(*(set(within(losses)) for losses in widths.values()))
        told = ", ".join(f"2^-{i + 1}" for i in sorted(shared)) or "none"
        lines.append(f"| {name} | {' | '.join(cells)} | {told} |")
    lines += ["", f"The last column: rates within {TIE - 1:.0%} of the best loss at each of the widths.", ""]
    return "\n".join([*lines, "![loss over learning rate](width_transfer.png)", ""])


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = sweep()
    (HERE / "width_transfer.json").write_text(json.dumps(found) + "\n")
    draw(found)
    text = written(found)
    (HERE / "width_transfer.md").write_text(text)
    print(text)
