"""Scale on paper: what a step of six methods takes for models of 7B and 70B on 64 and 1024 GPUs.

Run: ``python experiments/scale.py`` (a minute). Nothing here ran on a GPU. Bytes are told by
`metrize.predict_sharded`, which the tests check against what processes hold and send. Times are flops and bytes over
the rates of a data sheet, times how far our steps are from such a model where they were measured: on a CPU, read from
``benchmarks/*.json``. Writes ``scale.md`` and ``scale.json`` beside this file.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import metrize
from metrize.assembly import _stagger
from metrize.lab.models.gpt import GPT
from metrize.memory import KNOWN
from metrize.memory.predicted import built, names_of
from metrize.spaces import Stiefel

HERE = Path(__file__).parent
BENCHMARKS = HERE.parent / "benchmarks"
MODELS = {"7B": "LLaMA-7B", "70B": "LLaMA-70B"}
GPUS = (64, 1024)
LINES = (8, 16, 64, 256, 1024)
VOCABULARY = 32000
NEWTON_SCHULZ = 5  # steps
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Device:
    """What is assumed of a GPU of the H100 class and its network.

    Args:
        products_16: flop/s of dense bfloat16 products, data sheet.
        products_32: flop/s of float32 without tensor cores, data sheet; torch's default for float32 products.
        memory: byte/s of its memory, data sheet.
        near: byte/s to GPUs of the same machine (NVLink 4, one direction), data sheet.
        far: byte/s to other machines (one 400 Gb/s port a GPU), data sheet.
        machine: GPUs of one machine, data sheet.
        holds: bytes of its memory, data sheet.
        message: seconds for each message of a collective; our assumption.
        used: part of `products_16` that training reaches; our assumption.
        batch: tokens of a step of training; our assumption.
    """

    products_16: float = 989e12
    products_32: float = 67e12
    memory: float = 3.35e12
    near: float = 450e9
    far: float = 50e9
    machine: int = 8
    holds: float = 80e9
    message: float = 2e-6
    used: float = 0.4
    batch: float = 4e6


TF32 = 495e12  # flop/s, data sheet
DEVICE = Device()


@dataclasses.dataclass(frozen=True)
class Work:
    """Of one tensor in one step.

    Args:
        flops: by count.
        seconds: on the assumed device.
        refresh: seconds of making its bases anew, in a step where that is due.
    """

    flops: float
    seconds: float
    refresh: float = 0.0


# How far measured steps are from a model of them -------------------------------------------------------------------


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((BENCHMARKS / f"{name}.json").read_text())
    return found


@functools.cache
def measured() -> dict[str, float]:
    """Time of our steps over that of their bytes or flops, at the rate of the same CPU."""
    middle = statistics.median
    fused = _read("elementwise_step")
    copies = middle(fused["copy of the bytes of Prodigy"]) * 28 / 52  # AdamW reads 16 bytes a number and writes 12
    adamw = _read("stiefel_step")["adamw"]
    checked = middle(adamw["metrize AdamW"]) / middle(adamw["torch AdamW(fused=True)"])
    squares = _read("memory_step")["8 matrices 1024 x 1024"][0]
    muon = _read("muon_step")
    low = _read("lowrank_step")
    coap = {key: middle(value) for key, value in low["step (2048, 2048, 512)"].items()}
    nudge = middle(low["refresh (2048, 2048, 512)"]["gradient step on the correlation (COAP)"])
    points = _read("stiefel_step")["matrices"]
    plain = middle(fused["torch AdamW(fused=True)"]) / copies
    return {
        "AdamW over a copy of its bytes": plain * checked,
        "SMMF over a copy of AdamW's bytes": plain
        * middle(squares["SMMF, metrize"])
        / middle(squares["AdamW, torch fused"]),
        "Muon over its flops": middle(muon["ms"]["metrize Muon"]) * muon["flops per ms"] / muon["flops"],
        **_soap(points),
        "COAP over two products": coap["COAP"] / coap["two bare products with the basis"],
        "COAP's refresh over two products": nudge / coap["two bare products with the basis"],
        "Stiefel Adam over one product, tall": points["(1024, 512)"]["time over one product"],
        "Stiefel Adam over one product, square": points["(1024, 1024)"]["time over one product"],
    }


def _soap(points: dict[str, Any]) -> dict[str, float]:
    """Steps with and without a refresh apart, over their flops at the rate of a product on the same two cores."""
    times = sorted(_read("soap_step")["ms"]["metrize, faithful"])
    rate = 2 * 1024**3 / points["(1024, 1024)"]["product ms"]
    generator = torch.Generator().manual_seed(0)
    model = GPT(width=384, layers=6, heads=6, context=256, generator=generator)
    shapes = [tuple(p.shape) for p in model.parameters()]
    step = statistics.median(times[: len(times) * 9 // 10])
    refresh = statistics.median(times[len(times) * 9 // 10 :]) - step
    return {
        "SOAP over its flops": step * rate / sum(soap_flops(shape)[0] for shape in shapes),
        "SOAP's refresh over its flops": refresh * rate / sum(soap_flops(shape)[1] for shape in shapes),
    }


# What a step of one tensor takes -----------------------------------------------------------------------------------


def elementwise(shape: Shape, device: Device, over: str = "AdamW over a copy of its bytes", flops: int = 13) -> Work:
    """AdamW: 28 bytes a number; flops a number are counted by hand."""
    numbers = math.prod(shape)
    return Work(flops * numbers, measured()[over] * 28 * numbers / device.memory)


def smmf(shape: Shape, device: Device) -> Work:
    return elementwise(shape, device, "SMMF over a copy of AdamW's bytes", 25)


def muon(shape: Shape, device: Device) -> Work:
    """``4 q r^2 + 2 r^3`` a step of Newton-Schulz for r rows and q >= r columns, and the momentum's bytes."""
    r, q = sorted(shape)
    flops = NEWTON_SCHULZ * (4.0 * q * r * r + 2.0 * r**3)
    seconds = measured()["Muon over its flops"] * flops / device.products_16
    return Work(flops, seconds + elementwise(shape, device).seconds)


