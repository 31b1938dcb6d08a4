"""Optimizers that tell the tensors of a model apart: who gets what, and that nothing of the contract is lost."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

import metrize
from metrize.norms import RMS, ColumnNorm, SignHead, Spectral

METHODS = {"Muon": metrize.Muon, "Scion": metrize.Scion}


class Classifier(nn.Module):
    """One tensor of most roles."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.embedding(x))
        y = y + self.attention(y, y, y, need_weights=False)[0]
        return self.head((y + self.down(torch.relu(self.up(y)))).mean(1))


def _start(method, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    model = Classifier().to(dtype)
    return model, METHODS[method](model, lr=0.02)


def _train(model, optimizer, start, stop):
    for step in range(start, stop):
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randint(11, (8, 5), generator=generator), torch.randint(3, (8,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def _recipe_of(optimizer, parameter):
    return next(
        recipe
        for recipe, group in zip(optimizer.recipes(), optimizer.param_groups, strict=True)
        if any(p is parameter for p in group["params"])
    )


def _state(model, optimizer):
    return copy.deepcopy([list(model.state_dict().values()), list(optimizer.state_dict()["state"].values())])


@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_has_its_group(method):
    model, optimizer = _start(method)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


def test_muon_trains_hidden_matrices_and_adam_the_rest():
    model, optimizer = _start("Muon")
    for weight in (model.up.weight, model.down.weight, model.attention.in_proj_weight, model.attention.out_proj.weight):
        assert isinstance(_recipe_of(optimizer, weight).rule, metrize.rules.Steepest)
    assert _recipe_of(optimizer, model.attention.in_proj_weight).rule.norm.layout.split == (8, 8, 8)
    for weight in (model.embedding.weight, model.head.weight, model.norm.weight, model.up.bias):
        assert isinstance(_recipe_of(optimizer, weight).rule, metrize.rules.Adam)
    assert {group["lr"] for group in optimizer.param_groups} == {0.02, 3e-4}


def test_scion_gives_each_role_its_norm():
    model, optimizer = _start("Scion")
    kinds = {
        model.embedding.weight: ColumnNorm,
        model.head.weight: SignHead,
        model.up.weight: Spectral,
        model.up.bias: RMS,
        model.norm.weight: RMS,
    }
    for parameter, kind in kinds.items():
        assert isinstance(_recipe_of(optimizer, parameter).rule.norm, kind)


@pytest.mark.parametrize("method", METHODS)
def test_it_learns(method):
    model, optimizer = _start(method)
    x, y = torch.arange(11).repeat(5, 1).T, torch.arange(11) % 3

    def loss():
        return nn.functional.cross_entropy(model(x), y)

    before = loss().item()
    for _ in range(60):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.3 * before


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_resumed_run_is_the_straight_run(method, dtype):
    model, optimizer = _start(method, dtype)
    _train(model, optimizer, 0, 3)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other, twin = _start(method, dtype, seed=1)
    other.load_state_dict(saved["model"])
    twin.load_state_dict(saved["optimizer"])
    _train(model, optimizer, 3, 6)
    _train(other, twin, 3, 6)
    torch.testing.assert_close(_state(other, twin), _state(model, optimizer), rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_gradient_that_is_not_finite_skips_the_step_of_all_groups(method):
    model, optimizer = _start(method)
    _train(model, optimizer, 0, 2)
    before = _state(model, optimizer)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    model.up.weight.grad[0, 0] = float("nan")
    with pytest.warns(RuntimeWarning, match=r"'up\.weight' is not finite"):
        optimizer.step()
    torch.testing.assert_close(_state(model, optimizer), before, rtol=0, atol=0)


def test_muon_refuses_vectors_that_come_without_their_model():
    model = Classifier()
    with pytest.raises(metrize.SpaceError, match=r"parameter 'norm\.weight'"):
        metrize.Muon(model.named_parameters())


def test_scion_reads_shapes_where_there_is_no_model():
    params = [nn.Parameter(torch.ones(shape)) for shape in ((4, 3), (4, 3, 2, 2), (4,))]
    optimizer = metrize.Scion(params)
    norms = [_recipe_of(optimizer, p).rule.norm for p in params]
    assert [type(norm) for norm in norms] == [Spectral, Spectral, RMS]
    assert norms[1].scale == "conv"
    assert norms[1].layout.unfold


class _Fused(nn.Module):
    """One map that makes queries, keys and values, between a first and a last layer."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)
        self.made = nn.Linear(16, 48, bias=False)

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (4, 4)).transpose(-3, -2) for part in self.made(self.first(x)).chunk(3, -1))
        seen = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.last(seen.transpose(-3, -2).flatten(-2))


@pytest.mark.parametrize("method", [metrize.Muon, metrize.Scion])
def test_an_example_tells_of_fused_matrices(method):
    def recipe_of(optimizer):
        return next(g["recipe"] for g in optimizer.param_groups if "made.weight" in g["param_names"])

    assert "split=(16, 16, 16)" in recipe_of(method(_Fused(), example=torch.randn(2, 5, 6)))
    assert "split=(16, 16, 16)" not in recipe_of(method(_Fused()))
