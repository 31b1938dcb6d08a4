"""Steps inside of backward are the steps behind it, with one gradient alive at a time."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import metrize

METHODS = {
    "AdamW": lambda m: metrize.AdamW(m, lr=0.01),
    "Lion": lambda m: metrize.Lion(m, lr=0.01, weight_decay=0.1),
    "Muon": lambda m: metrize.Muon(m, lr=0.01),
    "SMMF": lambda m: metrize.SMMF(m, lr=0.01),
    "Adam on Stiefel": lambda m: metrize.Adam(m, lr=0.01),
}


def _model(method, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    if "Stiefel" in method:
        for layer in model[::2]:
            metrize.constrain(layer, "weight", metrize.Stiefel())
    return model


def _loss(model, seed):
    return model(torch.randn(16, 6, generator=torch.Generator().manual_seed(seed))).square().mean()


def _train(model, optimizer, accumulate, start, stop, schedule=None):
    for step in range(start, stop):
        for part in range(accumulate):
            _loss(model, 10 * step + part).backward()
        optimizer.step()
        optimizer.zero_grad()
        if schedule:
            schedule.step()


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_it_is_the_same_run(method, accumulate):
    model, other = _model(method), _model(method)
    optimizer, twin = METHODS[method](model), METHODS[method](other)
    metrize.InBackward(twin, accumulate=accumulate)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(o, 5) for o in (optimizer, twin)]
    _train(model, optimizer, accumulate, 0, 5, schedules[0])
    _train(other, twin, accumulate, 0, 5, schedules[1])
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
        assert float(twin.state[q]["step"]) == 5


def test_a_checkpoint_goes_from_one_mode_to_the_other():
    model, other = _model(""), _model("")
    optimizer, twin = METHODS["AdamW"](model), METHODS["AdamW"](other)
    metrize.InBackward(optimizer)
    _train(model, optimizer, 1, 0, 3)
    other.load_state_dict(model.state_dict())
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    _train(model, optimizer, 1, 3, 6)
    _train(other, twin, 1, 3, 6)
    torch.testing.assert_close(list(model.parameters()), list(other.parameters()))


def _alive(model):
    return sum(p.grad is not None for p in model.parameters())


def test_one_gradient_lives_at_a_time():
    model = _model("")
    metrize.InBackward(metrize.AdamW(model))
    alive = []
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(
            lambda _: alive.append(sum(q.grad is not None for q in model.parameters()))
        )
    _loss(model, 0).backward()
    assert alive == [0] * 6  # it ran before these hooks, and freed what it used
    assert all(p.grad is None for p in model.parameters())


def test_a_gradient_that_is_not_finite_skips_its_parameter_alone():
    model = _model("")
    optimizer = metrize.AdamW(model)
    model[2].weight.register_hook(lambda grad: grad * float("nan"))
    metrize.InBackward(optimizer)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.warns(RuntimeWarning, match=r"'2\.weight' is not finite"):
        _loss(model, 0).backward()
    assert optimizer.param_groups[0]["skipped_steps"] == 1
    assert [torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True)].index(True) == 2


def test_it_can_be_taken_off():
    model = _model("")
    handle = metrize.InBackward(metrize.AdamW(model))
    handle.remove()
    _loss(model, 0).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="has to see all gradients"):
        metrize.InBackward(metrize.Prodigy(_model("")))
    with pytest.raises(ValueError, match="accumulate=0"):
        metrize.InBackward(metrize.AdamW(_model("")), accumulate=0)
