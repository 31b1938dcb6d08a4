"""Models that no module rule covers: bare parameters, ties, parametrizations, products written out."""

from __future__ import annotations

import pytest
import torch
from expect import (
    BACKWARDS,
    BIAS,
    ELEMENTWISE,
    EMBEDDING,
    GAIN,
    HEAD,
    HIDDEN,
    INPUT,
    LORA_A,
    LORA_B,
    ROUTER,
    SCALAR,
    TIED,
    conv,
    differences,
    roles,
    split,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from metrize.norms import Layout
from metrize.roles import Role, infer


def free(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))


class Written(nn.Module):
    """Everything by hand, and queries that are learned."""

    def __init__(self) -> None:
        super().__init__()
        self.first = free(6, 8)
        self.positions = free(1, 5, 6)
        self.second = free(6, 7)
        self.shift = free(1, 7)
        self.queries = free(4, 7)
        self.project = nn.Linear(7, 7)
        self.pairs = free(7, 14)
        self.gate = nn.Linear(7, 1)
        self.layer_scale = free(7)
        self.temperature = free()
        self.last = free(5, 7)

    def forward(self, x: Tensor) -> Tensor:
        h = F.linear(x, self.first) + self.positions
        h = (h @ self.second + self.shift).relu_()
        query = self.project(self.queries).expand(len(x), -1, -1)
        key, value = (h @ self.pairs).chunk(2, -1)
        h = F.scaled_dot_product_attention(query, key, value)
        h = h + self.layer_scale * (h * torch.sigmoid(self.gate(h)))
        return F.linear(h, self.last) * self.temperature.exp()


def test_bare_parameters():
    expected = {
        "first": INPUT,
        "positions": EMBEDDING,
        "second": BACKWARDS,
        "shift": BIAS,
        "queries": EMBEDDING,
        "project.weight": HIDDEN,
        "project.bias": BIAS,
        "pairs": Role("hidden", Layout(transposed=True, split=(7, 7))),
        "gate.weight": ELEMENTWISE,  # one row
        "gate.bias": BIAS,
        "layer_scale": GAIN,
        "temperature": SCALAR,
        "last": HEAD,
    }
    assert not differences(Written(), torch.randn(2, 5, 8), expected)


class Attention(nn.Module):
    """A table of distances, one number a head, added to the scores."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.distances = nn.Embedding(7, 2)
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8)
        self.fused = fused

    def forward(self, tokens: Tensor) -> Tensor:
        x, size = self.embedding(tokens), tokens.shape[1]
        steps = torch.arange(size)
        table = self.distances((steps[:, None] - steps).clamp(-3, 3) + 3).permute(2, 0, 1)
        query, key, value = (part.view(-1, size, 2, 4).transpose(1, 2) for part in self.qkv(x).split(8, -1))
        if self.fused:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=table[None])
        else:
            mixed = (query @ key.mT / 2 + table).softmax(-1) @ value
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return F.linear(x, self.embedding.weight)


@pytest.mark.parametrize("fused", [True, False])
def test_tables_of_distances_are_no_embeddings_and_a_tie_needs_no_second_module(fused):
    expected = {
        "embedding.weight": TIED,
        "distances.weight": ELEMENTWISE,
        "qkv.weight": split(8, 8, 8),
        "qkv.bias": BIAS,
        "out.weight": HIDDEN,
        "out.bias": BIAS,
    }
    assert not differences(Attention(fused), torch.randint(0, 10, (2, 5)), expected)


class Parametrized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.normed = parametrizations.weight_norm(nn.Linear(8, 8))
        self.spectral = parametrizations.spectral_norm(nn.Linear(8, 8))
        self.orthogonal = parametrizations.orthogonal(nn.Linear(8, 8))
        with pytest.warns(FutureWarning, match="weight_norm"):
            self.old_normed = nn.utils.weight_norm(nn.Conv1d(8, 8, 3, padding=1))
        self.old_spectral = nn.utils.spectral_norm(nn.Linear(8, 8))
        self.head = parametrizations.weight_norm(nn.Linear(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.orthogonal(self.spectral(self.normed(x)))
        return self.head(self.old_spectral(self.old_normed(x.mT).mT))


def test_parametrized_weights():
    inner = "parametrizations.weight.original"
    expected = {
        f"normed.{inner}0": GAIN,
        f"normed.{inner}1": INPUT,
        f"spectral.{inner}": HIDDEN,
        f"orthogonal.{inner}": ELEMENTWISE,
        "old_normed.weight_g": GAIN,
        "old_normed.weight_v": conv(),
        "old_spectral.weight_orig": HIDDEN,
        f"head.{inner}0": GAIN,
        f"head.{inner}1": HEAD,
    }
    biases = ("normed", "spectral", "orthogonal", "old_normed", "old_spectral", "head")
    expected |= {f"{name}.bias": BIAS for name in biases}
    found = infer(Parametrized(), torch.randn(2, 4, 8))
    assert found.roles == expected
    assert not found.unused


class Adapted(nn.Module):
    """A fused projection with a low-rank adapter that is zero at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 8)
        self.base = nn.Linear(8, 24).requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(8, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 24, bias=False)})
        nn.init.zeros_(self.lora_B["default"].weight)
        self.head = nn.Linear(8, 9)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        fused = self.base(x) + self.lora_B["default"](self.lora_A["default"](x))
        query, key, value = fused.view(*tokens.shape, 2, 3, 4).permute(3, 0, 2, 1, 4)
        return self.head(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


def test_low_rank_adapters():
    expected = {
        "embedding.weight": EMBEDDING,
        "base.weight": split(1, 1, 1, outer=2, inner=4),
        "base.bias": BIAS,
        "lora_A.default.weight": LORA_A,
        "lora_B.default.weight": LORA_B,
        "head.weight": HEAD,
        "head.bias": BIAS,
    }
    assert not differences(Adapted(), torch.randint(0, 9, (2, 5)), expected)


class Products(nn.Module):
    """Weights of more than two dimensions, sums of weights, functions of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(8, 8)
        self.heads = free(8, 2, 4)
        self.bank = free(3, 8, 6)
        self.choose = nn.Linear(6, 3, bias=False)
        self.weight, self.down, self.up = free(6, 6), free(4, 6), free(6, 4)
        self.positive = free(6, 6)
        self.halves = free(12, 6)
        self.kernel = free(6, 6, 2)
        self.leave = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("td,dhk->thk", self.enter(x), self.heads).flatten(1)
        each = torch.einsum("td,edf->tef", x, self.bank)
        values, _ = self.choose(each.mean(1)).softmax(-1).topk(2)
        x = each[:, :2].mul(values[..., None]).sum(1)
        x = F.linear(x, self.weight + self.up @ self.down) @ self.positive.exp()
        one, other = self.halves.chunk(2)
        x = F.linear(x, one) - F.linear(x, other).relu()
        return self.leave(torch.einsum("tdk,odk->to", torch.stack([x, x.relu()], -1), self.kernel))


def test_products_of_all_kinds():
    expected = {
        "enter.weight": INPUT,
        "enter.bias": BIAS,
        "heads": ELEMENTWISE,  # inputs, heads, outputs: no layout reads it
        "bank": Role("expert", Layout(transposed=True)),
        "choose.weight": ROUTER,
        "weight": HIDDEN,
        "down": HIDDEN,
        "up": HIDDEN,
        "positive": ELEMENTWISE,
        "halves": split(6, 6),
        "kernel": conv(),
        "leave.weight": HEAD,
        "leave.bias": BIAS,
    }
    assert not differences(Products(), torch.randn(4, 8), expected)


class Autoencoder(nn.Module):
    """One weight both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(12, 6)
        self.shift = nn.Parameter(torch.zeros(12))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.encode(x).relu(), self.encode.weight.mT, self.shift)


