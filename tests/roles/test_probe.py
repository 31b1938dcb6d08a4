"""How the outputs of fused weights are arranged."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from metrize.norms import Layout
from metrize.roles import infer
from metrize.roles.probe import pattern


@given(
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    outer=st.integers(1, 4),
    inner=st.integers(1, 4),
)
def test_a_layout_is_read_back_from_its_labels(sizes, outer, inner):
    """The layout found has the same pieces, though it may count them otherwise."""
    labels = [part for part, size in enumerate(sizes) for _ in range(size * inner)] * outer
    found = pattern(labels)
    assert found is not None
    layout = Layout(split=found.split, outer=found.outer, inner=found.inner)
    rows = torch.arange(len(labels), dtype=torch.float32).view(1, -1, 1)
    pieces = [piece for stack in layout.pieces(rows) for piece in stack.reshape(-1, stack.shape[-2]).tolist()]
    wanted = [[float(at) for at, label in enumerate(labels) if label == part] for part in range(len(sizes))]
    assert pieces == wanted


@given(st.lists(st.sampled_from([1, 2]), min_size=1, max_size=40))
def test_no_pattern_is_seen_where_none_is(labels):
    found = pattern(labels)
    runs = [len(list(run)) for _, run in itertools.groupby(labels)]
    if found is None:
        assert len(runs) == 1 or len(runs) > 8
    else:
        assert found.outer * sum(found.split) * found.inner == len(labels)


def test_one_label_and_long_patterns():
    assert pattern([1] * 12) is None
    assert pattern([1, 2] * 2 + [1, 2, 2] * 2 + [1, 2, 2, 2] * 2) is None
    found = pattern([1, 1, 2, 4] * 8)
    assert (found.split, found.outer, found.inner) == ((2, 1, 1), 8, 1)


class Attention(nn.Module):
    def __init__(self, arrange, outputs: int = 24, written_out: bool = False) -> None:
        super().__init__()
        self.enter = nn.Linear(8, 8)
        self.qkv = nn.Linear(8, outputs)
        self.leave = nn.Linear(8, 8)
        self.arrange, self.written_out = arrange, written_out

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.arrange(self.qkv(self.enter(x)))
        if self.written_out:
            mask = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
            mixed = (query @ key.mT).masked_fill(mask, -torch.inf).softmax(-1) @ value
        else:
            mixed = F.scaled_dot_product_attention(query, key, value)
        return self.leave(mixed.transpose(1, 2).flatten(2))


def heads(x: Tensor, size: int = 4) -> Tensor:
    return x.unflatten(-1, (-1, size)).transpose(1, 2)


def rotated(x: Tensor) -> Tensor:
    one, other = x.chunk(2, -1)
    turn = torch.arange(x.shape[-2])[:, None] * 0.3
    return torch.cat((one * turn.cos() - other * turn.sin(), other * turn.cos() + one * turn.sin()), -1)


def sections(x):
    return map(heads, x.chunk(3, -1))


def last_first(x):
    value, key, query = map(heads, x.chunk(3, -1))
    return query, key, value


def by_head(x):
    query, key, value = x.unflatten(-1, (2, 3, 4)).unbind(-2)
    return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)


def normed_and_rotated(x):
    query, key, value = sections(x)
    return rotated(F.layer_norm(query, (4,))), rotated(F.layer_norm(key, (4,))), value


def grouped(x):
    """Two queries share a key and a value."""
    query, key, value = x.split((8, 4, 4), -1)
    return heads(query), heads(key).expand(-1, 2, -1, -1), heads(value).expand(-1, 2, -1, -1)


def in_turn(x):
    return map(heads, x.unflatten(-1, (8, 3)).unbind(-1))


ARRANGEMENTS = [
    (sections, 24, Layout(split=(8, 8, 8))),
    (last_first, 24, Layout(split=(8, 8, 8))),
    (by_head, 24, Layout(split=(1, 1, 1), outer=2, inner=4)),
    (normed_and_rotated, 24, Layout(split=(8, 8, 8))),
    (grouped, 16, Layout(split=(8, 4, 4))),
    (in_turn, 24, Layout(split=(1, 1, 1), outer=8)),
]


@pytest.mark.parametrize("written_out", [False, True])
@pytest.mark.parametrize(("arrange", "outputs", "layout"), ARRANGEMENTS, ids=lambda case: getattr(case, "__name__", ""))
def test_arrangements_of_attention(arrange, outputs, layout, written_out):
    found = infer(Attention(arrange, outputs, written_out), torch.randn(2, 5, 8)).roles
    assert found["qkv.weight"].layout == layout
    assert found["enter.weight"].layout == found["leave.weight"].layout == Layout()


def test_weights_of_zero_are_read_too():
    model = Attention(normed_and_rotated)
    nn.init.zeros_(model.qkv.weight)
    nn.init.zeros_(model.qkv.bias)
    assert infer(model, torch.randn(2, 5, 8)).roles["qkv.weight"].layout == Layout(split=(8, 8, 8))


def test_a_layer_that_writes_into_its_input():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.Hardswish(inplace=True))
    assert {role.layout for role in infer(model, torch.randn(2, 8)).roles.values()} == {Layout()}


def test_what_no_gate_is():
    class Squares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            h = self.up(x)
            h = h * h.relu() * torch.rsqrt(h.square().mean(-1, keepdim=True))
            return self.down(h * torch.cat([h[..., :4], h[..., 4:]], -1))

    assert infer(Squares(), torch.randn(2, 8)).roles["up.weight"].layout == Layout()
