"""Trajectories on positive definite matrices of an independent float64 oracle, and tables of 50-digit arithmetic."""

import pytest
import torch
from oracle import load, matrix

import metrize
from metrize import SPD, rules

CASES = load("spd")["cases"]
TABLES = [case for case in load("more_geometry")["cases"] if case["space"] == "spd"]


def space_of(case):
    if case["metric"] == "log-cholesky":
        return SPD(metric="log-cholesky")
    return SPD(section=case["section"], retraction=case["retraction"])


def optimizer_of(case, y, space):
    hyper = case["hyper"]
    if case["optimizer"] in ("gd", "momentum"):
        return metrize.SGD([y], lr=hyper["eta"], momentum=hyper.get("alpha", 0.0), space=space)
    recipe = metrize.Recipe(space, rule=rules.Adam("scalar" if case["optimizer"] == "adam-scalar" else "elementwise"))
    betas = (hyper["rho1"], hyper["rho2"])
    return metrize.Optimizer([y], recipe, lr=hyper["eta"], betas=betas, eps=hyper["delta"], weight_decay=0.0)


def gradient(case, y):
    c = matrix(case["data"]["C"])
    if case["objective"] == "linear":
        return c
    inverse = torch.linalg.inv(y)
    return inverse - inverse @ c @ inverse


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_trajectory(case):
    space = space_of(case)
    y = torch.nn.Parameter(matrix(case["Y0"]))
    optimizer = optimizer_of(case, y, space)
    records, seen = {record["step"]: record for record in case["steps"]}, 0
    for step in range(1, max(records) + 1):
        y.grad = gradient(case, y.detach())
        optimizer.step()
        if step in records:
            torch.testing.assert_close(y.detach(), matrix(records[step]["Y"]), rtol=1e-10, atol=1e-10)
            seen += 1
    assert seen == 3


@pytest.mark.parametrize("case", TABLES, ids=lambda case: str(case["cond"]))
def test_tables_of_fifty_digits(case):
    p, z, v, log = (matrix(case[key]) for key in ("P", "Z", "vector", "log"))
    space, flat = SPD(), SPD(metric="log-cholesky")
    bound = 1e-13 if case["cond"] < 1e4 else 1e-7
    torch.testing.assert_close(space.dist(p, z).item(), case["dist"], rtol=bound, atol=0)
    torch.testing.assert_close(flat.dist(p, z).item(), case["log_cholesky_dist"], rtol=bound, atol=0)
    torch.testing.assert_close(space.inner(p, v, log).item(), case["inner"], rtol=bound, atol=0)
    for found, expected in (
        (space.log(p, z), log),
        (space.exp(p, log), z),
        (space.transport(p, z, v), matrix(case["transport"])),
    ):
        assert (found - expected).norm() <= bound * expected.norm()
