"""SOAP against the trajectories of the authors' code, and its variants against an oracle of the paper."""

import json
from pathlib import Path

import pytest
import torch
from soap_oracle import Oracle

from metrize.moments import Factored
from metrize.named.soap import SOAP

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = {case["name"]: case for case in json.loads((GOLDEN / "soap.json").read_text())["cases"]}
VARIANTS = {case["name"]: case for case in json.loads((GOLDEN / "soap_variants_oracle.json").read_text())["cases"]}
TOLERANCE = {"float64": 1e-12, "float32": 5e-6}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tensor(values, case):
    return torch.tensor(values, dtype=getattr(torch, case["dtype"]))


def steps(case, **options):
    """The optimizer after each step of a case."""
    p = torch.nn.Parameter(tensor(case["initial_params"], case))
    optimizer = SOAP([p], faithful=True, **options)
    for grad, step in zip(case["grads"], case["steps"], strict=True):
        p.grad = tensor(grad, case)
        optimizer.step()
        yield p, optimizer.state[p], step


def expect(actual, expected, case):
    atol = TOLERANCE[case["dtype"]]
    torch.testing.assert_close(actual, tensor(expected, case), rtol=0, atol=atol)


@pytest.mark.parametrize("name", CASES)
def test_faithful_steps_are_those_of_the_authors_code(name):
    case = CASES[name]
    for at, (p, state, step) in enumerate(steps(case, **case["hyperparameters"])):
        if at == 0 and not case["eigenbasis_unique_up_to_sign"]:  # the null space of the first factor has many bases
            for mode, basis in enumerate(case["Q_after_first_call"]):
                state[f"basis_{mode}"].copy_(tensor(basis, case))
        expect(p.detach(), step["params"], case)
        for mode, factor in enumerate(step["GG"] or []):
            if not factor:
                assert f"factor_{mode}" not in state
                continue
            kept, basis = state[f"factor_{mode}"], state[f"basis_{mode}"]
            expect(kept, factor, case)
            eigenvalues = torch.diagonal(basis.mT @ kept @ basis).sort(descending=True).values
            expect(eigenvalues, sorted(step["est_eig"][mode], reverse=True), case)


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_those_of_the_paper(name):
    case = VARIANTS[name]
    hyper = {"weight_decay": 0.01, **case["hyperparameters"]}
    if hyper.pop("factored", False):
        hyper["moments"] = Factored()
    for p, state, step in steps(case, **hyper):
        expect(p.detach(), step["params"], case)
        for mode, factor in enumerate(step["GG"]):
            assert (f"factor_{mode}" in state) == bool(factor)
            if factor:
                expect(state[f"factor_{mode}"], factor, case)


ORACLES = {
    "wide": ((3, 5), (3, 5), (0, 1), {}),
    "every step": ((4, 4), (4, 4), (0, 1), {"precondition_frequency": 1}),
    "normalized": ((4, 3), (4, 3), (0, 1), {"normalize_grads": True, "precondition_frequency": 2}),
    "normalized, uncorrected": ((4, 3), (4, 3), (0, 1), {"normalize_grads": True, "correct_bias": False}),
    "merged": ((4, 3, 2, 2), (12, 4), (0, 1), {"merge_dims": True, "max_precond_dim": 12}),
    # the QR of a factor of low rank has many answers, so that a vector's basis is not renewed here
    "merged to a vector": ((2, 3, 2), (12,), (0,), {"merge_dims": True, "precondition_frequency": 100}),
    "merged, one too long": ((20, 2, 3), (20, 6), (1,), {"merge_dims": True, "max_precond_dim": 12}),
    "middle mode only": ((6, 3, 5), (6, 3, 5), (1,), {"max_precond_dim": 4}),
    "sizes of one": ((1, 4, 1, 3), (1, 4, 1, 3), (1, 3), {}),
    "no basis": ((4, 3), (4, 3), (), {"max_precond_dim": 0}),
}


@pytest.mark.parametrize("name", ORACLES)
def test_faithful_steps_are_those_of_the_paper(name):
    shape, dims, rotated, options = ORACLES[name]
    generator = torch.Generator().manual_seed(3)
    p = torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
    options = {"lr": 0.05, "betas": (0.9, 0.95), "precondition_frequency": 3, **options}
    named = {"normalize_grads": "normal", "correct_bias": "correct", "precondition_frequency": "f"}
    told = {
        named.get(key, key): value for key, value in options.items() if key not in ("merge_dims", "max_precond_dim")
    }
    oracle = Oracle(p.detach(), dims, rotated, **told)
    optimizer = SOAP([p], faithful=True, **options)
    for at in range(12):
        p.grad = torch.randn(shape, generator=generator, dtype=torch.float64)
        optimizer.step()
        if at == 0 and not rotated:
            continue  # the first call changes nothing
        oracle.step(p.grad)
        if at == 0:
            for mode in rotated:
                optimizer.state[p][f"basis_{mode}"].copy_(oracle.q[mode])
        torch.testing.assert_close(p.detach(), oracle.w, rtol=0, atol=1e-11)
