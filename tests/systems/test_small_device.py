"""A step asks nothing of a device that small ones lack: no float64, and no tensor of the host among its own."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import pytest
import torch
from small_device import Device, WrongPlaceError, on_device
from torch import nn

import metrize

CATALOGUE = metrize.catalogue()
RANKS = {name: {"rank": 2} for name in ("GaLore", "COAP", "Flora", "APOLLO")}
SUMMED = {name for name, kind in CATALOGUE.items() if kind.recipe().step_size.scope is not None}


def model_there() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 8), nn.LayerNorm(8), nn.Linear(8, 8))
    return moved(model)


def moved(model: nn.Module) -> nn.Module:
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = nn.Parameter(on_device(parameter))
    return model


def train(optimizer: metrize.Optimizer, steps: int = 3) -> None:
    for _ in range(steps):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = on_device(torch.randn(p.shape))
        optimizer.step()


@pytest.mark.parametrize("name", sorted(CATALOGUE.keys() - SUMMED))
def test_the_catalogue(name: str) -> None:
    model = model_there()
    before = [p.detach().clone() for p in model.parameters()]
    with Device():
        train(CATALOGUE[name](model, lr=0.01, **RANKS.get(name, {})))
    for start, p in zip(before, model.parameters(), strict=True):
        assert bool(p.isfinite().all())
        assert not torch.equal(start, p)


@pytest.mark.parametrize("name", sorted(SUMMED))
def test_step_sizes_of_the_whole_model_are_the_ones_that_need_float64(name: str) -> None:
    with Device(), pytest.raises(WrongPlaceError, match="float64"):
        train(CATALOGUE[name](model_there()))


SPACES = [
    "Stiefel()",
    "Stiefel(retraction='geodesic')",
    "Grassmann()",
    "Orthogonal()",
    "Sphere()",
    "SymplecticStiefel()",
    "Lorentz()",
    "Lorentz(section='transported')",
    "PoincareBall()",
]


@pytest.mark.parametrize("space", [metrize.parse_space(space) for space in SPACES], ids=str)
@pytest.mark.parametrize("name", ["Adam", "SGD", "SMMF"])
def test_manifolds(space: metrize.Space, name: str) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 6 if isinstance(space, metrize.Orthogonal) else 4, bias=False)
    metrize.constrain(layer, "weight", space)
    there = moved(layer)
    metrize.spaces.declare.remind(there)
    with Device():
        train(CATALOGUE[name](there, lr=0.01))
    assert max(metrize.error_on_space(layer).values(), default=math.inf) < 1e-5


def test_the_device_notices() -> None:
    there = on_device(torch.ones(2))
    with Device():
        assert there.device.type == (there + 1).device.type == "mps"
        assert there.cpu().device.type == "cpu"
        with pytest.raises(WrongPlaceError, match="float64"):
            there.double()
        with pytest.raises(WrongPlaceError, match="float64"):
            torch.zeros(2, dtype=torch.float64, device=there.device)
        with pytest.raises(WrongPlaceError, match="host"):
            there.add_(torch.ones(2))


def test_the_library_imports_nothing_that_one_system_alone_has() -> None:
    special = {"fcntl", "resource", "signal", "pwd", "grp", "termios", "msvcrt", "winreg", "multiprocessing"}
    root = Path(metrize.__file__).parent
    for path in root.rglob("*.py"):
        if path.relative_to(root).parts[0] == "lab":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not special & {name.partition(".")[0] for name in names}, path
