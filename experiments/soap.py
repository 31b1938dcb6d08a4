"""How many steps does SOAP save, and what do its choices cost? A byte-level transformer of 0.13M parameters.

Claims (arXiv:2409.11321): SOAP needs 40 % fewer steps than AdamW; it degrades slowly as its bases are refreshed less
often; Adafactor inside costs next to nothing, one side alone a little. Here on the sources of Python's standard
library, with learning rates from a grid for either method, a cosine schedule for each run, and one seed; the steps
saved with three seeds, at the rates of the first. Beside them two exact claims: SOAP commutes with orthogonal changes
of coordinates and Adam does not; and Adam walks to the wrong end of an interval where AMSGrad and AdamNC do not
(arXiv:1904.09237).

Run: ``python experiments/soap.py [--threads 1]``; about a quarter of an hour, and it goes on where it was stopped.
Writes ``soap.json``, ``soap.md`` and ``soap.png`` beside this file.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from torch import nn

import metrize
from metrize.lab.data import load_text
from metrize.lab.models.gpt import GPT

mpl.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
KEPT = HERE / "soap.json"
CONTEXT, BATCH, STEPS = 64, 32, 500
RATES = {"AdamW": (1e-3, 3e-3, 1e-2, 3e-2), "SOAP": (3e-3, 1e-2, 3e-2)}
SHORTER = (200, 250, 300, 350)
NEVER = 10**6
SEEDS = (0, 1, 2)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run, whose figures are kept under its text."""

    method: str
    lr: float
    steps: int = STEPS
    batch: int = BATCH
    options: tuple[tuple[str, Any], ...] = ()
    seed: int = 0

    def optimizer(self, model: nn.Module) -> metrize.Optimizer:
        options = {"betas": (0.9, 0.95)} if self.method == "AdamW" else {}
        if dict(self.options).get("moments"):
            options |= {"moments": metrize.parse(dict(self.options)["moments"])}
        told = {key: value for key, value in self.options if key != "moments"}
        return metrize.catalogue()[self.method](model, lr=self.lr, weight_decay=0.0, **{**options, **told})