def test_a_weight_that_is_used_both_ways_is_neither_first_nor_last():
    expected = {"encode.weight": HIDDEN, "encode.bias": BIAS, "shift": BIAS}
    assert not differences(Autoencoder(), torch.randn(2, 12), expected)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 2, 2)
        self.chunked = nn.Linear(16, 24)
        self.in_turn = nn.Linear(12, 20)
        self.paint = nn.ConvTranspose2d(10, 3, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.glu(self.chunked(self.patch(x).movedim(1, -1)))
        x = self.in_turn(x)
        return self.paint((F.silu(x[..., ::2]) * x[..., 1::2]).movedim(-1, 1))


def test_gates():
    expected = {
        "patch.weight": conv("input"),
        "chunked.weight": split(12, 12),
        "in_turn.weight": split(1, 1, outer=10),
        "paint.weight": conv("head", transposed=True),
    }
    expected |= {f"{name}.bias": BIAS for name in ("patch", "chunked", "in_turn", "paint")}
    assert not differences(Gated(), torch.randn(2, 3, 4, 4), expected)


class Heads(nn.Module):
    """Two heads on a trunk whose layer is used again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.layer = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.policy = nn.Linear(8, 6)
        self.value = nn.Linear(8, 1)
        self.spare = nn.Linear(8, 8)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        x = self.embedding(tokens).mean(1)
        for _ in range(3):
            x = x + self.layer(x.relu())
        x = self.norm(x)
        return {"policy": self.policy(x).log_softmax(-1), "value": self.value(x)}


def test_several_heads_and_what_the_example_does_not_use():
    found = infer(Heads(), torch.randint(0, 10, (4, 3)))
    weights = {name: role for name, role in found.roles.items() if "bias" not in name}
    assert weights == {
        "embedding.weight": EMBEDDING,
        "layer.weight": HIDDEN,
        "norm.weight": GAIN,
        "policy.weight": HEAD,
        "value.weight": HEAD,
        "spare.weight": HIDDEN,
    }
    assert found.unused == ("spare.weight", "spare.bias")


def test_a_trunk_has_no_head():
    """What ends a residual branch, or is normalised, is followed by more in the model it is made for."""
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)
    trunk = nn.Sequential(nn.Linear(8, 16), layer, nn.LayerNorm(16))
    kinds = {role.kind for role in roles(trunk, torch.randn(2, 5, 8)).values()}
    assert "head" not in kinds
    normed = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    assert roles(normed, torch.randn(2, 3, 8, 8))["2.weight"] == conv()


def test_a_residual_trunk_without_norms_has_no_head_either():
    class Trunk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.enter(x)
            return x + self.down(self.up(x).relu())

    found = roles(Trunk(), torch.randn(2, 8))
    assert [found[f"{name}.weight"] for name in ("enter", "up", "down")] == [INPUT, HIDDEN, HIDDEN]


def test_heads_that_are_added_are_heads():
    """Neither passes the other by: a wide and a deep part, a step from the input."""

    class WideAndDeep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.wide(x) + self.down(self.up(x).relu())

    found = roles(WideAndDeep(), torch.randn(2, 8))
    assert [found[f"{name}.weight"] for name in ("wide", "up", "down")] == [HEAD, INPUT, HEAD]


def test_a_function_of_a_weight_is_a_matrix_too():
    """It is the last one; but no norm of matrices is a norm of what it is made from."""

    class Positive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.logs = nn.Linear(8, 6), free(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.enter(x) @ self.logs.exp()

    found = roles(Positive(), torch.randn(2, 8))
    assert (found["enter.weight"], found["logs"]) == (INPUT, ELEMENTWISE)


def test_a_choice_passes_nothing_on():
    """Decoding feeds the best symbol back in; the head stays the last matrix."""

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.layer, self.head = nn.Embedding(10, 8), nn.Linear(8, 8), nn.Linear(8, 10)

        def forward(self, symbol: Tensor) -> Tensor:
            logits = []
            for _ in range(3):
                logits.append(self.head(self.layer(self.embedding(symbol)).tanh()))
                symbol = logits[-1].argmax(-1)
            return torch.stack(logits)

    found = roles(Decoder(), torch.tensor([1, 2]))
    assert [found[f"{name}.weight"] for name in ("embedding", "layer", "head")] == [EMBEDDING, HIDDEN, HEAD]


def test_tables_of_attention_biases():
    """One is as long as the scores are wide; the other lies across its rows when it meets a mask of constants."""

    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(8, 24)
            self.pairs = free(5, 5)
            self.distances = nn.Embedding(9, 4)

        def forward(self, x: Tensor) -> Tensor:
            query, key, value = self.project(x).chunk(3, -1)
            x = (query @ key.mT + self.pairs).softmax(-1) @ value
            steps = torch.arange(5)
            mask = torch.zeros(5, 5) + self.distances(steps[:, None] - steps + 4).permute(2, 0, 1)
            heads = x.unflatten(-1, (4, 2)).transpose(1, 2)
            return ((heads @ heads.mT) * mask.sigmoid()).softmax(-1) @ heads

    found = roles(Biased(), torch.randn(2, 5, 8))
    assert found["pairs"] == found["distances.weight"] == ELEMENTWISE


def test_sparse_codes_are_no_router():
    class Codes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = nn.Linear(8, 32), nn.Linear(32, 8)

        def forward(self, x: Tensor) -> Tensor:
            codes = self.encode(x)
            best = codes.topk(4)
            return self.decode(torch.zeros_like(codes).scatter(-1, best.indices, best.values))

    found = roles(Codes(), torch.randn(5, 8))
    assert (found["encode.weight"], found["decode.weight"]) == (INPUT, HEAD)


@pytest.mark.parametrize(
    "example",
    [
        torch.ones(2, 8),
        (torch.ones(2, 8),),
        [torch.ones(2, 8)],
        {"input": torch.ones(2, 8)},
        lambda model: F.cross_entropy(model(torch.randn(4, 8)), torch.tensor([0, 1, 2, 0])),
    ],
    ids=["tensor", "tuple", "list", "mapping", "function with a loss"],
)
def test_examples_of_every_form(example):
    model = nn.Sequential(nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 5))
    found = roles(model, example)
    assert [found[name] for name in ("0.weight", "2.weight", "4.weight")] == [INPUT, HIDDEN, HEAD]


def test_a_model_without_numbers():
    """On the meta device there are no gradients, and so no probe; the rest is the same."""
    with torch.device("meta"):
        model, tokens = Attention(fused=True), torch.zeros(2, 5, dtype=torch.int64)
    found = infer(model, lambda model: model.out(model.qkv(model.embedding(tokens))[..., :8]))
    assert found.roles["qkv.weight"] == HIDDEN
    assert found.roles["out.weight"] == HEAD
    assert found.notes == ("fused projections are not split: weights without values have no gradients",)


def test_complex_numbers_are_trained_entry_by_entry():
    model = nn.Linear(8, 8, dtype=torch.complex64)
    assert roles(model, torch.randn(2, 8, dtype=torch.complex64))["weight"] == ELEMENTWISE


def test_half_precision():
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 5)).to(torch.bfloat16)
    found = roles(model, torch.ones(2, 8, dtype=torch.bfloat16))
    assert [found[f"{i}.weight"] for i in range(3)] == [INPUT, HIDDEN, HEAD]
