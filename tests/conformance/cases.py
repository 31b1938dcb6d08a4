"""What the conformance tests train: the catalogue on every space and dtype, and the ways to compare two runs."""

from __future__ import annotations

import copy
import dataclasses
import functools
import io
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import metrize
from metrize import Dense, Stiefel

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "Adam": [{}, {"weight_decay": 0.1, "moments": Dense("bfloat16")}, {"second_moment": "scalar"}],
    "AdamW": [{"weight_decay": 0.1}],
    "Adam8bit": [{"smallest": 0, "block": 16}, {"smallest": 9, "map": "float8", "weight_decay": 0.1}],
    "Adam4bit": [{"smallest": 0, "block": 8, "weight_decay": 0.1}],
    "AMSGrad": [{"weight_decay": 0.1}, {"form": "paper", "lr_power": 0.5}],
    "AdaGrad": [{}, {"lr_decay": 0.1, "initial_accumulator_value": 0.1, "weight_decay": 0.1}],
    "AdamNC": [{"growth_rate": 0.99, "weight_decay": 0.1}],
    "NAdam": [{"weight_decay": 0.1, "decay": "decoupled"}],
    "FAdam": [{"weight_decay": 0.1}, {"form": "published", "power": 1.0, "eps": 0.1, "weight_decay": 0.0}],
    "GaLore": [{"rank": 2, "period": 3}, {"rank": 2, "period": 2, "inner": "adafactor", "weight_decay": 0.1}],
    "COAP": [{"rank": 2, "period": 2, "reproject": 2}, {"rank": 2, "period": 2, "inner": "8bit"}],
    "APOLLO": [{"rank": 2, "period": 3}, {"mini": True, "period": 2, "weight_decay": 0.1}],
    "Flora": [{"rank": 2, "period": 3}],
    "SOAP": [
        {"weight_decay": 0.1, "precondition_frequency": 3},
        {"faithful": True, "one_sided": True, "weight_decay": 0},
    ],
    "Shampoo": [{"weight_decay": 0.1, "precondition_frequency": 2}],
    "DistributedShampoo": [
        {"epsilon": 1e-4, "betas": (0.9, 0.99), "merge_dims": False, "max_preconditioner_dim": 16, "grafting": "adam"},
    ],
    "Muon": [{"weight_decay": 0.1}, {"scale": "adam", "nesterov": False, "accuracy": "exact"}],
    "Scion": [
        {"momentum": 0.9},
        {"constrained": False, "head_radius": 10.0, "weight_decay": 0.1, "accuracy": "exact"},
    ],
    "Adalayer": [{"weight_decay": 0.1}, {"hidden": "frozen", "freeze_after": 3}, {"hidden": "sgd", "hidden_lr": 0.1}],
    "AdamMini": [{"weight_decay": 0.1}],
    "Prodigy": [{"lr": 1.0, "d0": 1e-3}, {"lr": 1.0, "d0": 1e-2, "weight_decay": 0.1, "decouple": False, "slice_p": 3}],
    "SOAP8bit": [{"smallest": 0, "block": 16, "precondition_frequency": 3, "weight_decay": 0.1}],
    "COAPMuon": [{"rank": 2, "period": 2, "reproject": 2, "weight_decay": 0.1}],
    "FreeMuon": [{"lr": 1.0, "d0": 1e-3}],
    "NormSGD": [{"momentum": 0.9, "length": "full"}],
    "SGD": [
        {},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        {"momentum": 0.9, "dampening": 0.5, "moments": Dense("bfloat16")},
    ],
}
"""Options worth a run of their own; an optimizer of the catalogue that is not listed runs with its defaults."""

WHOLE = {"Adalayer", "AdamMini", "COAPMuon", "FreeMuon", "Muon", "Scion"}
"""They part a model into groups of their own."""

PLAIN = {"Adam", "SGD"}
"""Methods whose every option, space and dtype is tested each time."""

SPACES = {
    "vector": None,
    "stiefel": Stiefel(),
    "transported": Stiefel(section="transported", retraction="geodesic", polish_every=5),
    "redrawn": Stiefel(section="redrawn"),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}


