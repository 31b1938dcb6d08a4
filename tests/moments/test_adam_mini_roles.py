"""Adam-mini's blocks: by the roles of a module, by names, or told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import metrize
from metrize import Blocks


def numbers(model: Any, **options: Any) -> dict[str, int]:
    """How many second moments each parameter keeps."""
    optimizer = metrize.AdamMini(model, **options)
    optimizer.init_state()
    named = [
        (name, p)
        for group in optimizer.param_groups
        for name, p in zip(group["param_names"], group["params"], strict=True)
    ]
    return {name: optimizer.state[p]["exp_avg_sq"].numel() for name, p in named}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.deep = nn.Embedding(10, 16), nn.ModuleList([nn.Linear(16, 16), nn.Linear(16, 16)])
        self.q_proj, self.gru = nn.Linear(16, 24), nn.GRU(16, 5)
        self.kernel, self.scale, self.out = nn.Conv2d(3, 4, 3), nn.LayerNorm(16), nn.Linear(16, 7)


def test_roles_decide_whatever_the_names() -> None:
    found = numbers(Net())
    assert found["tokens.weight"] == 10
    assert found["deep.0.weight"] == found["deep.1.bias"] == 16
    assert found["gru.weight_ih_l0"] == 15
    assert found["kernel.weight"] == found["scale.weight"] == 1
    assert found["out.weight"] == 7
    assert found["q_proj.weight"] == 24


def test_heads_go_by_their_names_and_the_user_stands_above_all() -> None:
    found = numbers(Net(), head_dim=6, blocks={"out.*": Blocks("tensor")})
    assert found["q_proj.weight"] == 4
    assert found["q_proj.bias"] == 24
    assert found["out.weight"] == found["out.bias"] == 1


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: [{"params": m}]], ids=["module", "group"])
def test_attention_and_perceptrons_of_torch(wrap: Any) -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32)
    found = numbers(wrap(layer))
    rows = {name: p.shape[0] for name, p in layer.named_parameters() if "norm" not in name or "bias" in name}
    assert found == rows | {"norm1.weight": 1, "norm2.weight": 1}


def test_outputs_of_a_matrix_that_is_stored_transposed() -> None:
    class Conv1D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nf, self.weight = 12, nn.Parameter(torch.ones(8, 12))

    assert numbers(nn.Sequential(nn.Linear(8, 8), Conv1D(), nn.Linear(12, 8)))["1.weight"] == 12


def test_gains_and_biases_are_spared_decay() -> None:
    optimizer = metrize.AdamMini(Net(), weight_decay=0.1)
    spared = {name for group in optimizer.param_groups if not group["weight_decay"] for name in group["param_names"]}
    assert spared == {name for name, p in Net().named_parameters() if p.ndim == 1}


def test_what_names_do_not_tell_is_listed() -> None:
    model = Net()
    named = list(model.named_parameters())
    with pytest.warns(
        UserWarning, match=r"tokens\.weight, deep\.0\.weight.*hand over the module.*blocks=\{'tokens"
    ) as told:
        numbers(named)
    assert not any(word in str(told[0].message) for word in ("q_proj", "bias", "scale.weight,"))
    known = {name: Blocks("rows") for name, p in named if p.ndim > 1}
    numbers(named, blocks=known)  # without a warning, which would be an error here


def test_a_parameter_of_no_known_role_is_listed_too() -> None:
    model = nn.Module()
    model.pieces = nn.Parameter(torch.ones(3, 4, 5))
    with pytest.warns(UserWarning, match="blocks of pieces"):
        assert numbers(model) == {"pieces": 3}


def test_numbers_for_names_are_no_names() -> None:
    assert numbers([("0", nn.Parameter(torch.ones(6, 4)))]) == {"0": 6}
    shapes = [(6, 4), (5,)]
    bare = metrize.AdamMini([nn.Parameter(torch.ones(shape)) for shape in shapes])
    bare.init_state()
    assert metrize.predict(shapes, metrize.AdamMini).state == metrize.state_bytes(bare)


@pytest.mark.parametrize("option", [{"head_dim": 4}, {"blocks": {"*": Blocks("tensor")}}], ids=str)
def test_what_goes_by_names_is_refused_without_them(option: dict[str, Any]) -> None:
    p = nn.Parameter(torch.ones(8, 4))
    for make in (lambda: metrize.AdamMini([p], **option), lambda: metrize.AdamMini([{"params": [p], **option}])):
        with pytest.raises(TypeError, match=f"{next(iter(option))}=.* names of parameters"):
            make()
