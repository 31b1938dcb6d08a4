"""Scale on paper: what a step of six methods takes for models of 7B and 70B on 64 and 1024 GPUs.

Run: ``python experiments/scale.py`` (a minute). Nothing here ran on a GPU. Bytes are told by
`metrize.predict_sharded`, which the tests check against what processes hold and send. Times are flops and bytes over
the rates of a data sheet, times how far our steps are from such a model where they were measured: on a CPU, read from
``benchmarks/*.json``. Writes ``scale.md`` and ``scale.json`` beside this file, and the tables of ``docs/scale.md``.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from scale_work import DEVICE, TF32, Device, Shape, Work, coap, elementwise, measured, muon, smmf, soap, stiefel

import metrize
from metrize.memory import KNOWN
from metrize.memory.predicted import built, names_of
from metrize.spaces import Stiefel
from metrize.step.assembly import stagger

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "scale.md"
MODELS = {"7B": "LLaMA-7B", "70B": "LLaMA-70B"}
GPUS = (64, 1024)
LINES = (8, 16, 64, 256, 1024)
VOCABULARY = 32000


@dataclasses.dataclass(frozen=True)
class Method:
    """An optimizer, and what it makes of a tensor that it steps as a whole."""

    build: Callable[[Any], metrize.Optimizer]
    work: Callable[[Shape, Device], Work]


def _hidden_by(recipe: metrize.Recipe) -> Callable[[Any], metrize.Optimizer]:
    """This recipe for the matrices between embedding and output, AdamW for the rest."""

    def build(params: Any) -> metrize.Optimizer:
        hidden = [(name, p) for name, p in params if p.ndim == 2 and VOCABULARY not in p.shape]
        rest = [(name, p) for name, p in params if p.ndim != 2 or VOCABULARY in p.shape]
        groups = [{"params": hidden, "recipe": recipe}, {"params": rest, "recipe": metrize.AdamW.recipe()}]
        return metrize.Optimizer(groups)

    return build


METHODS = {
    "AdamW": Method(metrize.AdamW, elementwise),
    "Muon": Method(_hidden_by(metrize.Muon.recipe()), muon),
    "SOAP": Method(metrize.SOAP, soap),
    "SMMF": Method(metrize.SMMF, smmf),
    "COAP": Method(metrize.COAP, coap),
    "Stiefel Adam": Method(_hidden_by(metrize.Adam.recipe(space=Stiefel())), stiefel),
}


@dataclasses.dataclass(frozen=True)
class Step:
    """Bytes of a GPU, and milliseconds of a step, which add up to its slowest GPU.

    Args:
        kept, most_kept: GiB of a GPU between steps, without activations, in the mean and at the most.
        held, most: GiB of a GPU in a step.
        state: GiB of optimizer state of a GPU, in the mean.
        sent, most_sent: MiB a step.
        collectives: a step.
        flops: of all GPUs of a line.
        work: everything in equal shares.
        uneven: what the fullest owner has more.
        refresh: what new bases add to the slowest GPU, in the mean over steps.
        bandwidth: gradients and parameters to the fullest owner, and new parameters back.
        messages: one for each peer of an all-to-all.
        training: forward and backward pass.
        largest: that a single tensor takes at its owner.
        together: new bases of all tensors in the same step, in the mean over steps.
        owned: tensors that are stepped as a whole.
    """

    kept: float
    most_kept: float
    held: float
    most: float
    state: float
    sent: float
    most_sent: float
    collectives: int
    flops: float
    work: float
    uneven: float
    refresh: float
    bandwidth: float
    messages: float
    training: float
    largest: float
    together: float
    owned: int

    @property
    def total(self) -> float:
        return self.work + self.uneven + self.refresh + self.bandwidth + self.messages


def step(model: str, method: Method, gpus: int, line: int | None = None, device: Device = DEVICE) -> Step:
    """A step of `gpus` processes, each line of which holds the model; the others are replicas."""
    line = gpus if line is None else line
    shapes = {str(at): shape for at, shape in enumerate(KNOWN[MODELS[model]]())}
    told = metrize.predict_sharded(shapes, method.build, line)
    works = {n: (method.work if n in told.owners else elementwise)(shape, device) for n, shape in shapes.items()}
    numbers = sum(map(math.prod, shapes.values()))
    return Step(
        **_bytes_of(told),
        **_arithmetic(told, works, _due(shapes, method)),
        **_traffic(told, _fullest(told, shapes), device),
        flops=sum(work.flops for work in works.values()),
        training=1e3 * 6 * numbers * device.batch / (gpus * device.used * device.products_16),
        largest=1e3 * max((works[name].seconds for name in told.owners), default=0.0),
        owned=len(told.owners),
    )


def _bytes_of(told: metrize.ShardedPrediction) -> dict[str, Any]:
    mean, most, gib, mib = told.mean, told.most, 2**30, 2**20
    held = {"held": mean.total / gib, "most": most.total / gib, "state": mean.state / gib}
    held |= {"kept": (mean.total - mean.temporary) / gib, "most_kept": (most.total - most.temporary) / gib}
    return held | {"sent": mean.sent / mib, "most_sent": most.sent / mib, "collectives": told.collectives}


def _arithmetic(told: metrize.ShardedPrediction, works: dict[str, Work], due: list[set[str]]) -> dict[str, float]:
    """The mean process, the fullest one, and what refreshes add to the slowest one, in the mean over a period."""
    line = len(told.ranks)
    load, bases = torch.zeros(line).double(), torch.zeros(max(1, len(due)), line).double()
    for name, work in works.items():
        owner = told.owners.get(name)
        if owner is None:
            load += work.seconds / line
            continue
        load[owner] += work.seconds
        for at, names in enumerate(due):
            bases[at, owner] += work.refresh if name in names else 0.0
    mean, most, periods = load.mean(), load.max(), len(bases)
    found = {
        "work": mean,
        "uneven": most - mean,
        "refresh": (load + bases).amax(1).mean() - most,
        "together": ((load + bases.sum(0)).max() - most) / periods,
    }
    return {key: 1e3 * float(value) for key, value in found.items()}


def _fullest(told: metrize.ShardedPrediction, shapes: dict[str, Shape]) -> int:
    """Bytes of all tensors of the owner with most of them."""
    owned = [0] * len(told.ranks)
    for name, owner in told.owners.items():
        owned[owner] += 4 * math.prod(shapes[name])
    return max(owned)


def _traffic(told: metrize.ShardedPrediction, fullest: int, device: Device) -> dict[str, float]:
    """What the fullest owner takes in and gives out, and messages: to every peer, or up and down a tree.

    Gradients and parameters come in and parameters go out; points on a manifold stay where they are.
    """
    trips = 2 if told.most.copies else 3
    line = len(told.ranks)
    inside = min(line, device.machine)
    seconds = max((line - inside) / device.far, (inside - 1) / device.near) / line  # for each byte of an owner
    messages = told.collectives * (line - 1 if told.owners else 2 * math.log2(line))
    return {"bandwidth": 1e3 * trips * fullest * seconds, "messages": 1e3 * messages * device.message}


def _due(shapes: dict[str, Shape], method: Method) -> list[set[str]]:
    """Whose bases are made anew in each step of a period, as the optimizer spreads them."""
    optimizer = built(shapes, method.build, torch.float32)
    found: dict[str, int] = {}
    period = max(recipe.frame.period for recipe in optimizer.recipes())
    for group in optimizer.param_groups:
        for index, p in enumerate(group["params"]):
            if "phase" in optimizer.spec(group, index):
                optimizer.state[p] = {"phase": torch.zeros((), dtype=torch.int64)}
    stagger(optimizer.param_groups, optimizer.state, set())
    for group in optimizer.param_groups:
        for name, p in zip(names_of(group), group["params"], strict=True):
            if optimizer.state.get(p):
                found[name] = int(optimizer.state[p]["phase"])
    return [{name for name, phase in found.items() if phase == at} for at in range(period)] if found else []


def bottleneck(told: Step, gpus: int) -> str:
    """The largest part of the step's time, in words."""
    parts = {key: getattr(told, key) for key in ("work", "uneven", "refresh", "bandwidth", "messages")}
    first = max(parts, key=parts.__getitem__)
    alone = told.largest > 0.6 * (told.work + told.uneven)
    few = "more GPUs than matrices" if told.owned < gpus else "one tensor is most of its owner's work"
    return {
        "work": "arithmetic" if told.owned else "memory bandwidth",
        "uneven": few if alone else "owners with unequal work",
        "refresh": "some owner makes a basis anew in every step",
        "bandwidth": "network of the fullest owner" if told.owned else "network",
        "messages": "messages to every peer" if told.owned else "latency",
    }[first]