@dataclasses.dataclass(frozen=True)
class Case:
    """One optimizer with its options, the space of every weight matrix, and the dtype of the model."""

    method: str
    options: tuple[tuple[str, Any], ...]
    space: str
    dtype: str

    def __str__(self) -> str:
        told = "-".join(f"{key}={value}" for key, value in self.options)
        return "-".join(filter(None, (self.method, told, self.space, self.dtype)))

    def model(self, seed: int = 0) -> Net:
        return build(SPACES[self.space], DTYPES[self.dtype], seed)

    def optimizer(self, params: Any, **more: Any) -> metrize.Optimizer:
        options = {"lr": 0.02, **dict(self.options), **more}
        apart = self.method in WHOLE or not isinstance(params, nn.Module)
        if self.space != "vector" and options.get("weight_decay") and apart:
            options["weight_decay"] = 0.0  # which would be told to be idle on a group of nothing but manifolds
        if (space := options.pop("space", None)) is not None:
            params = [{"params": list(params), "space": space}]  # not every optimizer has an option for it
        elif issubclass(metrize.catalogue()[self.method], metrize.Muon) and not isinstance(params, nn.Module):
            rest = metrize.Prodigy if self.method == "FreeMuon" else metrize.AdamW
            params = parted(list(params), rest.recipe())
        return metrize.catalogue()[self.method](params, **options)

    @property
    def alone(self) -> bool:
        """Whether a parameter is trained in the same way whatever the others do."""
        optimizer = self.optimizer([nn.Parameter(torch.eye(7, 3))])
        drawn = any(key.endswith("seed") for key in optimizer.spec(optimizer.param_groups[0], 0))
        return optimizer.recipes()[0].step_size.scope is None and not drawn

    def start(self, seed: int = 0, **more: Any) -> tuple[Net, metrize.Optimizer]:
        model = self.model(seed)
        return model, self.optimizer(model, **more)


def cases(spaces: Iterable[str] = ("vector", "stiefel"), dtypes: Iterable[str] = tuple(DTYPES)) -> list[Case]:
    """The catalogue on these spaces and dtypes."""
    return [
        Case(method, tuple(options.items()), space, dtype)
        for method in metrize.catalogue()
        for options in VARIANTS.get(method, [{}])
        for space in spaces
        for dtype in dtypes
        if _lives(method, tuple(options.items()), space)
    ]


Test = Callable[..., None]


def each(listed: list[Case]) -> Callable[[Test], Test]:
    """Run a test on these cases: all of the plain ones; of every other method one, drawn by the test's name, so that
    each method meets every space in some test. The rest are slow tests.
    """

    def mark(test: Test) -> Test:
        draw, kept = random.Random(test.__name__), {case for case in listed if case.method in PLAIN}
        for _, found in itertools.groupby(listed, lambda case: case.method):
            kept.add(draw.choice(list(found)))
        marked = [case if case in kept else pytest.param(case, marks=pytest.mark.slow) for case in listed]
        return pytest.mark.parametrize("case", marked, ids=str)(test)

    return mark


@functools.cache
def _lives_on(sentence: str, space: str) -> bool:
    try:
        metrize.parse(sentence).check(SPACES[space], torch.Size((7, 3)))
    except metrize.SpaceError:
        return False
    return True


@functools.cache
def _lives(method: str, options: tuple[tuple[str, Any], ...], space: str) -> bool:
    """Whether this method has an answer for matrices on that space; that it refuses others is tested elsewhere."""
    made = metrize.catalogue()[method]([nn.Parameter(torch.eye(7, 3))], **dict(options))
    return SPACES[space] is None or _lives_on(made.param_groups[0]["recipe"], space)


def parted(params: list[Any], rest: metrize.Recipe) -> list[dict[str, Any]]:
    """Bare parameters for Muon, which takes nothing but matrices: all else has a recipe of its own."""
    matrices = [(p[1] if isinstance(p, tuple) else p).ndim == 2 for p in params]
    parts = [[p for p, is_matrix in zip(params, matrices, strict=True) if is_matrix == kind] for kind in (True, False)]
    recipes: list[dict[str, Any]] = [{}, {"recipe": rest}]
    return [{"params": part, **more} for part, more in zip(parts, recipes, strict=True) if part]