def schedule(steps: int) -> Callable[[int], float]:
    """A tenth of the steps upward, then a cosine down to a tenth."""
    warmup = max(1, steps // 10)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.55 + 0.45 * math.cos(math.pi * (step - warmup) / max(1, steps - warmup))

    return factor


def run(trial: Trial) -> dict[str, float]:
    """Held-out loss at the end, and where the time of the processor went."""
    text = load_text(None, CONTEXT)
    model = GPT(width=64, layers=2, heads=4, context=CONTEXT, generator=torch.Generator().manual_seed(trial.seed))
    optimizer = trial.optimizer(model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(trial.steps))
    whole, inside = time.process_time(), 0.0
    for step in range(trial.steps):
        optimizer.zero_grad()
        inputs, targets = text.batch(trial.seed, step, trial.batch)
        model.loss(model(inputs), targets).backward()
        start = time.process_time()
        optimizer.step()
        inside += time.process_time() - start
        scheduler.step()
    whole = time.process_time() - whole
    inputs, targets = text.held_out
    with torch.no_grad():
        loss = float(model.loss(model(inputs), targets))
    return {"loss": loss, "seconds": whole, "optimizer seconds": inside, "state": metrize.state_bytes(optimizer)}


class Results:
    """Figures of all trials, kept after each."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, float]] = json.loads(KEPT.read_text()) if KEPT.exists() else {}

    def of(self, trial: Trial) -> dict[str, float]:
        key = repr(trial)
        if key not in self.kept:
            self.kept[key] = run(trial)
            KEPT.write_text(json.dumps(self.kept, indent=1) + "\n")
            print(f"{self.kept[key]['loss']:.3f} in {self.kept[key]['seconds']:.0f} s: {trial}", flush=True)
        return self.kept[key]

    def loss(self, trial: Trial) -> float:
        return self.of(trial)["loss"]

    def best(self, method: str, **changes: Any) -> Trial:
        """The trial of a method with the learning rate of the grid that ends lowest."""
        return min((Trial(method, lr, **changes) for lr in RATES[method]), key=self.loss)


def steps_to(target: float, curve: dict[int, float]) -> float:
    """Steps after which the loss would be the target, by ``a + b / N`` between the runs beside it."""
    for fewer, more in itertools.pairwise(sorted(curve)):
        if curve[fewer] >= target >= curve[more]:
            share = (curve[fewer] - target) / (curve[fewer] - curve[more])
            return 1 / (1 / fewer + share * (1 / more - 1 / fewer))
    return math.nan


def equivariance() -> dict[str, float]:
    """How far the trajectories of a problem and of the rotated one come apart, after 100 steps in float64."""

    def draw(seed: int) -> torch.Tensor:
        return torch.randn(4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    a, b = torch.linalg.qr(draw(1))[0], torch.linalg.qr(draw(2))[0]
    hessian = torch.randn(16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    hessian = hessian @ hessian.mT / 16

    def trained(method: str, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        p = nn.Parameter(left @ draw(0) @ right.mT)
        optimizer = metrize.catalogue()[method]([p], lr=0.02)
        for _ in range(100):
            original = (left.mT @ p.detach() @ right).flatten()
            p.grad = left @ (hessian @ original).view(4, 4) @ right.mT
            optimizer.step()
        return left.mT @ p.detach() @ right

    eye = torch.eye(4, dtype=torch.float64)
    return {m: float((trained(m, eye, eye) - trained(m, a, b)).abs().max()) for m in ("AdamW", "SOAP")}


def counterexample(steps: int = 10_000) -> dict[str, float]:
    """Where three methods end on ``3 x`` in every third step, else ``-x``, with x in [-1, 1]: the best is -1."""
    ends = {}
    numbers = {"betas": (0.0, 0.1), "lr": 0.5}
    builds: dict[str, Callable[[nn.Parameter], metrize.Optimizer]] = {
        "Adam": lambda p: metrize.Adam([p], **numbers),
        "AMSGrad": lambda p: metrize.AMSGrad([p], **numbers),
        "AdamNC": lambda p: metrize.AdamNC([p], lr=0.5, momentum=0.0),
    }
    for name, build in builds.items():
        p = nn.Parameter(torch.zeros((), dtype=torch.float64))
        optimizer = build(p)
        for step in range(1, steps + 1):
            if name != "AdamNC":  # whose own rate falls so
                optimizer.param_groups[0]["lr"] = 0.5 / step**0.5
            p.grad = torch.tensor(3.0 if step % 3 == 1 else -1.0, dtype=torch.float64)
            optimizer.step()
            p.data.clamp_(-1, 1)
        ends[name] = float(p.detach())
    return ends


def comparison(results: Results) -> tuple[list[str], dict[str, Any]]:
    """E2: the grids, the shorter runs, and the steps that SOAP saves."""
    rates = sorted({lr for grid in RATES.values() for lr in grid})
    lines = ["| method | " + " | ".join(f"{lr:g}" for lr in rates) + " |", "|---|" + "---|" * len(rates)]
    for method, grid in RATES.items():
        losses = [f"{results.loss(Trial(method, lr)):.3f}" if lr in grid else "" for lr in rates]
        lines.append(f"| {method} | {' | '.join(losses)} |")
    adam, soap = results.best("AdamW"), results.best("SOAP")
    curve = {steps: results.loss(dataclasses.replace(soap, steps=steps)) for steps in (*SHORTER, STEPS)}
    target = results.loss(adam)
    needed = steps_to(target, curve)
    seconds = {"AdamW": results.of(adam)["seconds"], "SOAP": results.of(soap)["seconds"] * needed / STEPS}
    lines += [
        "",
        "| steps of SOAP's own schedule | " + " | ".join(map(str, curve)) + " |",
        "|---|" + "---|" * len(curve),
    ]
    lines.append("| loss | " + " | ".join(f"{loss:.3f}" for loss in curve.values()) + " |")
    lines += [
        "",
        f"SOAP reaches AdamW's {target:.3f} after about {needed:.0f} steps of {STEPS}: {1 - needed / STEPS:.0%} fewer, "
        f"in {seconds['SOAP']:.0f} s of processor time against {seconds['AdamW']:.0f} s.",
    ]
    return lines + seeds(results, adam, soap), {"curve": curve, "target": target, "needed": needed}


def seeds(results: Results, adam: Trial, soap: Trial) -> list[str]:
    """The steps that SOAP saves, for each seed of weights and batches."""
    lines = ["", "| seed | AdamW's loss | steps of SOAP | fewer |", "|---|---|---|---|"]
    for seed in SEEDS:
        target = results.loss(dataclasses.replace(adam, seed=seed))
        curve = {n: results.loss(dataclasses.replace(soap, seed=seed, steps=n)) for n in (*SHORTER[:3], STEPS)}
        least = min(curve)
        if curve[least] <= target:
            lines.append(f"| {seed} | {target:.3f} | below {least} | more than {1 - least / STEPS:.0%} |")
        else:
            needed = steps_to(target, curve)
            lines.append(f"| {seed} | {target:.3f} | {needed:.0f} | {1 - needed / STEPS:.0%} |")
    return lines


def variants(results: Results) -> tuple[list[str], dict[str, float]]:
    """E3 and E4: refresh period, sides, storage, refresh."""
    soap = results.best("SOAP")

    def of(**options: Any) -> Trial:
        return dataclasses.replace(soap, options=tuple(options.items()))

    rows = {
        "every 10 steps, spread over them": soap,
        "every step": of(precondition_frequency=1),
        "every 50 steps": of(precondition_frequency=50),
        "every 200 steps": of(precondition_frequency=200),
        "never after the first step": of(precondition_frequency=NEVER),
        "as in the authors' code": of(faithful=True),
        "refreshed where off the diagonal by 0.1": of(tolerance=0.1),
        "thin": of(refresh="thin"),
        "factored": of(moments="Factored()"),
        "one-sided": of(one_sided=True),
        "one-sided and factored": of(one_sided=True, moments="Factored()"),
    }
    lines = ["| SOAP | loss | optimizer, s | state over AdamW's |", "|---|---|---|---|"]
    base = results.of(results.best("AdamW"))["state"]
    for name, trial in rows.items():
        found = results.of(trial)
        lines.append(
            f"| {name} | {found['loss']:.3f} | {found['optimizer seconds']:.1f} | {found['state'] / base:.2f} |"
        )
    return lines, {name: results.loss(trial) for name, trial in rows.items()}


def batches(results: Results) -> list[str]:
    """E5: the gain at other batch sizes."""
    lines = ["| batch | steps | AdamW | SOAP |", "|---|---|---|---|"]
    for batch, steps in ((8, 500), (BATCH, STEPS), (128, 250)):
        losses = [results.loss(results.best(method, batch=batch, steps=steps)) for method in RATES]
        lines.append(f"| {batch} | {steps} | {losses[0]:.3f} | {losses[1]:.3f} |")
    return lines


def draw(found: dict[str, Any], periods: dict[str, float]) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.plot(list(found["curve"]), list(found["curve"].values()), "o-", label="SOAP, a schedule for each run")
    left.axhline(found["target"], color="0.5", linestyle="--", label=f"AdamW after {STEPS} steps")
    left.axvline(found["needed"], color="0.8", linewidth=1)
    left.set(xlabel="steps", ylabel="held-out loss, nats a byte")
    left.legend(frameon=False)
    right.barh(list(periods)[::-1], list(periods.values())[::-1], color="tab:blue")
    right.axvline(found["target"], color="0.5", linestyle="--")
    right.set(xlabel="held-out loss, nats a byte", xlim=(0.95 * min(periods.values()), None))
    figure.savefig(HERE / "soap.png", dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    results = Results()
    first, found = comparison(results)
    second, losses = variants(results)
    third = batches(results)
    apart, ends = equivariance(), counterexample()
    lines = [
        "# SOAP in miniature",
        "",
        f"Byte-level transformer, width 64, 2 layers, context {CONTEXT}, batch {BATCH}, {STEPS} steps with a tenth of "
        f"warm-up and a cosine to a tenth, no weight decay, one seed; held-out loss in nats a byte; torch "
        f"{torch.__version__}, {torch.get_num_threads()} thread, {platform.machine()}. Written by "
        "`experiments/soap.py`.",
        "",
        "## Fewer steps than AdamW",
        "",
        *first,
        "",
        "## What its choices cost",
        "",
        *second,
        "",
        "## Other batches, each with the best learning rate of the grid",
        "",
        *third,
        "",
        "## Exact claims",
        "",
        f"On a quadratic with a dense Hessian, turned by orthogonal matrices: after 100 steps SOAP's trajectory is "
        f"{apart['SOAP']:.0e} away from the turned one, AdamW's {apart['AdamW']:.1f}.",
        "",
        "On the interval of arXiv:1904.09237, where -1 is best: "
        + ", ".join(f"{name} ends at {end:+.3f}" for name, end in ends.items())
        + ".",
        "",
        "![losses](soap.png)",
    ]
    (HERE / "soap.md").write_text("\n".join(lines) + "\n")
    draw(found, losses)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
