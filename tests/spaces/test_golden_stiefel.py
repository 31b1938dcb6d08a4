"""Trajectories of an independent dense float64 oracle: every case, steps 1, 2 and 5."""

import pytest
import torch
from oracle import TOLERANCE, load, matrix, name_of, run

import metrize
from metrize.spaces.retractions import cayley, geodesic
from metrize.spaces.sections import ClosedForm, dense_complement

STIEFEL = load("stiefel_steps")["cases"]


@pytest.mark.parametrize("case", STIEFEL, ids=name_of)
def test_trajectory_with_the_given_section(case):
    seen = 0
    for record, y, state, group in run(case):
        torch.testing.assert_close(y, matrix(record["Y"]), **TOLERANCE)
        if "section" in state:
            torch.testing.assert_close(state["section"], matrix(record["Yperp"]), **TOLERANCE)
        if case["optimizer"] == "adam":
            n, (beta1, beta2), t = case["n"], group["betas"], record["step"]
            first, second = state["exp_avg"] / (1 - beta1**t), state["exp_avg_sq"] / (1 - beta2**t)
            torch.testing.assert_close(first[:n], matrix(record["m1_A"]), **TOLERANCE)
            torch.testing.assert_close(second[:n], matrix(record["m2_A_symmetric_storage"]), **TOLERANCE)
            if case["N"] > n:
                torch.testing.assert_close(first[n:], matrix(record["m1_B"]), **TOLERANCE)
                torch.testing.assert_close(second[n:], matrix(record["m2_B"]), **TOLERANCE)
        seen += 1
    assert seen == 3


@pytest.mark.parametrize("case", [c for c in STIEFEL if c["optimizer"] == "gd"], ids=name_of)
@pytest.mark.parametrize("section", ["closed-form", "redrawn"])
def test_gradient_descent_does_not_depend_on_the_section(case, section):
    for record, y, _, _ in run(case, section):
        torch.testing.assert_close(y, matrix(record["Y"]), **TOLERANCE)


def test_transported_momentum_does_not_depend_on_the_start_of_the_section():
    turn = matrix(load("gauge")["H"])
    case = next(c for c in STIEFEL if c["optimizer"] == "momentum" and (c["N"], c["n"]) == (6, 3))
    for record, y, _, _ in run(case, complement=matrix(case["Yperp0"]) @ turn):
        torch.testing.assert_close(y, matrix(record["Y"]), **TOLERANCE)


def test_elementwise_adam_does_depend_on_it_and_only_in_the_lower_block():
    gauge = load("gauge")
    recorded = next(c for c in gauge["cases"] if (c["manifold"], c["optimizer"]) == ("stiefel", "adam"))
    case = next(c for c in STIEFEL if c["optimizer"] == "adam" and (c["N"], c["n"]) == (6, 3))
    turned = run(case, complement=matrix(case["Yperp0"]) @ matrix(gauge["H"]))
    (_, y, state, _), (_, z, turned_state, _) = next(run(case)), next(turned)
    assert recorded["dY_step1"] > 0.1  # the oracle saw it too
    assert (y - z).norm() > 1e-4
    torch.testing.assert_close(state["exp_avg"][:3], turned_state["exp_avg"][:3], **TOLERANCE)
    torch.testing.assert_close(state["exp_avg"].norm(), turned_state["exp_avg"].norm(), **TOLERANCE)


@pytest.mark.parametrize("case", load("vector_space_steps")["steps"], ids=lambda record: f"step {record['step']}")
def test_vector_space_is_plain_adam(case):
    data = load("vector_space_steps")
    hyper, target = data["hyper"], matrix(data["T"])
    x = torch.nn.Parameter(matrix(data["X0"]))
    betas = (hyper["beta1"], hyper["beta2"])
    optimizer = metrize.Adam([x], lr=hyper["eta"], betas=betas, eps=hyper["delta"])
    for _ in range(case["step"]):
        x.grad = x.detach() - target
        optimizer.step()
    torch.testing.assert_close(x.detach(), matrix(case["X"]), **TOLERANCE)
    averages, t = optimizer.state[x], case["step"]
    torch.testing.assert_close(averages["exp_avg"] / (1 - betas[0] ** t), matrix(case["m1"]), **TOLERANCE)
    torch.testing.assert_close(averages["exp_avg_sq"] / (1 - betas[1] ** t), matrix(case["m2"]), **TOLERANCE)


@pytest.mark.parametrize("case", load("retractions")["cases"], ids=lambda case: f"norm {case['frob']:.0f}")
def test_retractions_at_every_norm(case):
    n, size = case["n"], case["N"]
    frame = torch.eye(size, dtype=torch.float64)
    y, complement = frame[:, :n], frame[:, n:]
    a, b = matrix(case["A"]), matrix(case["B"]).reshape(size - n, n) if size > n else None
    pushed = None if b is None else complement @ b
    for retract, name in ((geodesic, "exp"), (cayley, "cayley")):
        increment, drag = retract(y, pushed, a, b)
        expected = matrix(case[name])
        torch.testing.assert_close(y + increment, expected[:, :n], **TOLERANCE)
        if b is not None:
            torch.testing.assert_close(complement - drag() @ b.mT, expected[:, n:], **TOLERANCE)


@pytest.mark.parametrize("case", [c for c in load("geometry")["cases"] if c["manifold"] == "stiefel"])
def test_lift_and_metric(case):
    y, g, complement = matrix(case["Y"]), matrix(case["G"]), matrix(case["Yperp"])
    space = metrize.Stiefel(rows=False, section="transported")
    state = {"section": complement.unsqueeze(0)}
    section = space.section_at(y.unsqueeze(0), state)
    lift = space.lift(y.unsqueeze(0), g.unsqueeze(0), section)
    n = y.shape[1]
    torch.testing.assert_close(lift[0, :n], matrix(case["lift_A"]), **TOLERANCE)
    torch.testing.assert_close(lift[0, n:], matrix(case["lift_B"]), **TOLERANCE)
    torch.testing.assert_close(space.sq_norm(lift)[0].item(), case["metric_11"], **TOLERANCE)


@pytest.mark.parametrize("name", ["stiefel_rgrad"])
def test_the_references_own_numbers(name):
    case = load("reference_doctests")[name]
    y, g = matrix(case["Y"]), matrix(case["G"])
    tangent = g - y @ g.mT @ y
    torch.testing.assert_close(tangent, matrix(case["out"]), **TOLERANCE)
    section = ClosedForm.at(y, y.new_ones(y.shape[-1]))
    lift_a, lift_b = y.mT @ g - g.mT @ y, section.pull(g)
    torch.testing.assert_close(y @ lift_a + dense_complement(y) @ lift_b, tangent, **TOLERANCE)
