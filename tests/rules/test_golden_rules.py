"""Sign descent, Lion, Muon, Scion and Prodigy follow their reference trajectories."""

from __future__ import annotations

import pytest
import torch
from tests.rules.trajectories import agrees, cases, run

import metrize
from metrize.norms import RMS, ColumnNorm, Layout, MaxEntry, RowNorm, SignHead, Spectral


@pytest.mark.parametrize("case", cases("lion"), ids=lambda c: c["name"])
def test_lion(case):
    numbers = {**case["hyperparameters"], "betas": tuple(case["hyperparameters"]["betas"])}
    for t, seen, _ in run(case, lambda p: metrize.Lion(p.items(), **numbers)):
        agrees(seen, case["params_after"][t], 1e-14)


@pytest.mark.parametrize("case", cases("signum"), ids=lambda c: c["name"])
def test_signum(case):
    hyper = case["hyperparameters"]
    numbers = {key: hyper[key] for key in ("lr", "momentum", "weight_decay")}
    cls = metrize.Signum if numbers["momentum"] else metrize.SignSGD
    for t, seen, optimizer in run(case, lambda p: cls(p.items(), **numbers)):  # noqa: B007 (looked at after the last step)
        agrees(seen, case["params_after"][t], 1e-14)
    assert numbers["momentum"] or all(set(state) == {"step"} for state in optimizer.state.values())


@pytest.mark.parametrize("case", cases("signum_deconstructing"), ids=lambda c: c["name"])
def test_lion_with_equal_betas_is_signum(case):
    hyper = case["hyperparameters"]
    p = torch.nn.Parameter(torch.tensor(case["initial_params"], dtype=torch.float64))
    numbers = {"momentum": hyper["betas"][0], "weight_decay": hyper["weight_decay"]}
    optimizer = metrize.Signum([p], lr=hyper["lr"], **numbers)
    for grad, step in zip(case["grads"], case["steps"], strict=True):
        p.grad = torch.tensor(grad, dtype=torch.float64)
        optimizer.step()
        torch.testing.assert_close(p.detach(), torch.tensor(step["params"], dtype=torch.float64), atol=1e-14, rtol=0)


@pytest.mark.parametrize("case", cases("prodigy"), ids=lambda c: c["name"])
def test_prodigy(case):
    hyper = dict(case["hyperparameters"])
    if hyper["betas"][0] == 0:
        pytest.skip("the reference mixes the estimates of two steps there, and d explodes")
    growth = float(hyper.pop("growth_rate"))
    numbers = {**hyper, "betas": tuple(hyper["betas"]), "growth_rate": None if growth == float("inf") else growth}
    for t, seen, optimizer in run(case, lambda p: metrize.Prodigy(p.items(), **numbers)):
        agrees(seen, case["params_after"][t], 1e-12, 1e-12)
        for state in optimizer.state.values():
            assert float(state["d"]) == pytest.approx(case["d_after"][t], rel=1e-12)


def _muon(case, accuracy):
    hyper = case["hyperparameters"]
    scale = "adam" if hyper["adjust_lr_fn"] == "match_rms_adamw" else "muon"
    numbers = {key: hyper[key] for key in ("lr", "momentum", "nesterov", "weight_decay")}
    return lambda p: metrize.Muon(p.items(), scale=scale, accuracy=accuracy, **numbers)


@pytest.mark.parametrize("case", cases("muon"), ids=lambda c: c["name"])
@pytest.mark.parametrize(
    ("accuracy", "reference"),
    [
        ("muon", "params_after_float64_same_polynomial"),
        ("exact", "params_after_float64_exact_polar_svd"),
    ],
)
def test_muon_in_double_precision(case, accuracy, reference):
    for t, seen, _ in run(case, _muon(case, accuracy)):
        agrees(seen, case[reference][t], 1e-12)


@pytest.mark.parametrize("case", cases("muon"), ids=lambda c: c["name"])
def test_muon_as_torch_has_it(case):
    lr = case["hyperparameters"]["lr"]
    for t, seen, _ in run(case, _muon(case, "muon"), torch.float32):
        agrees(seen, case["params_after"][t], 2e-2 * lr * 4 * (t + 1))


EPS = 1e-8  # of Scion's own code


def _scion_norm(kind, options, accuracy, inputs):
    if kind == "Sign":
        return MaxEntry() if options.get("normalized") is False else SignHead()
    if kind == "ColNorm":
        eps = EPS / (inputs if options.get("normalized") else 1)  # added after the division by the number of inputs
        return ColumnNorm("rms", eps, layout=Layout(transposed=bool(options.get("transpose"))))
    if kind == "Spectral":
        scale = "one-hot" if options.get("normalized") is False else "muon" if options.get("max") else "rms"
        return Spectral(scale, accuracy)
    known = {"RowNorm": RowNorm("rms", EPS / inputs), "BiasRMS": RMS(EPS)}
    return known.get(kind) or Spectral("conv", accuracy, layout=Layout(unfold=True))


def _radius(told, p):
    """Its normalized columns are divided by the number of inputs as well."""
    return told["scale"] / (p.shape[1] if told["norm_kwargs"].get("normalized") and told["norm"] == "ColNorm" else 1)


def _scion(case, accuracy="muon"):
    hyper = case["hyperparameters"]

    def build(params):
        groups = [
            {
                "params": [(name, p)],
                "norm": _scion_norm(told["norm"], told["norm_kwargs"], accuracy, p.shape[-1] if p.ndim else 1),
                "radius": _radius(told, p),
            }
            for name, p in params.items()
            for told in [hyper["per_param"][name]]
        ]
        numbers = {"lr": hyper["lr"], "momentum": 1 - hyper["momentum"], "constrained": not hyper["unconstrained"]}
        return metrize.Scion(groups, **numbers)

    return build


CLOSED = [case for case in cases("scion") if "params_after_float64_same_polynomial" not in case]
SPECTRAL = [case for case in cases("scion") if "params_after_float64_same_polynomial" in case]


@pytest.mark.parametrize("case", CLOSED, ids=lambda c: c["name"])
def test_scion_with_norms_in_closed_form(case):
    for t, seen, _ in run(case, _scion(case)):
        agrees(seen, case["params_after"][t], 1e-12)


@pytest.mark.parametrize("case", SPECTRAL, ids=lambda c: c["name"])
@pytest.mark.parametrize(
    ("accuracy", "reference"),
    [("muon", "params_after_float64_same_polynomial"), ("exact", "params_after_float64_exact_polar_svd")],
)
def test_scion_with_spectral_norms(case, accuracy, reference):
    # the reference adds 1e-7 to the norm before its polynomial; here tiny gradients make steps of full length
    tolerance = 2e-7 if accuracy == "muon" else 1e-10
    for t, seen, _ in run(case, _scion(case, accuracy)):
        agrees(seen, case[reference][t], tolerance)
