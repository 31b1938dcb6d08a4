"""Grassmann trajectories of an independent dense float64 oracle: every case, steps 1, 2 and 5."""

import pytest
import torch
from oracle import TOLERANCE, load, matrix, name_of, run

import metrize

GRASSMANN = load("grassmann_steps")["cases"]


def projector(y):
    return y @ y.mT


@pytest.mark.parametrize("case", GRASSMANN, ids=name_of)
def test_trajectory_with_the_given_section(case):
    n, seen = case["n"], 0
    for record, y, state, group in run(case):
        torch.testing.assert_close(y, matrix(record["Y"]), **TOLERANCE)
        torch.testing.assert_close(projector(y), projector(matrix(record["Y"])), **TOLERANCE)
        torch.testing.assert_close(state["section"], matrix(record["Yperp"]), **TOLERANCE)
        if case["optimizer"] == "adam":
            (beta1, beta2), t = group["betas"], record["step"]
            first, second = state["exp_avg"] / (1 - beta1**t), state["exp_avg_sq"] / (1 - beta2**t)
            torch.testing.assert_close(first[n:], matrix(record["m1_B"]), **TOLERANCE)
            torch.testing.assert_close(second[n:], matrix(record["m2_B"]), **TOLERANCE)
            assert not first[:n].any()  # there is no A
        seen += 1
    assert seen == 3


@pytest.mark.parametrize("section", ["closed-form", "redrawn"])
@pytest.mark.parametrize("case", [c for c in GRASSMANN if c["optimizer"] == "gd"], ids=name_of)
def test_gradient_descent_does_not_depend_on_the_section(case, section):
    for record, y, _, _ in run(case, section):
        torch.testing.assert_close(projector(y), projector(matrix(record["Y"])), **TOLERANCE)


@pytest.mark.parametrize("case", [c for c in GRASSMANN if (c["N"], c["n"]) == (6, 3)], ids=name_of)
def test_only_elementwise_adam_depends_on_the_start_of_the_section(case):
    gauge = load("gauge")
    turned = run(case, complement=matrix(case["Yperp0"]) @ matrix(gauge["H"]))
    recorded = [c for c in gauge["cases"] if (c["manifold"], c["optimizer"]) == ("grassmann", case["optimizer"])]
    for (record, y, _, _), (_, z, _, _) in zip(run(case), turned, strict=True):
        gap = (projector(y) - projector(z)).norm()
        assert gap > case["hyper"]["eta"] if case["optimizer"] == "adam" else gap < 1e-13, record["step"]
    assert all((c["dY_step5"] > 0.1) == (case["optimizer"] == "adam") for c in recorded)


@pytest.mark.parametrize("retraction", ["cayley", "geodesic"])
def test_the_trajectory_of_the_subspace_does_not_depend_on_its_basis(retraction):
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    case = next(c for c in GRASSMANN if (c["optimizer"], c["n"]) == ("gd", 3)) | {"retraction": retraction}
    other = case | {"Y0": (matrix(case["Y0"]) @ turn).tolist()}
    for (_, y, _, _), (_, z, _, _) in zip(run(case, "closed-form"), run(other, "closed-form"), strict=True):
        torch.testing.assert_close(projector(y), projector(z), **TOLERANCE)
        assert (y - z).norm() > 0.1


@pytest.mark.parametrize("case", [c for c in load("geometry")["cases"] if c["manifold"] == "grassmann"])
def test_lift_and_metric(case):
    y, g, complement = matrix(case["Y"]), matrix(case["G"]), matrix(case["Yperp"])
    space = metrize.Grassmann(rows=False, section="transported")
    section = space.section_at(y.unsqueeze(0), {"section": complement.unsqueeze(0)})
    lift = space.lift(y.unsqueeze(0), g.unsqueeze(0), section)
    other = space.lift(y.unsqueeze(0), matrix(case["G2"]).unsqueeze(0), section)
    n = y.shape[1]
    torch.testing.assert_close(lift[0, :n], matrix(case["lift_A"]), **TOLERANCE)
    torch.testing.assert_close(lift[0, n:], matrix(case["lift_B"]), **TOLERANCE)
    torch.testing.assert_close(y @ lift[0, :n] + complement @ lift[0, n:], matrix(case["rgrad"]), **TOLERANCE)
    torch.testing.assert_close(space.sq_norm(lift)[0].item(), case["metric_11"], **TOLERANCE)
    inner = (space.sq_norm(lift + other) - space.sq_norm(lift - other)) / 4
    torch.testing.assert_close(inner[0].item(), case["metric_12"], **TOLERANCE)


@pytest.mark.parametrize("section", ["closed-form", "transported"])
def test_the_references_own_numbers(section):
    case = load("reference_doctests")["grassmann_rgrad"]
    y, g = matrix(case["Y"]), matrix(case["G"])
    p = torch.nn.Parameter(y.clone())
    optimizer = metrize.SGD([p], lr=1.0, space=metrize.Grassmann(section=section))
    optimizer.init_state()
    state = {key: value.unsqueeze(0) for key, value in optimizer.state[p].items()}
    space = metrize.Grassmann(section=section)
    at = space.section_at(y.unsqueeze(0), state)
    lift = space.lift(y.unsqueeze(0), g.unsqueeze(0), at)
    torch.testing.assert_close(at.push(lift[..., 2:, :])[0], matrix(case["out"]), **TOLERANCE)
