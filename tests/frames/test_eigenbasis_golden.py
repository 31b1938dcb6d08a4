"""SOAP against the trajectories of the authors' code, and its variants against an oracle of the paper."""

import json
from pathlib import Path

import pytest
import torch

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
