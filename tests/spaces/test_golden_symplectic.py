"""One step on the symplectic Stiefel manifold, by an independent dense float64 oracle."""

import pytest
import torch
from oracle import TOLERANCE, load, matrix

import metrize
from metrize.linalg.symplectic import adjoint, from_quarters, quarters
from metrize.spaces.symplectic_full import gradient

CASES = load("symplectic")["cases"]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['two_N']}x{case['two_n']}")
SPACE = metrize.SymplecticStiefel(form="full", coordinates="lift", max_step=1.4, max_condition=1e6, polish_every=0)


def lift_of(case):
    u, complement = matrix(case["U"]).unsqueeze(0), matrix(case["Ucomp"]).unsqueeze(0)
    section = SPACE.section_at(u, {"section": complement, "step": torch.ones(1)})
    return SPACE.lift(u, matrix(case["G"]).unsqueeze(0), section)[0]


def in_the_group(case, a, b):
    """``L [[a, -b^+], [b, 0]] L^-1`` as a dense matrix, the columns of L ordered positions before momenta."""
    (u, up), n, rest = (matrix(case[key]) for key in ("U", "Ucomp")), case["two_n"] // 2, b.shape[0] // 2
    section = torch.cat([u[:, :n], up[:, :rest], u[:, n:], up[:, rest:]], -1)
    inside, across, below = (quarters(part) for part in (a, -adjoint(b), b))
    nothing = torch.zeros(rest, rest, dtype=a.dtype)
    blocks = [from_quarters(inside[i], across[i], below[i], nothing) for i in range(4)]
    return section @ from_quarters(*blocks) @ adjoint(section)


@every_case
def test_the_gradient_and_its_coordinates(case):
    torch.testing.assert_close(gradient(matrix(case["U"]), matrix(case["G"])), matrix(case["rgrad"]), **TOLERANCE)
    a, b = lift_of(case).tensor_split([case["two_n"]])
    torch.testing.assert_close(a, matrix(case["coord_a"]), **TOLERANCE)
    torch.testing.assert_close(b, matrix(case["coord_b"]), **TOLERANCE)


@every_case
def test_the_lift_and_the_exponential_of_the_group(case):
    dense = in_the_group(case, *lift_of(case).tensor_split([case["two_n"]]))
    torch.testing.assert_close(dense, matrix(case["pseudo_lift"]), **TOLERANCE)
    end = torch.matrix_exp(case["eta"] * dense) @ matrix(case["U"])
    torch.testing.assert_close(end, matrix(case["U_group_exp"]), **TOLERANCE)


@every_case
def test_a_step_of_gradient_descent_takes_the_section_along(case):
    u = torch.nn.Parameter(matrix(case["U"]))
    optimizer = metrize.SGD([u], lr=-case["eta"], space=SPACE)
    optimizer.init_state()
    optimizer.state[u]["section"].copy_(matrix(case["Ucomp"]))
    u.grad = matrix(case["G"])
    optimizer.step()
    torch.testing.assert_close(u.detach(), matrix(case["U_cayley"]), **TOLERANCE)
    torch.testing.assert_close(optimizer.state[u]["section"], matrix(case["Ucomp_cayley"]), **TOLERANCE)
