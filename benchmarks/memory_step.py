"""Cost of memory-efficient steps: time, bytes of state and temporaries, against the peers in one run.

Run: ``python benchmarks/memory_step.py`` (needs the extra ``bench``). One thread; times are medians over interleaved
repetitions, comparisons medians of paired ratios with their quartiles. Writes ``memory_step.json`` and
``memory_step.md`` beside this file.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from timing import Step, Times, interleave, machine, quartiles, ratio, spread
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import metrize

HERE = Path(__file__).parent
WORKLOADS = {"8 matrices 1024 x 1024": (8, (1024, 1024)), "12 convolutions 256 x 256 x 3 x 3": (12, (256, 256, 3, 3))}
BASE = "AdamW, torch fused"
Build = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

torch.set_num_threads(1)
torch.empty(7 * 2**20)  # as in training, where freed activations teach glibc to keep memory of this size


class PlainSMMF:
    """The published arithmetic of SMMF on whole tensors, with a byte for each sign; written from its formulas."""

    def __init__(self, params: list[nn.Parameter], lr: float = 1e-3) -> None:
        self.params, self.lr, self.t = params, lr, 0
        shapes = [metrize.RankOne().layout(p.shape) for p in params]
        self.state = [
            {"m": self.zeros(n, m), "v": self.zeros(n, m), "sign": torch.zeros(n, m).bool()} for n, m in shapes
        ]

    @staticmethod
    def zeros(n: int, m: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(n), torch.zeros(m)

    @staticmethod
    def factored(matrix: Tensor) -> tuple[Tensor, Tensor]:
        row, col = matrix.sum(1), matrix.sum(0)
        total = col.sum()
        return row, torch.where(total != 0, col / total, col)

    @torch.no_grad()
    def step(self) -> None:
        self.t += 1
        beta1, beta2 = 0.9 * 0.999 ** (self.t - 1), 1 - self.t**-0.5
        for p, state in zip(self.params, self.state, strict=True):
            grad = p.grad.reshape(state["sign"].shape)
            m, v = torch.outer(*state["m"]), torch.outer(*state["v"])
            m = torch.where(state["sign"], m, -m)
            m.mul_(beta1).add_(grad, alpha=1 - beta1)
            v.mul_(beta2).add_(grad * grad, alpha=1 - beta2)
            state["sign"] = m > 0
            state["m"], state["v"] = self.factored(m.abs()), self.factored(v)
            p.add_((m / (v.sqrt() + 1e-8)).view(p.shape), alpha=-self.lr)

    def bytes(self) -> int:
        tensors = [t for state in self.state for t in (*state["m"], *state["v"], state["sign"])]
        return sum(t.nbytes for t in tensors)


def builders() -> dict[str, dict[str, Build]]:
    """Ours, by name, and the peers of each; the first one of a family is ours."""
    import bitsandbytes
    import pytorch_optimizer as peers
    from came_pytorch import CAME
    from transformers.optimization import Adafactor

    hf = functools.partial(Adafactor, lr=1e-3, relative_step=False)
    return {
        "AdamW": {BASE: lambda p: torch.optim.AdamW(p, fused=True), "AdamW, torch": lambda p: torch.optim.AdamW(p)},
        "SMMF": {"SMMF, metrize": metrize.SMMF, "SMMF, published arithmetic": PlainSMMF},
        "Adafactor": {
            "Adafactor, metrize": lambda p: metrize.Adafactor(p, lr=1e-3, dims="largest"),
            "Adafactor, metrize, last two dimensions": lambda p: metrize.Adafactor(p, lr=1e-3),
            "Adafactor, torch": torch.optim.Adafactor,
            "Adafactor, transformers": hf,
        },
        "Adafactor with average": {
            "Adafactor with average, metrize": lambda p: metrize.Adafactor(p, lr=1e-3, dims="largest", momentum=0.9),
            "Adafactor with average, transformers": lambda p: hf(p, beta1=0.9),
        },
        "CAME": {
            "CAME, metrize": metrize.CAME,
            "CAME, metrize, last two dimensions": lambda p: metrize.CAME(p, dims="last"),
            "CAME, came-pytorch": lambda p: CAME(p, lr=2e-4),
            "CAME, pytorch_optimizer": lambda p: peers.CAME(p, lr=2e-4, foreach=True),
        },
        "SM3": {
            "SM3, metrize": metrize.SM3,
            "SM3, pytorch_optimizer": lambda p: peers.SM3(p, lr=0.1, momentum=0.9),
        },
        "few bits": {
            "Adam in 8 bits, metrize": metrize.Adam8bit,
            "Adam in 4 bits, metrize": metrize.Adam4bit,
            "AdamW in 8 bits, bitsandbytes": bitsandbytes.optim.AdamW8bit,
        },
        "others": {
            "Adam-mini, metrize": metrize.AdamMini,
            "H-Fac, metrize": metrize.HFac,
            "Adam in bfloat16, metrize": lambda p: metrize.Adam(p, moments=metrize.Dense("bfloat16")),
        },
    }


def parameters(count: int, shape: tuple[int, ...]) -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    params = [nn.Parameter(0.02 * torch.randn(shape, generator=draw)) for _ in range(count)]
    for p in params:
        p.grad = 1e-3 * torch.randn(shape, generator=draw)
    return params


def peak(step: Step) -> int:
    """Largest number of bytes of temporaries alive at once in a call."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found,
    ):
        step()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)
    return most