def changes() -> Iterator[tuple[str, str, Method, Method, Device]]:
    """What one would do, or what an assumption decides: method, before and after, and the device after it."""
    one_sided = Method(functools.partial(metrize.SOAP, one_sided=True), functools.partial(soap, one_sided=True))
    wide = Method(functools.partial(metrize.SOAP, max_precond_dim=28672), functools.partial(soap, longest=28672))
    now = METHODS["SOAP"]
    yield "SOAP", "only the shorter side has a basis (`one_sided`)", now, one_sided, DEVICE
    yield "SOAP", "a basis for sides of 28672 too (`max_precond_dim`)", now, wide, DEVICE
    slow = Method(metrize.SOAP, functools.partial(soap, slower=10))
    yield "SOAP", "if decompositions take ten times as long as assumed", now, slow, DEVICE
    fast = dataclasses.replace(DEVICE, products_32=TF32)
    for name in ("COAP", "Stiefel Adam"):
        yield name, "if all products are in TF32", METHODS[name], METHODS[name], fast


def report() -> tuple[str, dict[str, Any]]:
    """The tables, and their numbers."""
    steps = {(m, g, n): step(m, method, g) for m in MODELS for g in GPUS for n, method in METHODS.items()}
    lines = {(m, n, r): step(m, method, 1024, r) for m in MODELS for n, method in METHODS.items() for r in LINES}
    texts = [
        "# Scale on paper",
        "",
        "Written by `experiments/scale.py`, which says what is assumed. Nothing of this ran on a GPU.",
        *("", "## Measured on a CPU", "", *_measured()),
        *("", "## Assumed of a GPU", "", *_assumed()),
        *("", "## Bytes of a GPU, and flops", "", *_bytes(steps)),
        *("", "## Milliseconds of a step", "", *_times(steps)),
        *("", "## Lines with replicas, 1024 GPUs", "", *_lines(lines)),
        *("", "## Changes, 70B on 1024 GPUs", "", *_changes()),
    ]
    plain = [{"model": m, "gpus": g, "method": n, **dataclasses.asdict(s)} for (m, g, n), s in steps.items()]
    return "\n".join(texts) + "\n", {"measured": measured(), "assumed": dataclasses.asdict(DEVICE), "steps": plain}


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.01 else "0" if not value else "< 0.01"


