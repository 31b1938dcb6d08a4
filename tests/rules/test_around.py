"""Rules around rules: what a subclass of `Around` overrides acts, and all else is that of the rule inside."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import pytest
import torch
from sentences import OPTIONS, RULES
from torch import Tensor, nn

import metrize
from metrize import Recipe, norms, rules
from metrize.rules import Around
from metrize.rules.base import per_point
from metrize.step.fused import Fused
from metrize.step.piecewise import Piecewise
from metrize.step.stacked import Stacked
from metrize.testing import check

SMALL, LARGE = (8, 4), (700, 400)


@dataclasses.dataclass(frozen=True)
class SignMasked(Around):
    """Those entries of the direction alone whose sign is that of the gradient."""

    by_entry: ClassVar[bool] = True

    def transform(self, direction, coords, averages, hyper, metric):
        return direction * (direction * coords > 0)


@dataclasses.dataclass(frozen=True)
class RMSLimited(Around):
    """A direction whose root mean square is at most `limit`, of the group."""

    def hyper(self) -> dict[str, Any]:
        return {**super().hyper(), "limit": 0.5}

    def transform(self, direction, coords, averages, hyper, metric):
        size = (metric.sq_norm(direction) / metric.dim).sqrt() / hyper["limit"]
        return direction / per_point(size.clamp(min=1), direction)


@dataclasses.dataclass(frozen=True)
class GradientClamped(Around):
    """No entry of the gradient is larger than `most`."""

    most: float = 0.3
    by_entry: ClassVar[bool] = True

    def prepare(self, coords, averages, hyper, metric):
        return coords.clamp(-self.most, self.most)


@dataclasses.dataclass(frozen=True)
class SlowFiltered(Around):
    """The rule sees the gradient and its slow average."""

    by_entry: ClassVar[bool] = True

    def averages(self, hyper):
        return {**super().averages(hyper), "slow": "linear"}

    def prepare(self, coords, averages, hyper, metric):
        if not averages.observed("slow"):
            averages.observe("slow", coords, 0.9, 0.1)
        return coords + averages.again("slow")


@dataclasses.dataclass(frozen=True)
class AroundNothing(Around):
    """Nothing is changed."""


@dataclasses.dataclass(frozen=True)
class NormMasked(SignMasked):
    """Inherits that it works by entry, and does not."""

    def transform(self, direction, coords, averages, hyper, metric):
        return direction / per_point(metric.sq_norm(direction).sqrt() + 1e-30, direction)


def draw(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def adam_direction(state: dict[str, Tensor], g: Tensor, t: int) -> Tensor:
    state["m"] = 0.9 * state.get("m", 0) + 0.1 * g
    state["v"] = 0.999 * state.get("v", 0) + 0.001 * g * g
    return (state["m"] / (1 - 0.9**t)) / ((state["v"] / (1 - 0.999**t)).sqrt() + 1e-8)


def lion_direction(state: dict[str, Tensor], g: Tensor, t: int) -> Tensor:
    m = state.get("m", torch.zeros_like(g))
    state["m"] = 0.99 * m + 0.01 * g
    return (0.9 * m + 0.1 * g).sign()


def masked(direction: Tensor, g: Tensor) -> Tensor:
    return torch.where(direction * g > 0, direction, 0.0)


def limited(direction: Tensor, g: Tensor) -> Tensor:
    return direction / max(1.0, float(direction.square().mean().sqrt()) / 0.5)


INNER = {rules.Adam(): adam_direction, rules.Lion(): lion_direction}
OUTER = {SignMasked: masked, RMSLimited: limited}


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=str)
@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("inner", INNER, ids=str)
def test_a_transform_acts_on_the_direction(inner, outer, shape):
    p = nn.Parameter(draw(99, shape))
    expected, state = p.detach().clone(), {}
    optimizer = metrize.Optimizer([p], outer(rule=inner), lr=0.01, weight_decay=0.1)
    for t in range(1, 6):
        p.grad = draw(t, shape)
        optimizer.step()
        direction = OUTER[outer](INNER[inner](state, p.grad, t), p.grad)
        expected = (1 - 0.01 * 0.1) * expected - 0.01 * direction
        torch.testing.assert_close(p.detach(), expected, rtol=1e-11, atol=1e-12)
    assert type(optimizer.buckets[0]) is (Piecewise if outer is SignMasked else Stacked)


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=str)
def test_what_is_prepared_is_what_the_rule_sees(shape):
    ends = []
    for rule, seen in ((GradientClamped(rule=rules.Lion()), lambda g: g), (rules.Lion(), lambda g: g.clamp(-0.3, 0.3))):
        p = nn.Parameter(draw(99, shape))
        optimizer = metrize.Optimizer([p], rule, lr=0.01)
        for t in range(3):
            p.grad = seen(draw(t, shape))
            optimizer.step()
        ends.append(p.detach())
    assert torch.equal(*ends)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_around_nothing_every_rule_takes_its_own_steps(rule):
    """By the same executor, from the same state."""
    ends, kinds, states = [], [], []
    for each in (rule, AroundNothing(rule=rule)):
        p = nn.Parameter(draw(99, SMALL).float())
        optimizer = metrize.Optimizer([p], Recipe(rule=each), lr=0.01, weight_decay=0.1)
        for t in range(3):
            p.grad = draw(t, SMALL).float()
            optimizer.step()
        ends.append(p.detach())
        kinds.append(type(optimizer.buckets[0]))
        states.append({key: value.shape for key, value in optimizer.state[p].items()})
    assert torch.equal(*ends)
    assert states[0] == states[1]
    whole = kinds == [Piecewise, Stacked]  # which is allowed: nothing says that it works by entry
    assert whole or kinds[0] is kinds[1]


def test_every_hook_of_a_rule_is_forwarded():
    """So that a hook that rules are given later is forwarded too."""
    hooks = {name for name in vars(rules.Rule) if not name.startswith("_")} - {"contracts", "known"}
    assert hooks <= set(vars(Around))


@pytest.mark.parametrize("rule", [*RULES, *OPTIONS["rule"]], ids=str)
def test_hooks_answer_as_those_of_the_rule_inside(rule):
    outer, hyper, shape = AroundNothing(rule=rule), rule.hyper(), torch.Size(SMALL)
    step = torch.tensor([3.0], dtype=torch.float64)

    def answers(each: rules.Rule) -> list[Any]:
        return [
            each.hyper(),
            each.variant(hyper),
            each.averages(hyper),
            each.averages_of(shape, hyper),
            each.averages_of(shape[:1], hyper),
            each.small_spec(shape, (), torch.float32, hyper),
            each.revisits(hyper),
            each.gain(step, hyper),
            each.in_norm(),
            each.norm_of_steps,
            each.flat_only,
            each.optional,
            each.has_prior,
            each.kernel("decoupled", hyper) is None,
        ]

    assert answers(outer) == answers(rule)


def test_the_kernel_of_the_rule_inside_is_used_only_where_nothing_is_changed():
    def executor(rule):
        optimizer = metrize.Optimizer([nn.Parameter(torch.ones(4))], rule)
        optimizer.init_state()
        return type(optimizer.buckets[0])

    assert executor(AroundNothing()) is Fused
    assert executor(SignMasked()) is Piecewise
    assert executor(SlowFiltered()) is Piecewise


def test_a_subclass_that_overrides_the_transform_speaks_for_itself():
    numbers = SignMasked().hyper()
    assert SignMasked().elementwise(numbers)
    assert SignMasked().passes(numbers)
    assert not NormMasked().elementwise(numbers)
    assert not NormMasked().passes(numbers)
    assert not SignMasked(rule=rules.Adam("scalar")).elementwise(numbers)


PARTS = [
    *(cls(rule=rule) for cls in (SignMasked, RMSLimited) for rule in (rules.Adam(), rules.Whitened(), rules.Lion())),
    SlowFiltered(),
    NormMasked(),
    GradientClamped(rule=rules.Momentum()),
    SignMasked(rule=RMSLimited(rule=GradientClamped())),
    SlowFiltered(rule=rules.HFac()),
]
MORE = [cls(rule=rule) for cls in (SignMasked, RMSLimited, SlowFiltered, GradientClamped) for rule in RULES]


@pytest.mark.parametrize("rule", PARTS, ids=str)
def test_it_keeps_the_promises_of_a_part(rule):
    check(rule)


@pytest.mark.slow
@pytest.mark.parametrize("rule", MORE, ids=str)
def test_around_every_rule_it_keeps_them(rule):
    check(rule)


def test_natural_decay_reaches_the_rule_inside():
    ends = []
    for rule in (rules.FAdam(), AroundNothing(rule=rules.FAdam())):
        p = nn.Parameter(draw(99, SMALL))
        optimizer = metrize.Optimizer([p], Recipe(rule=rule, decay="natural"), lr=0.01, weight_decay=0.5)
        p.grad = draw(0, SMALL)
        optimizer.step()
        ends.append(p.detach())
    assert torch.equal(*ends)
    with pytest.raises(ValueError, match="which has no natural gradient"):
        metrize.Optimizer([nn.Parameter(torch.ones(2))], Recipe(rule=AroundNothing(), decay="natural"))


def test_a_norm_of_the_group_reaches_the_rule_inside():
    p = nn.Parameter(torch.ones(4, 3))
    group = {"params": [p], "norm": norms.RowNorm()}
    optimizer = metrize.Optimizer([group], SignMasked(rule=rules.Lion()))
    assert optimizer.recipes() == [Recipe(rule=SignMasked(rule=rules.Lion(norms.RowNorm())))]
    with pytest.raises(TypeError, match="has its own"):
        metrize.Optimizer([{"params": [p], "norm": norms.RowNorm()}], SignMasked())


def test_a_rule_for_vector_spaces_stays_one():
    assert SignMasked(rule=rules.Shampoo()).flat_only
    assert not SignMasked().flat_only
    assert SignMasked(rule=rules.Whitened(floor="clamped")).optional == ("clip", "eps")
    with pytest.raises(metrize.SpaceError, match="vector space"):
        Recipe(rule=SignMasked(rule=rules.Shampoo())).check(metrize.Stiefel(), torch.Size(SMALL))


def test_a_run_does_not_go_on_with_another_rule_inside():
    p = nn.Parameter(torch.ones(4, 3))

    def build(rule):
        return metrize.Optimizer([("w", p)], SignMasked(rule=rule))

    optimizer = build(rules.Whitened())
    p.grad = torch.ones(4, 3)
    optimizer.step()
    saved = optimizer.state_dict()
    with pytest.warns(UserWarning, match=r"rule\.rule\.floor 'added' -> 'clamped'"):
        build(rules.Whitened(floor="clamped")).load_state_dict(saved)
    with pytest.raises(ValueError, match="second_moment"):
        build(rules.Whitened(second_moment="sum")).load_state_dict(saved)


def test_the_base_is_no_rule():
    with pytest.raises(TypeError, match="Around"):
        Around()
