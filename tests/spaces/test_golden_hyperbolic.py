"""Trajectories in hyperbolic space of an independent dense float64 oracle, and tables of 50-digit arithmetic."""

import pytest
import torch
from oracle import load, matrix

import metrize
from metrize import Lorentz, PoincareBall, rules

MODELS = {"lorentz": Lorentz, "poincare": PoincareBall}
CASES = [(name, case) for name in MODELS for case in load(name)["cases"]]
TABLES = [case for case in load("more_geometry")["cases"] if case["space"] == "hyperbolic"]


def tolerance(case):
    return {"rtol": 1e-8, "atol": 1e-8} if "far" in case["id"] else {"rtol": 1e-10, "atol": 1e-10}


def optimizer_of(case, y, space):
    hyper = case["hyper"]
    if case["optimizer"] in ("gd", "momentum"):
        return metrize.SGD([y], lr=hyper["eta"], momentum=hyper.get("alpha", 0.0), space=space)
    second = "scalar" if case["optimizer"] == "adam-scalar" else "elementwise"
    recipe = metrize.Recipe(space=space, rule=rules.Adam(second))
    return metrize.Optimizer(
        [y], recipe, lr=hyper["eta"], betas=(hyper["rho1"], hyper["rho2"]), eps=hyper["delta"], weight_decay=0.0
    )


def loss_of(case, y, space):
    data = {key: matrix(value) for key, value in case["data"].items()}
    if case["objective"] == "linear":
        return (data["C"] * y).sum()
    return space.dist(y, data["Z"]).square().sum() / 2


def begin(space, y, optimizer, case):
    """Give a transported section its start: what is left of the group element behind the boost."""
    optimizer.init_state()
    if "section" in optimizer.state[y]:
        n = optimizer.state[y]["section"].shape[-1]
        start = matrix(case["section0"])
        u = start[:, 0]
        boost = torch.eye(n + 1, dtype=torch.float64)
        boost[:, 0] = u
        boost[0] = u
        boost[1:, 1:] += torch.outer(u[1:], u[1:]) / (1 + u[0])
        optimizer.state[y]["section"].copy_(torch.linalg.solve(boost, start)[1:, 1:])


@pytest.mark.parametrize(("model", "case"), CASES, ids=lambda value: value if isinstance(value, str) else value["id"])
def test_trajectory(model, case):
    space = MODELS[model](curvature=case["curvature"], section=case["section"])
    y = torch.nn.Parameter(matrix(case["Y0"]))
    optimizer = optimizer_of(case, y, space)
    begin(space, y, optimizer, case)
    records, seen = {record["step"]: record for record in case["steps"]}, 0
    for step in range(1, max(records) + 1):
        optimizer.zero_grad()
        loss_of(case, y, space).backward()
        optimizer.step()
        if step in records:
            torch.testing.assert_close(y.detach(), matrix(records[step]["Y"]), **tolerance(case))
            loss = loss_of(case, y.detach(), space).item()
            torch.testing.assert_close(loss, records[step]["f"], rtol=1e-8, atol=1e-10)
            seen += 1
    assert seen == 3


@pytest.mark.parametrize("case", TABLES, ids=lambda case: f"{case['radius']}-{case['dist']}")
@pytest.mark.parametrize("model", MODELS)
def test_tables_of_fifty_digits(case, model):
    """Bounds beside the rounding of the points themselves, which the radius multiplies."""
    space = MODELS[model](curvature=case["curvature"])
    told = case["lorentz" if model == "lorentz" else "ball"]
    y, z, v, log = (matrix(told["x" if key == "y" and "x" in told else key]) for key in ("y", "z", "vector", "log"))
    y, z = (space.project_(p.clone()) for p in (y, z))
    far = case["radius"] > 3
    if model == "lorentz":
        torch.testing.assert_close(space.dist(y, z).item(), case["dist_rounded_points"], rtol=4e-15, atol=0)
    loose = {"rtol": 1e-8 if far else 1e-14, "atol": 0}
    torch.testing.assert_close(space.dist(y, z).item(), case["dist"], **loose)
    bound = 1e-8 if far else 1e-14
    for found, expected in (
        (space.log(y, z), log),
        (space.exp(y, log), z),
        (space.transport(y, z, v), matrix(told["transport"])),
    ):
        assert (found - expected).norm() <= bound * expected.norm()
    torch.testing.assert_close(space.inner(y, v, log).item(), case["lorentz"]["inner"], rtol=1e-9, atol=1e-14)


def test_both_models_are_the_same_points():
    """With one loss, all rules and both sections: another way to write the same trajectory."""
    for section in ("closed-form", "transported"):
        for rule in (rules.Adam(), rules.Adam("scalar"), rules.Momentum()):
            ends = []
            for kind, extra in ((Lorentz, 1), (PoincareBall, 0)):
                space = kind(curvature=-0.5, section=section)
                start, goal = (drawn(space, seed, extra) for seed in (0, 1))
                p = torch.nn.Parameter(start)
                optimizer = metrize.Optimizer([p], metrize.Recipe(space=space, rule=rule), lr=0.05)
                for _ in range(20):
                    optimizer.zero_grad()
                    space.dist(p, goal).square().sum().backward()
                    optimizer.step()
                ends.append(p.detach())
            torch.testing.assert_close(in_ball(ends[0], -0.5), ends[1], rtol=1e-12, atol=1e-12)


def drawn(space, seed, extra):
    """The same point of both models: coordinates at the origin come from one generator."""
    coords = torch.randn(7, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    origin = space.random_(torch.empty(7, 3 + extra, dtype=torch.float64), torch.Generator(), scale=0.0)
    vector = torch.cat([torch.zeros(7, 1, dtype=torch.float64), coords], -1) if extra else coords / 2
    return space.exp(origin, vector)


def in_ball(y, curvature):
    r = (-curvature) ** -0.5
    return y[:, 1:] / (1 + y[:, :1] / r)
