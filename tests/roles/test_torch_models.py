"""Modules of torch itself, each with the whole table that it must get."""

from __future__ import annotations

import pytest
import torch
from expect import BIAS, EMBEDDING, GAIN, HEAD, HIDDEN, RECURRENT, SCALAR, conv, differences, split
from torch import Tensor, nn

from metrize.norms import Layout
from metrize.roles import Role


def affine(name, weight, bias=BIAS):
    return {f"{name}.weight": weight, f"{name}.bias": bias}


def test_transformer_encoder_layer():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    assert not differences(
        layer,
        torch.randn(2, 5, 16),
        {
            "self_attn.in_proj_weight": split(16, 16, 16),
            "self_attn.in_proj_bias": BIAS,
            **affine("self_attn.out_proj", HIDDEN),
            **affine("linear1", HIDDEN),
            **affine("linear2", HIDDEN),
            **affine("norm1", GAIN),
            **affine("norm2", GAIN),
        },
    )


def test_attention_whose_keys_and_values_have_their_own_widths():
    attention = nn.MultiheadAttention(16, 4, kdim=8, vdim=12, add_bias_kv=True, batch_first=True)
    example = torch.randn(2, 5, 16), torch.randn(2, 6, 8), torch.randn(2, 6, 12)
    assert not differences(
        attention,
        example,
        {
            "q_proj_weight": HIDDEN,
            "k_proj_weight": HIDDEN,
            "v_proj_weight": HIDDEN,
            "in_proj_bias": BIAS,
            "bias_k": EMBEDDING,
            "bias_v": EMBEDDING,
            **affine("out_proj", HIDDEN),
        },
    )


def test_convolutions():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.PReLU(8),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.ConvTranspose2d(8, 12, 3, groups=4),
        nn.PReLU(),
        nn.GroupNorm(3, 12),
        nn.Conv2d(12, 12, 1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 10),
    )
    assert not differences(
        net,
        torch.randn(2, 3, 16, 16),
        {
            **affine("0", conv("input")),
            **affine("1", GAIN),
            "2.weight": GAIN,
            **affine("3", conv(groups=2)),
            **affine("5", conv(groups=8)),
            **affine("6", conv(groups=4, transposed=True)),
            "7.weight": SCALAR,
            **affine("8", GAIN),
            "9.weight": conv(),
            **affine("12", HEAD),
        },
    )


def test_a_kernel_of_three_dimensions_and_a_head_that_is_a_convolution():
    net = nn.Sequential(nn.Conv3d(2, 4, 2), nn.InstanceNorm3d(4, affine=True), nn.ConvTranspose3d(4, 5, 2))
    expected = {
        **affine("0", conv("input")),
        **affine("1", GAIN),
        **affine("2", conv("head", transposed=True)),
    }
    assert not differences(net, torch.randn(2, 2, 4, 4, 4), expected)


class Language(nn.Module):
    def __init__(self, layer: nn.RNNBase, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8, padding_idx=0)
        self.layer = layer
        self.head = nn.Linear(width, 20)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.embedding(tokens))[0])


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(
    ("layer", "width", "gates"),
    [
        (nn.LSTM(8, 12, num_layers=2), 12, 4),
        (nn.LSTM(8, 12, proj_size=6), 6, 4),
        (nn.GRU(8, 12, bidirectional=True), 24, 3),
        (nn.RNN(8, 12), 12, 1),
    ],
    ids=["LSTM", "LSTM with projection", "GRU", "RNN"],
)
def test_recurrent_layers(layer, width, gates):
    stacked = RECURRENT if gates == 1 else split(*(12,) * gates, kind="recurrent")
    expected = {"embedding.weight": EMBEDDING, **affine("head", HEAD)}
    for name, _ in layer.named_parameters():
        role = BIAS if "bias" in name else RECURRENT if "weight_hr" in name else stacked
        expected[f"layer.{name}"] = role
    assert not differences(Language(layer, width), torch.randint(0, 20, (2, 5)), expected)


class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTMCell(5, 8)
        self.second = nn.GRUCell(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = c = g = torch.zeros(len(x), 8)
        for step in x.unbind(1):
            h, c = self.first(step, (h, c))
            g = self.second(h, g)
        return self.head(g)


def test_recurrent_cells_in_a_loop():
    expected = affine("head", HEAD)
    for name, gates in (("first", 4), ("second", 3)):
        stacked = split(*(8,) * gates, kind="recurrent")
        expected |= {f"{name}.weight_ih": stacked, f"{name}.weight_hh": stacked}
        expected |= {f"{name}.bias_ih": BIAS, f"{name}.bias_hh": BIAS}
    assert not differences(Cells(), torch.randn(2, 3, 5), expected)


class Matching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.EmbeddingBag(20, 8)
        self.right = nn.EmbeddingBag(20, 6)
        self.match = nn.Bilinear(8, 6, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(self.match(self.left(left), self.right(right)).relu())


def test_bilinear_and_bags_of_embeddings():
    bags = torch.randint(0, 20, (2, 5)), torch.randint(0, 20, (2, 5))
    expected = {
        "left.weight": EMBEDDING,
        "right.weight": EMBEDDING,
        **affine("match", Role("bilinear", Layout(unfold=True))),
        **affine("head", HEAD),
    }
    assert not differences(Matching(), bags, expected)