class Net(nn.Module):
    """Tall, wide and square weights; two of equal shape, which share a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.tall = nn.Linear(3, 7)
        self.one = nn.Linear(7, 7)
        self.two = nn.Linear(7, 7)
        self.wide = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(torch.tanh(self.two(torch.tanh(self.one(torch.tanh(self.tall(x)))))))


def build(space: metrize.Space | None, dtype: torch.dtype = torch.float32, seed: int = 0) -> Net:
    """A model with all its matrices on a space."""
    torch.manual_seed(seed)
    model = Net().to(dtype)
    if space is not None:
        for layer in model.children():
            metrize.constrain(layer, "weight", space)
    return model


def backward(model: nn.Module, step: int) -> None:
    """Fresh gradients of the data of a step."""
    generator = torch.Generator().manual_seed(1000 + step)
    dtype = next(model.parameters()).dtype
    x = torch.randn(4, 3, generator=generator).to(dtype)
    y = torch.randn(4, 2, generator=generator).to(dtype)
    model.zero_grad()
    nn.functional.mse_loss(model(x), y).backward()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, start: int, stop: int) -> None:
    """Steps ``start .. stop - 1``."""
    for step in range(start, stop):
        backward(model, step)
        optimizer.step()


def through_disk(content: Any) -> Any:
    """What ``torch.save`` and the safe ``torch.load`` leave of it."""
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def resumed(case: Case, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Net, metrize.Optimizer]:
    """A new model and a new optimizer that start from a checkpoint of these."""
    saved = through_disk({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    fresh, other = case.start(seed=1)
    fresh.load_state_dict(saved["model"])
    other.load_state_dict(saved["optimizer"])
    return fresh, other


def leaves(content: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in nested dicts, lists and tuples, with its place."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from leaves(value, f"{path}.{key}")
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            yield from leaves(value, f"{path}[{index}]")
    else:
        yield path, content


def same_bits(a: Any, b: Any) -> bool:
    """Whether two values are equal to the last bit, the sign of zero and the payload of a NaN included."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return type(a) is type(b) and a == b
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(*(t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (a, b)))


def assert_same_bits(got: Any, expected: Any, what: str = "") -> None:
    """Equal structure and equal bits; the failure names the places that differ."""
    mine, theirs = dict(leaves(got, what)), dict(leaves(expected, what))
    assert mine.keys() == theirs.keys()
    differing = [place for place in mine if not same_bits(mine[place], theirs[place])]
    assert not differing, f"differ: {differing}; first {mine[differing[0]]} != {theirs[differing[0]]}"


def snapshot(model: nn.Module | Iterable[Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A copy of all a step may change."""
    weights = dict(model.named_parameters()) if isinstance(model, nn.Module) else dict(enumerate(model))
    return {
        "weights": {name: p.detach().clone() for name, p in weights.items()},
        "optimizer": copy.deepcopy(optimizer.state_dict()),
    }


def assert_same_run(
    model: nn.Module, optimizer: torch.optim.Optimizer, other: nn.Module, twin: torch.optim.Optimizer
) -> None:
    """Weights and optimizer state of two runs agree to the last bit."""
    assert_same_bits(snapshot(model, optimizer), snapshot(other, twin))


def set_gradients(params: Iterable[Tensor], step: int, scale: float = 1.0) -> None:
    """Gradients that depend on nothing but the step."""
    generator = torch.Generator().manual_seed(2000 + step)
    for p in params:
        real = torch.view_as_real(p.detach()) if p.is_complex() else p.detach()
        grad = torch.randn(real.shape, generator=generator, dtype=torch.float64).mul_(scale).to(real.dtype)
        p.grad = torch.view_as_complex(grad) if p.is_complex() else grad


ALL = cases()
BOTH = cases(dtypes=["fp32", "bf16"])
FP32 = cases(dtypes=["fp32"])
SECTIONS = cases(spaces=["transported", "redrawn"], dtypes=["fp32", "bf16"])
STEPS = 8
"""Of the runs that are compared."""


@functools.cache
def straight(case: Case) -> tuple[nn.Module, metrize.Optimizer]:
    """A run that was never interrupted."""
    model, optimizer = case.start()
    train(model, optimizer, 0, STEPS)
    return model, optimizer


def checkpoint_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return through_disk(optimizer.state_dict())
