"""The runs whose checkpoints are kept in ``tests/golden/checkpoints``; what is here must not change."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import metrize

FOLDER = Path(__file__).parents[1] / "golden" / "checkpoints"
SAVED_AT, END = 3, 6

Options = dict[str, Any]


class Net(nn.Module):
    """Tensors of every role in a handful of numbers, two matrices of equal shape among them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.conv = nn.Conv2d(2, 3, 2)
        self.tall = nn.Linear(4, 8)
        self.one = nn.Linear(8, 8)
        self.two = nn.Linear(8, 8, bias=False)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 2)


def model_of(entry: dict[str, Any]) -> nn.Module:
    """The model of an entry, with its declared space, before its weights are loaded."""
    torch.manual_seed(0)
    if shape := entry["shape"]:
        model: nn.Module = nn.ParameterDict({"point": nn.Parameter(torch.zeros(shape))})
    else:
        model = Net()
    model.to(getattr(torch, entry["dtype"]))
    if entry["space"]:
        space = metrize.parse_space(entry["space"])
        if shape:
            space.random_(model["point"].data, generator=torch.Generator().manual_seed(1))
            metrize.constrain(model, "point", space)
        else:
            for name in ("tall", "one", "two"):
                metrize.constrain(getattr(model, name), "weight", space)
    return model


def optimizer_of(entry: dict[str, Any], model: nn.Module) -> metrize.Optimizer:
    """The optimizer of an entry, whose parts are kept as text."""
    options = {
        key: metrize.parse(value[5:]) if isinstance(value, str) and value.startswith("part ") else value
        for key, value in entry["options"].items()
    }
    if entry["method"] == "Optimizer":
        return metrize.Optimizer(model, options.pop("recipe"), **options)
    return metrize.catalogue()[entry["method"]](model, **options)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, start: int, stop: int) -> None:
    """Steps with gradients that depend on nothing but the count of the step."""
    for step in range(start, stop):
        generator = torch.Generator().manual_seed(7000 + step)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
        optimizer.step()


def machine() -> str:
    """What decides the last bits of products of matrices."""
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"


def read(file: Path) -> dict[str, Any]:
    """A kept file: ``{"machine": text, "entries": {name: entry}}``."""
    with lzma.open(file) as stream:
        return torch.load(stream, weights_only=True)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}
