"""Bytes are told before they are spent, and told right."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import metrize
from metrize.memory import KNOWN, predict

BYTES = json.loads((Path(__file__).parent / "golden" / "memory_bytes.json").read_text())["models"]
NAMES = {
    "ResNet-50": "ResNet-50 (1000 classes)",
    "MobileNetV2": "MobileNetV2 (1000 classes)",
    "Transformer-base": "Transformer-base (vocab 32768)",
    "Transformer-big": "Transformer-big (vocab 32768)",
}
METHODS = {
    "adam_fp32": metrize.Adam,
    "smmf_1bit": metrize.SMMF,
    "smmf_nobeta": lambda p: metrize.SMMF(p, momentum=0),
    "hfac": metrize.HFac,
    "sm3_momentum": metrize.SM3,
}


class Model(nn.Module):
    """Most shapes there are: matrices, a table, a convolution, vectors, a number."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 12)
        self.conv = nn.Conv2d(3, 8, 3)
        self.up = nn.Linear(12, 30)
        self.down = nn.Linear(30, 12)
        self.head = nn.Linear(12, 5)
        self.scale = nn.Parameter(torch.ones(()))


REFERENCED = [name for name in KNOWN if NAMES.get(name, name) in BYTES]


@pytest.mark.parametrize("name", REFERENCED)
def test_shapes_of_public_models(name):
    shapes, reference = KNOWN[name](), BYTES[NAMES.get(name, name)]
    assert sum(math.prod(shape) for shape in shapes) == reference["params"]
    assert len(shapes) == reference["tensors"]


def test_only_grouped_queries_have_no_reference():
    assert [name for name in KNOWN if name not in REFERENCED] == ["LLaMA-70B"]
    assert sum(math.prod(shape) for shape in KNOWN["LLaMA-70B"]()) == 68_976_648_192  # as its authors count


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", REFERENCED)
def test_bytes_of_public_models(name, method):
    """The count of steps, 4 bytes a tensor, is not in the reference."""
    reference = BYTES[NAMES.get(name, name)]
    assert predict(KNOWN[name](), METHODS[method]).state - 4 * reference["tensors"] == reference[method]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", metrize.catalogue())
def test_what_was_predicted_is_what_is_held(name, dtype):
    model = Model().to(dtype)
    predicted = predict(model, metrize.catalogue()[name])
    optimizer = metrize.catalogue()[name](model)
    optimizer.init_state()
    assert predicted.state == metrize.state_bytes(optimizer)
    assert predicted.state == sum(predicted.by_parameter.values()) == sum(predicted.by_key.values())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.step()
    assert predicted.state == metrize.state_bytes(optimizer)
    assert predicted.parameters == sum(p.numel() * p.element_size() for p in model.parameters())


def test_a_model_that_exists_nowhere_is_enough():
    with torch.device("meta"):
        model = Model()
    assert predict(model, metrize.AdamW).state == predict(Model(), metrize.AdamW).state
    recipe = metrize.Recipe(moments=metrize.Dense("bfloat16"))
    assert predict({"w": (10, 20)}, recipe).by_key == {"step": 4, "exp_avg": 400, "exp_avg_sq": 400}


def test_constrained_weights_count_with_what_their_space_keeps():
    model = nn.Linear(7, 49, bias=False).bfloat16()
    metrize.constrain(model, "weight", metrize.Stiefel(section="transported"))
    assert predict(model, metrize.Adam).by_key["section"] == 49 * 42 * 4
    assert predict(model, metrize.Adam).by_key["master"] == 49 * 7 * 4


def test_in_backward_one_gradient_lives_at_a_time():
    shapes = [(10, 20), (30,)]
    assert predict(shapes, metrize.AdamW).gradients == 4 * 230
    assert predict(shapes, metrize.AdamW, in_backward=True).gradients == 4 * 200