def state_bytes(optimizer: torch.optim.Optimizer | PlainSMMF) -> int:
    """Bytes of tensors of more than one number."""
    if isinstance(optimizer, PlainSMMF):
        return optimizer.bytes()
    found = (value for state in optimizer.state.values() for value in state.values())
    return sum(t.nbytes for t in found if isinstance(t, Tensor) and t.numel() > 1)


def measured(count: int, shape: tuple[int, ...]) -> tuple[Times, dict[str, tuple[float, float]]]:
    """Times of every optimizer, and its bytes of state for each number and temporaries in copies of one tensor."""
    made = {name: build(parameters(count, shape)) for family in builders().values() for name, build in family.items()}
    times = interleave({name: optimizer.step for name, optimizer in made.items()}, repeats=15)
    numbers = math.prod(shape)
    sizes = {
        name: (state_bytes(optimizer) / count / numbers, peak(optimizer.step) / 4 / numbers)
        for name, optimizer in made.items()
    }
    return times, sizes


def rows(times: Times, sizes: dict[str, tuple[float, float]], numbers: int) -> list[str]:
    lines = ["| | ns for each number | over AdamW fused | over the best peer | bytes of state | temporaries |"]
    lines.append("|---|---|---|---|---|---|")
    for family in builders().values():
        peers = [name for name in family if "metrize" not in name]
        best = min(peers, key=lambda name: quartiles(times[name])[0]) if peers else ""
        for name in family:
            ns = tuple(1e6 * value / numbers for value in quartiles(times[name]))
            over = spread(ratio(times, best, name)) if best and "metrize" in name else ""
            state, temporaries = sizes[name]
            cells = [name, spread(ns), spread(ratio(times, BASE, name)), over, f"{state:.3f}", f"{temporaries:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def report() -> str:
    found = {title: (*measured(*load), load[0] * math.prod(load[1])) for title, load in WORKLOADS.items()}
    (HERE / "memory_step.json").write_text(json.dumps({title: values[:2] for title, values in found.items()}) + "\n")
    lines = [
        "# Cost of memory-efficient steps",
        "",
        f"{machine()}, float32; medians [quartiles] over interleaved repetitions. Bytes of state are for each number, "
        "temporaries in float32 copies of one tensor. Written by `benchmarks/memory_step.py`.",
    ]
    for title, values in found.items():
        lines += ["", f"## {title}", "", *rows(*values)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = report()
    (HERE / "memory_step.md").write_text(text)
    print(text)
