"""Norms, duality maps and budgets against reference values."""

import json
from pathlib import Path

import pytest
import torch

from metrize.norms import (
    RMS,
    ColumnNorm,
    Frobenius,
    Layout,
    MaxEntry,
    Nuclear,
    RowNorm,
    Spectral,
    atom,
    bond,
    parallel,
    residual,
)

GOLDEN = Path(__file__).parents[1] / "golden"
MAPS = json.loads((GOLDEN / "duality_maps.json").read_text())
MODULAR = json.loads((GOLDEN / "modular_norm.json").read_text())
TOLERANCE = MAPS["tolerance_abs"]

NORMS = {
    "frobenius": Frobenius(),
    "linf_to_linf_elementwise_max (l1->linf)": MaxEntry(),
    "RMS->RMS": Spectral("rms", "exact"),
    "l1->l2": ColumnNorm("unit"),
    "l2->linf": RowNorm("unit"),
    "RMS->linf": RowNorm("rms"),
    "2->RMS": Spectral("one-hot", "exact"),
    "nuclear (Schatten-1)": Nuclear(),
    "l2": Frobenius(),
    "RMS": RMS(),
}

RMS_TO_RMS = Spectral("rms", "exact")
ROLES = {
    "conv2d (out,in,kh,kw), per-offset": Spectral("conv", "exact", layout=Layout(offsets=True)),
    "conv2d, unfolded": RMS_TO_RMS.replace(layout=Layout(unfold=True)),
    "conv2d, Scion": Spectral("conv", "exact", layout=Layout(unfold=True)),
    "grouped conv2d": RMS_TO_RMS.replace(layout=Layout(unfold=True, groups=2)),
    "ConvTranspose2d": RMS_TO_RMS.replace(layout=Layout(unfold=True, transposed=True)),
    "fused QKV (3*4,4)": RMS_TO_RMS.replace(layout=Layout(split=(4, 4, 4))),
    "fused QKV per head": RMS_TO_RMS.replace(layout=Layout(split=(4, 4, 4), block_rows=2)),
    "interleaved QKV": RMS_TO_RMS.replace(layout=Layout(split=(1, 1, 1), outer=2, inner=2)),
    "expert bank (E,out,in)": RMS_TO_RMS,
    "expert bank stored (E,in,out)": RMS_TO_RMS.replace(layout=Layout(transposed=True)),
    "HF Conv1D": RMS_TO_RMS.replace(layout=Layout(transposed=True)),
    "Embedding": ColumnNorm("rms", layout=Layout(transposed=True)),
}


def tensor(numbers):
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.mark.parametrize("case", MAPS["cases"], ids=lambda case: case["name"])
def test_norm_dual_norm_and_map(case):
    norm = NORMS[case["norm"]]
    gradient = tensor(case["G"]).unsqueeze(0)
    direction, dual = norm.dual(gradient)
    close = {"atol": TOLERANCE, "rtol": 0}
    torch.testing.assert_close(direction[0], tensor(case["duality_map_of_G"]), **close)
    torch.testing.assert_close(dual[0], tensor(case["dual_norm_of_G"]), **close)
    torch.testing.assert_close(norm.norm(tensor(case["W"]).unsqueeze(0))[0], tensor(case["norm_of_W"]), **close)
    step = -dual[0] / 2 * direction[0]
    torch.testing.assert_close(step, tensor(case["steepest_descent_step_sharpness_2"]), **close)


@pytest.mark.parametrize("role", MAPS["roles"], ids=lambda role: role["role"][:30])
def test_map_of_a_parameter_that_holds_several_matrices(role):
    (norm,) = (norm for name, norm in ROLES.items() if role["role"].startswith(name))
    gradient = tensor(role["G"]).unsqueeze(0)
    norm.check(gradient.shape[1:])
    direction, _ = norm.dual(gradient)
    torch.testing.assert_close(direction[0], tensor(role["D"]), atol=TOLERANCE, rtol=0)


def test_every_reference_is_used():
    assert len(MAPS["roles"]) == len(ROLES)
    assert {case["norm"] for case in MAPS["cases"]} == {*NORMS}


def linear():
    return atom(Spectral())


def embedding():
    return atom(ColumnNorm("rms", layout=Layout(transposed=True)))


def mlp3():
    relu = bond(0.5**0.5)
    return linear() @ relu @ linear() @ relu @ linear()


def resmlp():
    block = residual(bond(1.0) @ linear(), skip=2 / 3, share=1 / 3)
    return linear() @ (block**3).tare(3 * 1 / 3) @ linear()


def gpt():
    attention = linear() @ (1 / 3 * bond()) @ parallel(linear(), linear(), linear())
    mlp = linear() @ linear()
    share = 1 / 4
    block = residual(mlp, 1 - share, share) @ residual(attention, 1 - share, share)
    embed = (0.5 * bond()) @ parallel(embedding(), embedding())
    return linear() @ (block**2).tare(5) @ embed.tare(1)


BUILDERS = {"mlp3": mlp3, "resmlp": resmlp, "gpt_2blocks": gpt}


@pytest.mark.parametrize("case", MODULAR["cases"], ids=lambda case: case["name"])
def test_budgets_of_the_modular_norm(case):
    network = BUILDERS[case["name"]]()
    assert network.mass == pytest.approx(case["mass"], abs=1e-9)
    assert network.sensitivity == pytest.approx(case["sensitivity"], abs=1e-9)
    assert list(network.budgets) == pytest.approx([found["target_norm"] for found in case["atoms"]], abs=1e-9)
