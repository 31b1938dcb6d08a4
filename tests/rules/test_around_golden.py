"""Rules around rules follow their reference trajectories, and go around whatever the catalogue has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.rules.trajectories import agrees, cases, run
from torch import Tensor, nn

import metrize
from metrize import Recipe, norms, rules
from metrize.testing import check

RESCALE = {"1/max(mean(mask),1e-3)": "mean", "n/(sum(mask)+1)": "paper", "none": "none"}
PARTS = [
    rules.Cautious(),
    rules.Cautious(rescale="paper"),
    rules.Cautious(rescale="none"),
    rules.Cautious(mask="signbit"),
    rules.Cautious(mask="sign"),
    rules.Mars(),
    rules.Mars(first="itself"),
    rules.Centralized(),
    rules.GradientLimited(),
    rules.UpdateLimited(),
]


def numbers_of(case: dict[str, Any], *keys: str) -> dict[str, Any]:
    told = {key: case["hyperparameters"][key] for key in keys if key in case["hyperparameters"]}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}


@pytest.mark.parametrize("case", cases("cautious"), ids=lambda c: c["name"])
def test_cautious(case):
    told = case["hyperparameters"]["rescale"]
    part = rules.Cautious(rescale=RESCALE[told]) if told in RESCALE else rules.Cautious(mask="signbit")
    cls = metrize.Lion if case["name"].startswith("lion") else metrize.AdamW
    numbers = numbers_of(case, "lr", "betas", "eps", "weight_decay")
    for t, seen, _ in run(case, lambda p: cls(p.items(), around=part, **numbers)):
        agrees(seen, case["params_after"][t], case.get("tolerance_abs", 1e-12))


@pytest.mark.parametrize("case", cases("grams"), ids=lambda c: c["name"])
def test_grams(case):
    numbers = numbers_of(case, "lr", "betas", "eps", "weight_decay")
    for t, seen, _ in run(case, lambda p: metrize.Grams(p.items(), **numbers)):
        agrees(seen, case["params_after"][t], 1e-12)


@pytest.mark.parametrize("case", cases("mars"), ids=lambda c: c["name"])
def test_mars(case):
    numbers = numbers_of(case, "lr", "weight_decay", "gamma")
    betas = tuple(case["hyperparameters"]["betas"])
    if "lion" in case["name"]:
        numbers |= {"momentum": betas[0]}
        recipe = Recipe(rule=rules.Mars(rules.Steepest()))
    else:
        numbers |= {"betas": betas, "eps": case["hyperparameters"]["eps"]}
        first = "itself" if case["name"].startswith("timm") else "zero"
        recipe = Recipe(rule=rules.Mars(rules.Adam(), first=first))
    apart = () if case["hyperparameters"]["optimize_1d"] else ("vec",)  # which AdamW trains there
    for t, seen, _ in run(case, lambda p: metrize.Optimizer(p.items(), recipe, **numbers)):
        agrees({name: p for name, p in seen.items() if name not in apart}, case["params_after"][t], 1e-12)


def test_the_named_optimizer_is_its_part():
    (case,) = (case for case in cases("mars") if case["name"] == "mars-adamw_1")
    for t, seen, _ in run(case, lambda p: metrize.MARS(p.items(), **numbers_of(case, "lr", "betas", "gamma"))):
        agrees(seen, case["params_after"][t], 1e-12)


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_a_part_keeps_its_promises(part):
    check(part)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(6, 8)
        self.hidden = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.hidden(self.emb(x))))


@pytest.mark.parametrize("name", metrize.catalogue())
def test_a_part_goes_around_every_named_optimizer(name):
    """Around the rule of every group, once, and the run goes on from its checkpoint bit for bit."""
    part = rules.Cautious(rule=rules.UpdateLimited())
    cls = metrize.catalogue()[name]
    torch.manual_seed(0)
    model = Net()
    plain, optimizer = cls(model), cls(model, around=part)
    for before, after in zip(plain.recipes(), optimizer.recipes(), strict=True):
        assert after == before.replace(rule=part.replace(rule=rules.UpdateLimited(rule=before.rule)))
    again = cls(model, around=part)
    x = torch.tensor([0, 1, 5])

    def step(taken: metrize.Optimizer) -> None:
        model.zero_grad()
        model(x).square().sum().backward()
        taken.step()

    step(optimizer)
    again.load_state_dict(optimizer.state_dict())
    assert again.recipes() == optimizer.recipes()
    start = {key: value.clone() for key, value in model.state_dict().items()}
    ends = []
    for taken in (optimizer, again):
        model.load_state_dict(start)
        step(taken)
        ends.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
    assert ends[0].isfinite().all()
    assert torch.equal(*ends)
    assert not torch.equal(ends[0], nn.utils.parameters_to_vector(v for v in start.values()))


def test_a_group_has_a_part_of_its_own():
    a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    groups = [{"params": [a]}, {"params": [b], "around": "Mars()", "gamma": 0.1}]
    optimizer = metrize.AdamW(groups, around=rules.Cautious())
    assert optimizer.recipes()[0].rule == rules.Cautious(rules.Adam())
    assert optimizer.recipes()[1].rule == rules.Mars(rules.Adam())
    assert optimizer.param_groups[1]["gamma"] == 0.1


def test_a_mask_comes_before_the_orthogonalization():
    """The step of Muon is still a polar factor, of the momentum where it has the sign of the gradient."""
    generator = torch.Generator().manual_seed(3)
    weight = nn.Parameter(torch.zeros(6, 4, dtype=torch.float64))
    optimizer = metrize.Muon(
        [weight], lr=1.0, momentum=0.9, nesterov=False, scale="unit", accuracy="exact", around=rules.Cautious()
    )
    momentum = torch.zeros_like(weight)
    for _ in range(4):
        before = weight.detach().clone()
        weight.grad = torch.randn(6, 4, generator=generator, dtype=torch.float64)
        momentum = 0.9 * momentum + 0.1 * weight.grad
        optimizer.step()
        u, _, vh = torch.linalg.svd(momentum * (momentum * weight.grad > 0), full_matrices=False)
        torch.testing.assert_close(before - weight.detach(), u @ vh, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("rescale", "scale"),
    [
        ("mean", lambda kept: kept.numel() / kept.sum()),
        ("paper", lambda kept: kept.numel() / (kept.sum() + 1)),
        ("none", lambda kept: 1.0),
    ],
)
def test_a_mask_is_counted_over_the_whole_of_a_large_tensor(rescale, scale):
    """One that a step without a mask goes through in pieces."""
    generator = torch.Generator().manual_seed(4)
    weight = nn.Parameter(torch.zeros(700, 400))
    optimizer = metrize.Lion([weight], lr=1.0, around=rules.Cautious(rescale=rescale))
    exp_avg = torch.zeros_like(weight)
    for _ in range(2):
        before, weight.grad = weight.detach().clone(), torch.randn(700, 400, generator=generator)
        direction = (0.9 * exp_avg + 0.1 * weight.grad).sign()
        exp_avg = 0.99 * exp_avg + 0.01 * weight.grad
        optimizer.step()
        kept = direction * weight.grad > 0
        torch.testing.assert_close(before - weight.detach(), direction * kept * scale(kept))


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda p: metrize.AdamW(p, around=rules.Lion()), "goes around another"),
        (lambda p: metrize.AdamW(p, around=rules.Mars(), gamma=-1.0), "gamma=-1.0"),
        (lambda p: metrize.Optimizer(p, rules.Mars(rules.Gradient())), "neither betas nor momentum"),
        (lambda p: metrize.SGD(p, around=rules.UpdateLimited(), update_limit=0.0), "update_limit=0.0"),
        (lambda p: metrize.SGD(p, around=rules.GradientLimited(), grad_limit=-1.0), "grad_limit=-1.0"),
        (lambda p: metrize.Lion(p, around=rules.Cautious(mask="both")), "mask"),
        (lambda p: metrize.AdamW(p, around=rules.Centralized(), space=metrize.Stiefel()), "vector space"),
    ],
)
def test_bad_input_is_refused_by_name(build, told):
    with pytest.raises((TypeError, ValueError), match=told):
        build([nn.Parameter(torch.eye(6, 3))])


def test_the_part_around_is_told_in_the_recipe():
    optimizer = metrize.Optimizer([nn.Parameter(torch.eye(3))], rules.Steepest(norms.Spectral()), around="Cautious")
    (recipe,) = optimizer.recipes()
    assert metrize.parse(repr(recipe)) == recipe
    assert recipe.rule.norm_of_steps == norms.Spectral()
    assert metrize.Lion([nn.Parameter(torch.eye(3))], around="Cautious").recipes()[0].rule.norm_of_steps is None
