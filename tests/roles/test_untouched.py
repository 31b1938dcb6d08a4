"""Planning leaves no trace: not in the model, not in the random generators, and not when the model fails."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
import torch
from expect import roles
from torch import Tensor, nn

from metrize.roles import infer
from metrize.roles.flow import UNKNOWN, Facts, Flow


class Moody(nn.Module):
    """Everything a forward pass may change."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(8, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("cache", torch.zeros(1), persistent=False)
        self.drop.eval()
        self.merged = False

    def train(self, mode: bool = True) -> Moody:
        self.merged = not mode  # as adapters do that merge their weights for evaluation
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.cache = torch.cat([self.cache, x.mean()[None]])
        noise = torch.rand(()) + random.random()
        return self.last(self.drop(self.norm(self.first(x)))) * noise


def state(model: nn.Module) -> dict[str, object]:
    return {
        "modes": [module.training for module in model.modules()],
        "buffers": {name: (id(buffer), buffer.clone()) for name, buffer in model.named_buffers()},
        "parameters": {name: p.detach().clone() for name, p in model.named_parameters()},
        "grads": [p.grad for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "merged": model.merged,
        "random": random.getstate(),
        "torch": torch.get_rng_state(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "grad mode": torch.is_grad_enabled(),
    }


def alike(one: object, other: object) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == other


def test_nothing_is_changed():
    model = Moody()
    model.norm.weight.requires_grad_(False)
    before = state(model)
    roles(model, torch.randn(4, 8, generator=torch.Generator().manual_seed(1)))
    after = state(model)
    assert [key for key in before if not alike(before[key], after[key])] == []


def test_nothing_is_changed_by_a_pass_that_fails():
    model = Moody()
    before = state(model)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as failed:
        roles(model, torch.ones(4, 9))
    assert failed.value.__notes__ == ["raised by the model on the example, in evaluation mode"]
    after = state(model)
    assert [key for key in before if not alike(before[key], after[key])] == []


def test_gradients_are_kept():
    model = Moody()
    model(torch.ones(4, 8)).sum().backward()
    before = state(model)["grads"]
    kept = [grad.clone() for grad in before]
    roles(model, torch.ones(4, 8))
    assert all(p.grad is grad for p, grad in zip(model.parameters(), before, strict=True))
    assert all(map(torch.equal, kept, before))


def test_a_pass_that_fails_with_gradients_costs_the_splits_alone():
    class Strict(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                raise RuntimeError("for inference only")
            return super().forward(x)

    with pytest.warns(UserWarning, match="not split: the forward pass with gradients failed: for inference only"):
        found = infer(Strict(8, 8), torch.ones(2, 8))
    assert found.roles["weight"].kind == "head"


def test_the_pass_is_plain():
    """Evaluation mode, no fused layer, no autocast."""
    seen = []

    def example(model: nn.Module) -> Tensor:
        modes = {module.training for module in model.modules()}
        seen.append((modes, torch.backends.mha.get_fastpath_enabled(), torch.is_autocast_enabled("cpu")))
        return model(torch.ones(2, 8))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        roles(nn.Sequential(nn.Linear(8, 8)), example)
        assert torch.is_autocast_enabled("cpu")
    assert seen == [({False}, False, False)] * 2


def test_a_storage_is_not_taken_for_a_dead_one():
    """The address of a freed storage is used again at once."""
    flow = Flow(nn.Linear(2, 2))
    for _ in range(100):
        tensor = torch.ones(3)
        assert flow.of(tensor) is UNKNOWN
        flow.put(tensor, Facts(upstream=1))
        assert flow.of(tensor) == Facts(upstream=1)
        del tensor


def test_a_generator_of_ones_own_is_not_asked_for():
    """Two plans agree, whatever was drawn between them."""
    model = nn.TransformerEncoderLayer(16, 4, 32)
    first = roles(model, torch.ones(2, 5, 16))
    torch.randn(3)
    assert roles(model, torch.ones(2, 5, 16)) == first


def test_the_compiler_is_not_loaded():
    """It takes seconds, and nothing here needs it."""
    code = (
        "import sys, torch; from torch import nn; import metrize;"
        "metrize.plan(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), torch.ones(2, 8));"
        "assert 'torch._dynamo' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_compiled_model_runs_eagerly():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()  # they outlive a reset: other tests of this process may have compiled
    compiled = torch.compile(model, backend="eager")
    assert [role.kind for role in roles(compiled, torch.ones(2, 8)).values()] == ["input", "bias", "head", "bias"]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 0