def soap_flops(shape: Shape, longest: int = 10000, one_sided: bool = False) -> tuple[float, float]:
    """Of a step and of a refresh.

    Each side with a basis is entered, left and learned from in a product of 2 m n d flops; a refresh has a product and
    a QR decomposition with its Q formed, ``2 d^3 + 8/3 d^3``, and turns an average into the new basis, ``4 m n d``.
    """
    if len(shape) < 2:
        return 0.0, 0.0
    sides = [min(shape)] if one_sided else list(shape)
    based, numbers = [float(d) for d in sides if 1 < d <= longest], math.prod(shape)
    return 6 * numbers * sum(based), sum(14 / 3 * d**3 + 4 * numbers * d for d in based)


def soap(shape: Shape, device: Device, longest: int = 10000, one_sided: bool = False, slower: float = 1) -> Work:
    step, refresh = soap_flops(shape, longest, one_sided)
    seconds = measured()["SOAP over its flops"] * step / device.products_32 + elementwise(shape, device).seconds
    again = slower * measured()["SOAP's refresh over its flops"] * refresh / device.products_32
    return Work(step + refresh / 10, seconds, again)


def coap(shape: Shape, device: Device) -> Work:
    """Two products with a basis of half the shorter side; a nudge of the basis every 32 steps."""
    if len(shape) < 2:
        return elementwise(shape, device)
    products = 4.0 * math.prod(shape) * (min(shape) // 2)
    seconds, over = products / device.products_32, measured()
    refresh = over["COAP's refresh over two products"]
    return Work(products * (1 + refresh / 32), over["COAP over two products"] * seconds, refresh * seconds)


def stiefel(shape: Shape, device: Device) -> Work:
    """In units of 2 N n^2, the flops of one product ``Y S``; 8.0 are counted, 3.4 where the matrix is square."""
    n, rows = sorted(shape)
    unit, form = 2.0 * rows * n * n, "square" if rows == n else "tall"
    seconds = measured()[f"Stiefel Adam over one product, {form}"] * unit / device.products_32
    return Work((3.4 if rows == n else 8.0) * unit, seconds)


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


# A step on many GPUs -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Step:
    """Bytes of a GPU, and milliseconds of a step, which add up to its slowest GPU.

    Args:
        held, most: GiB of a GPU without activations, in the mean and at the most.
        state: GiB of optimizer state of a GPU, in the mean.
        sent, most_sent: MiB a step.
        collectives: a step.
        flops: of all GPUs of a line.
        work: everything in equal shares.
        uneven: what the fullest owner has more.
        refresh: what new bases add to the slowest GPU, in the mean over steps.
        bandwidth: gradients to the fullest owner and its parameters back.
        messages: one for each peer of an all-to-all.
        training: forward and backward pass.
        largest: that a single tensor takes at its owner.
        together: new bases of all tensors in the same step, in the mean over steps.
        owned: tensors that are stepped as a whole.
    """

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
    load, due, works = torch.zeros(line).double(), _due(shapes, method, line), []
    bases = torch.zeros(len(due) or 1, line).double()
    for name, shape in shapes.items():
        owner = told.owners.get(name)
        work = elementwise(shape, device) if owner is None else method.work(shape, device)
        works.append(work)
        if owner is None:
            load += work.seconds / line
        else:
            load[owner] += work.seconds
            for at, names in enumerate(due):
                bases[at, owner] += work.refresh if name in names else 0.0
    refreshed = (load + bases).amax(1).mean()
    at_once = ((load + bases.sum(0)).max() + load.max() * (len(bases) - 1)) / len(bases)
    inside = min(line, device.machine)
    network = max((line - inside) / device.far, (inside - 1) / device.near) / line  # seconds for each byte of an owner
    peers = told.collectives * ((line - 1) if told.owners else 2 * math.log2(line))
    numbers = sum(map(math.prod, shapes.values()))
    return Step(
        told.mean.total / 2**30,
        told.most.total / 2**30,
        told.mean.state / 2**30,
        told.mean.sent / 2**20,
        told.most.sent / 2**20,
        told.collectives,
        sum(work.flops for work in works),
        1e3 * float(load.mean()),
        1e3 * float(load.max() - load.mean()),
        1e3 * float(refreshed - load.max()),
        1e3 * 2 * told.most.copies * network,
        1e3 * peers * device.message,
        1e3 * 6 * numbers * device.batch / (gpus * device.used * device.products_16),
        1e3 * max((work.seconds for name, work in zip(shapes, works, strict=True) if name in told.owners), default=0),
        1e3 * float(at_once - load.max()),
        len(told.owners),
    )


def _due(shapes: dict[str, Shape], method: Method, line: int) -> list[set[str]]:
    """Whose bases are made anew in each step of a period, as the optimizer spreads them."""
    optimizer = built(shapes, method.build, torch.float32)
    found: dict[str, int] = {}
    period = max(recipe.frame.period for recipe in optimizer.recipes())
    for group in optimizer.param_groups:
        for index, p in enumerate(group["params"]):
            if "phase" in optimizer.spec(group, index):
                optimizer.state[p] = {"phase": torch.zeros((), dtype=torch.int64)}
    _stagger(optimizer, set())
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


# Tables ------------------------------------------------------------------------------------------------------------


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
        *("", "## Bytes of a GPU", "", *_bytes(steps)),
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
    head = ["model", "GPUs", "method", "held, GiB", "at most", "state, GiB", "sent, MiB", "at most", "collectives"]
    rows = [
        [m, str(g), n, *map(_number, (s.held, s.most, s.state, s.sent, s.most_sent)), str(s.collectives)]
        for (m, g, n), s in steps.items()
    ]
    return _table(head, rows)


def _times(steps: dict[tuple[str, int, str], Step]) -> list[str]:
    head = ["model", "GPUs", "method", "Tflop", "work", "uneven", "new bases", "bandwidth", "messages", "together"]
    rows = [
        [m, str(g), n]
        + [_number(v) for v in (s.flops / 1e12, s.work, s.uneven, s.refresh, s.bandwidth, s.messages, s.total)]
        + [_share(s.total / s.training), bottleneck(s, g)]
        for (m, g, n), s in steps.items()
    ]
    return _table([*head, "of training", "first bottleneck"], rows)


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


if __name__ == "__main__":
    text, numbers = report()
    (HERE / "scale.md").write_text(text)
    (HERE / "scale.json").write_text(json.dumps(numbers, indent=1) + "\n")
    print(text)