def _share(value: float) -> str:
    return f"{value:.1%}" if value >= 1e-3 else "< 0.1%"


def _measured() -> list[str]:
    return _table(
        ["time of a step over its model", "ratio"], [[key, f"{value:.2f}"] for key, value in measured().items()]
    )


def _assumed() -> list[str]:
    doc = " ".join((Device.__doc__ or "").partition("Args:")[2].split())
    names = [field.name for field in dataclasses.fields(Device)]
    told = {name: doc.partition(f"{name}: ")[2] for name in names}
    for name, after in itertools.pairwise(names):
        told[name] = told[name].partition(f" {after}:")[0]
    return _table(["", "value", "what"], [[f"`{n}`", f"{getattr(DEVICE, n):g}", told[n].rstrip(".")] for n in names])


def _bytes(steps: dict[tuple[str, int, str], Step]) -> list[str]:
    head = ["model", "GPUs", "method", "state", "between steps", "at most", "in a step", "at most", "sent", "at most"]
    rows = []
    for (m, g, n), s in steps.items():
        sizes = map(_number, (s.state, s.kept, s.most_kept, s.held, s.most, s.sent, s.most_sent))
        rows.append([m, str(g), n, *sizes, str(s.collectives), _number(s.flops / 1e12)])
    return _table([*head, "calls", "Tflop"], rows)


def _times(steps: dict[tuple[str, int, str], Step]) -> list[str]:
    head = ["model", "GPUs", "method", "work", "uneven", "new bases", "bandwidth", "messages", "together"]
    rows = [
        [m, str(g), n]
        + [_number(v) for v in (s.work, s.uneven, s.refresh, s.bandwidth, s.messages, s.total)]
        + [_share(s.total / s.training), _number(s.largest), bottleneck(s, g)]
        for (m, g, n), s in steps.items()
    ]
    return _table([*head, "of training", "largest tensor", "first bottleneck"], rows)


def _lines(lines: dict[tuple[str, str, int], Step]) -> list[str]:
    rows = [[m, n, *(_cell(lines[m, n, r]) for r in LINES)] for m in MODELS for n in METHODS]
    return _table(["model", "method", *(f"{1024 // r} × {r}" for r in LINES)], rows)


def _cell(told: Step) -> str:
    fits = told.most * 2**30 < DEVICE.holds
    return f"{_number(told.total)} ms, {_number(told.most)} GiB" if fits else f"too large ({_number(told.most)} GiB)"


def _changes() -> list[str]:
    """In lines of 64 with replicas, and in one line."""
    head, rows = ["method", "change"], []
    for name in ("SOAP", "COAP"):
        told = [step("70B", METHODS[name], 1024, line) for line in (64, 1024)]
        after = [dataclasses.replace(each, refresh=each.together) for each in told]
        rows.append([name, "all bases anew in the same step", *_pairs(told, after)])
    for name, what, before, after_it, device in changes():
        told = [step("70B", before, 1024, line) for line in (64, 1024)]
        rows.append([name, what, *_pairs(told, [step("70B", after_it, 1024, line, device) for line in (64, 1024)])])
    return _table([*head, *(f"{lines}, {when}" for lines in ("16 × 64", "1 × 1024") for when in ("now", "then"))], rows)


def _pairs(before: list[Step], after: list[Step]) -> list[str]:
    return [_cell(each) for pair in zip(before, after, strict=True) for each in pair]


def tables(text: str) -> dict[str, str]:
    """Every table of a page by its first line."""
    found = re.findall(r"^(?:\|.*\n)+", text, re.MULTILINE)
    return {table.partition("\n")[0]: table for table in found}


def renewed(page: str, text: str) -> str:
    """A page with the tables of a text in place of its own with the same head."""
    for head, table in tables(text).items():
        page = page.replace(tables(page)[head], table)
    return page


if __name__ == "__main__":
    text, numbers = report()
    PAGE.write_text(renewed(PAGE.read_text(), text))
    (HERE / "scale.md").write_text(text)
    (HERE / "scale.json").write_text(json.dumps(numbers, indent=1) + "\n")
    print(text)
