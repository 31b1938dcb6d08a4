"""What do the choices inside low-rank optimizers change? A small transformer on an order-2 Markov source.

24 symbols, transitions drawn from Dirichlet(0.15); 2 layers of width 64, context 32, batch 32, 500 steps with 50 steps
of warm-up and then linear to zero, gradients clipped to norm 1; every matrix is projected, embeddings too. The figure
is the validation loss in nats, mean and deviation over seeds.

Run: ``python experiments/lowrank_markov.py [--seeds 3] [--threads 1]``; it goes on where it was stopped. Writes
``lowrank_markov.json`` and ``lowrank_markov.md`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import metrize
from metrize import frames
from metrize.lab.models.gpt import GPT

HERE = Path(__file__).parent
SYMBOLS, CONTEXT, BATCH, STEPS, WARMUP = 24, 32, 32, 500, 50
RATES = (1e-2, 2e-2, 4e-2)

Build = Callable[[nn.Module], metrize.Optimizer]
COAP = {"ratio": 4.0, "period": 10, "reproject": 5}
GALORE = {"rank": 16, "period": 50, "scale": 1.0}


def online(rate: float) -> Build:
    recipe = metrize.GaLore.recipe().replace(frame=frames.OnlineSubspace(rank=16, rate=rate, scale=1.0))
    return lambda model: metrize.Optimizer(model, recipe, eps=1e-6)


METHODS: dict[str, Build] = {
    "AdamW": lambda model: metrize.AdamW(model, weight_decay=0.0),
    "GaLore": lambda model: metrize.GaLore(model, **GALORE),
    "GaLore, all refreshed at once": lambda model: metrize.GaLore(model, **GALORE, stagger=False),
    "GaLore, sketch": lambda model: metrize.GaLore(model, **GALORE, method="sketch"),
    "GaLore, squares carried": lambda model: metrize.GaLore(model, **GALORE, carry="squares"),
    "COAP": lambda model: metrize.COAP(model, **COAP),
    "COAP, published loss": lambda model: metrize.COAP(model, **COAP, normalize=False),
    "COAP, roots carried": lambda model: metrize.COAP(model, **COAP, carry="root"),
    "COAP, squares carried": lambda model: metrize.COAP(model, **COAP, carry="squares"),
    "APOLLO": lambda model: metrize.APOLLO(model, rank=16, period=50),
    "Flora": lambda model: metrize.Flora(model, rank=16, period=50, scale_parameter=False, max_aspect=1e9),
    "Online Subspace Descent, rate 0.03": online(0.03),
    "Online Subspace Descent, rate 0.1": online(0.1),
    "Online Subspace Descent, rate 0.3": online(0.3),
}


def source(length: int, seed: int) -> Tensor:
    """A sequence of the Markov source, whose table is the same for every seed."""
    draw = torch.Generator().manual_seed(1)
    table = torch._sample_dirichlet(torch.full((SYMBOLS, SYMBOLS, SYMBOLS), 0.15), generator=draw).cumsum(-1)
    uniform = torch.rand(length, generator=torch.Generator().manual_seed(seed)).tolist()
    rows = [[row.contiguous() for row in of] for of in table]
    sequence = [0, 1]
    for u in uniform:
        row = rows[sequence[-2]][sequence[-1]]
        sequence.append(min(int(torch.searchsorted(row, u)), SYMBOLS - 1))
    return torch.tensor(sequence)


def loss_of(model: nn.Module, windows: Tensor) -> Tensor:
    logits = model(windows[:, :-1])
    return nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def train(build: Build, lr: float, seed: int, training: Tensor, validation: Tensor) -> float:
    """The validation loss at the end."""
    model = GPT(SYMBOLS, 64, 2, 4, CONTEXT, tied=False, generator=torch.Generator().manual_seed(seed))
    optimizer = build(model)
    draw = torch.Generator().manual_seed(1000 + seed)
    for step in range(STEPS):
        share = min((step + 1) / WARMUP, (STEPS - step) / (STEPS - WARMUP))
        for group in optimizer.param_groups:
            group["lr"] = lr * share
        windows = training[torch.randint(len(training), (BATCH,), generator=draw)]
        optimizer.zero_grad()
        loss_of(model, windows).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        return loss_of(model, validation).item()


def measured(seeds: int) -> dict[str, dict[str, list[float]]]:
    """Losses by method and learning rate; those of an earlier run are kept."""
    file = HERE / "lowrank_markov.json"
    losses: dict[str, dict[str, list[float]]] = json.loads(file.read_text()) if file.exists() else {}
    training, validation = source(100_000, 2).unfold(0, CONTEXT + 1, 1), source(8_000, 3).unfold(0, CONTEXT + 1, 16)
    for seed in range(seeds):
        for name, build in METHODS.items():
            for lr in RATES:
                known = losses.setdefault(name, {}).setdefault(str(lr), [])
                if len(known) == seed:
                    known.append(train(build, lr, seed, training, validation))
                    file.write_text(json.dumps(losses) + "\n")
    return losses


def report(seeds: int) -> str:
    lines = [
        "# Choices inside low-rank optimizers",
        "",
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {seeds} seeds, {STEPS} steps. Written by "
        "`experiments/lowrank_markov.py`.",
        "",
        f"| optimizer | {' | '.join(f'lr {lr}' for lr in RATES)} |",
        "|---|" + "---|" * len(RATES),
    ]
    for name, by_rate in measured(seeds).items():
        cells = [f"{statistics.mean(v):.3f} ± {statistics.pstdev(v):.3f}" for v in by_rate.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    text = report(options.seeds)
    (HERE / "lowrank_markov.md").write_text(text)
    print(text)
