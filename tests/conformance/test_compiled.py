"""A step inside a compiled function gives the numbers of the same step outside of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cases import assert_same_run, backward, build
from torch import nn

import metrize
from metrize import rules
from metrize.moments import Averages, Slot
from metrize.rules import Metric

pytestmark = pytest.mark.filterwarnings("ignore")  # of dynamo, about what it does not trace

RULES = [rules.Lion(), rules.Steepest(), rules.AdaGrad(), rules.Momentum()]  # that read no count on the host
QUICK, SLOW = ["AdamW"], ["SGD", "Muon", "SOAP", "SMMF", "Adam8bit", "Stiefel"]


each = pytest.mark.parametrize("method", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def start(method: str) -> tuple[nn.Module, metrize.Optimizer]:
    """A model and its optimizer; ``Stiefel`` is Adam on that manifold."""
    if method == "Stiefel":
        model = build(metrize.Stiefel())
        return model, metrize.Adam(model, lr=0.02)
    model = build(None)
    return model, metrize.catalogue()[method](model, lr=0.02)


def check(method: str, compiled: Callable[[Callable[[], Any]], Callable[[], Any]], steps: int = 4) -> None:
    """The compiled run, with another learning rate at every step, is the run that is not compiled."""
    model, optimizer = start(method)
    other, twin = start(method)
    step = compiled(optimizer.step)
    for at in range(steps):
        backward(model, at)
        backward(other, at)
        step()
        twin.step()
        for group in optimizer.param_groups + twin.param_groups:
            group["lr"] *= 0.9
    assert_same_run(model, optimizer, other, twin)


@each
def test_a_compiled_step(method: str) -> None:
    check(method, lambda step: torch.compile(step, backend="eager"))


@each
def test_a_function_that_calls_the_step(method: str) -> None:
    def compiled(step: Callable[[], Any]) -> Callable[[], Any]:
        @torch.compile(backend="aot_eager")
        def function() -> None:
            step()

        return function

    check(method, compiled)


@pytest.mark.slow
def test_a_whole_training_step() -> None:
    def loop(optimizer: Any, model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        def function(x: torch.Tensor) -> torch.Tensor:
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss

        return function

    (model, optimizer), (other, twin) = (start("AdamW") for _ in range(2))
    plain, compiled = loop(twin, other), torch.compile(loop(optimizer, model), backend="eager")
    for at in range(4):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(at))
        assert torch.equal(compiled(x), plain(x))
    assert_same_run(model, optimizer, other, twin)


def test_a_skipped_step_is_skipped_in_compiled_code_too() -> None:
    model, optimizer = start("AdamW")
    before = [p.detach().clone() for p in model.parameters()]
    backward(model, 0)
    model.one.weight.grad[0, 0] = float("nan")
    torch.compile(optimizer.step, backend="eager")()
    assert optimizer.param_groups[0]["skipped_steps"] == 1
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["AdamW", "Muon"])
def test_inductor(method: str) -> None:
    """Fused arithmetic rounds differently."""
    model, optimizer = start(method)
    other, twin = start(method)
    step = torch.compile(optimizer.step)
    for at in range(3):
        backward(model, at)
        backward(other, at)
        step()
        twin.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_rule_by_entry_is_one_graph_compiled_once(rule: rules.Rule) -> None:
    hyper, shape = rule.hyper(), (1, 16, 16)
    slots = {
        name: Slot(name, kind, torch.Size(shape[1:]), torch.float32, metrize.Vector().points)
        for name, kind in rule.averages(hyper).items()
    }
    state = {name: torch.rand(shape) for name in slots} | {"step": torch.tensor([3.0])}
    metric = Metric(metrize.Vector().sq_norm, 1)

    def direction(grad: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
        return rule.direction(grad, Averages(metrize.Dense(), state, slots), hyper, metric)

    found = torch._dynamo.explain(direction)(torch.randn(shape), state)
    assert found.graph_count == 1, found.break_reasons
    torch.compiler.reset()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(direction, backend=counter)
    for step in range(1, 5):
        state["step"].fill_(float(step))
        compiled(torch.randn(shape), state)
    assert counter.frame_count == 1
