"""GaLore, COAP, APOLLO and Flora follow their reference trajectories."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.frames.lowrank import agrees, bases, case_of, cases, content, follow, give, same_up_to_signs
from torch import nn

import metrize
from metrize.linalg.seeds import gaussian, next_seed, split_seed
from metrize.rules import ClippedAverage

Build = Callable[[nn.Parameter], metrize.Optimizer]


def inner(hyper: dict[str, Any]) -> dict[str, Any]:
    """The numbers of Adam or Adafactor."""
    numbers = {key: hyper[key] for key in ("lr", "weight_decay")}
    if "betas" in hyper:
        return {**numbers, "betas": tuple(hyper["betas"]), "eps": hyper["eps"]}
    return {**numbers, "betas": (hyper["beta1"], 0.0), "eps": hyper["eps"][0], "inner": "adafactor"}


def galore(hyper: dict[str, Any]) -> Build:
    rank = hyper.get("rank", 10**6)  # without a rank nothing is projected
    options = {"period": hyper.get("update_proj_gap", 1), "scale": hyper.get("scale", 1.0), "stagger": False}
    return lambda p: metrize.GaLore([p], rank=rank, side=hyper.get("proj_type", "std"), **inner(hyper), **options)


def coap(hyper: dict[str, Any], **more: Any) -> Build:
    options = {
        "rank": hyper["rank"],
        "ratio": hyper["rank_ratio_matrix"] or 2.0,
        "conv_ratio": hyper["rank_ratio_cnn"],
        "conv_above": hyper.get("MIN_CNN_PARAMS_overridden_to", 9216),
        "period": hyper["update_interval"],
        "reproject": hyper["reproject_factor"],
        "scale": hyper["scale"],
        "normalize": False,
        "carry": ("linear" if "decay_rate" in hyper else "root") if hyper["restore_state"] else None,
        "stagger": False,
    }
    return lambda p: metrize.COAP([p], **inner(hyper), **options, **more)


def apollo(hyper: dict[str, Any]) -> Build:
    options = {
        "rank": hyper.get("rank", 10**6),
        "period": hyper.get("update_proj_gap", 1),
        "scale": hyper.get("scale", 1.0),
        "granularity": hyper.get("scale_type", "channel"),
        "projection": hyper.get("proj", "random"),
        "growth": None if hyper.get("disable_nl") else 1.01,
        "stagger": False,
    }
    return lambda p: metrize.APOLLO([p], **inner(hyper), **options)


def flora(hyper: dict[str, Any]) -> Build:
    numbers = {key: hyper[key] for key in ("lr", "decay_rate", "weight_decay", "scale_parameter")}
    numbers["momentum"] = hyper["beta1"]
    if hyper["factorize_second_moment"]:
        numbers |= {"rank": hyper["rank"], "period": hyper["kappa"]}
        return lambda p: metrize.Flora([p], clip=hyper["clip_threshold"], eps=tuple(hyper["eps"]), **numbers)
    recipe = metrize.Recipe(rule=ClippedAverage())  # the published code compresses nothing then
    del numbers["scale_parameter"]
    return lambda p: metrize.Optimizer([p], recipe, clip=hyper["clip_threshold"], eps=hyper["eps"][0], **numbers)


METHODS = {"galore": galore, "coap_adamw": coap, "coap_adafactor": coap, "apollo": apollo, "flora": flora}
# the published Adafactor averages lr_t U and ours U, which differ where lr_t follows the size of the parameter
ALL = [
    (name, case)
    for name in METHODS
    for case in cases(name)
    if (name, case["name"]) != ("coap_adafactor", "scale_parameter")
]
PROJECTED = [(name, case) for name, case in ALL if any("ortho_matrix" in key for key in case["final_state"])]
RANDOM = [case for case in cases("apollo") if case["hyperparameters"].get("proj") == "random"]
SQUARES = {"exp_avg_sq_row": "exp_avg_sq.row", "exp_avg_sq_col": "exp_avg_sq.col"}


def name_of(value: Any) -> str:
    return value if isinstance(value, str) else value["name"]


@pytest.mark.parametrize(("name", "case"), ALL, ids=name_of)
def test_trajectory_with_the_reference_bases(name, case, monkeypatch):
    give(monkeypatch, case)
    for t, parameter, state, expected in follow(case, METHODS[name](case["hyperparameters"])):
        agrees(case, t, parameter)
        for theirs, value in expected.items():
            key = SQUARES.get(theirs, theirs)
            if key in state and "betas" in case["hyperparameters"]:
                kept = torch.tensor(value, dtype=state[key].dtype)
                torch.testing.assert_close(state[key], kept, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("name", "case"), PROJECTED, ids=name_of)
def test_bases_of_our_own(name, case):
    for t, _, state, _ in follow(case, METHODS[name](case["hyperparameters"])):
        ranks = {int(key[-1]): value.shape[1] for key, value in state.items() if key.startswith("basis")}
        assert ranks
        for dim, basis in bases(case, t, ranks).items():
            same_up_to_signs(state[f"basis_{dim}"], basis, 1e-5)


@pytest.mark.parametrize("case", RANDOM, ids=name_of)
def test_apollo_draws_the_reference_bases(case):
    hyper = case["hyperparameters"]
    # under this option the reference multiplies by sqrt(scale) before it measures; the quotient of norms is the same
    unit = hyper["scale"] ** 0.5 if hyper.get("scale_front") else 1.0
    for t, parameter, state, expected in follow(case, apollo(hyper)):
        agrees(case, t, parameter)
        if "scaled_grad" in expected:
            assert state["update_norm"].item() == pytest.approx(expected["scaled_grad"] / unit, rel=1e-6)


def test_coap_with_adafactor_inside_and_steps_relative_to_the_parameter(monkeypatch):
    case = case_of("coap_adafactor", "scale_parameter")
    give(monkeypatch, case)
    hyper = case["hyperparameters"]
    recipe = coap(hyper)(nn.Parameter(torch.zeros(8, 6))).recipes()[0]
    recipe = recipe.replace(step_size=metrize.step_sizes.Relative("given", least=hyper["eps"][1]))
    for t, parameter, _, _ in follow(case, lambda p: metrize.Optimizer([p], recipe, lr=hyper["lr"], momentum=0.9)):
        expected = torch.tensor(case["params_after_step"][t])
        # the reference's average of lr_t U lags behind the size of the parameter
        torch.testing.assert_close(parameter, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", cases("coap_adamw8bit"), ids=name_of)
def test_coap_with_averages_of_8_bits(case, monkeypatch):
    give(monkeypatch, case)
    same = True
    for t, parameter, state, expected in follow(case, coap(case["hyperparameters"], inner="8bit")):
        wanted = torch.tensor(case["params_after_step"][t])
        torch.testing.assert_close(parameter, wanted, rtol=1e-6, atol=1e-6 if same else 2e-4)
        codes = {key: torch.tensor(expected[f"{key}[0]"]).flatten() for key in ("exp_avg", "exp_avg_sq")}
        off = torch.cat([(state[f"{key}.code"].int() - code).abs() for key, code in codes.items()])
        assert off.sum() <= 1  # in one of the trajectories a number lies between two codes, and rounds the other way
        same = same and not off.any()


def test_flora_keeps_the_reference_seeds_and_nothing_else():
    case = case_of("flora", "rank2_6x8")
    for _, _, state, expected in follow(case, flora(case["hyperparameters"])):
        assert state["exp_avg.seed"] == expected["seed"]
        torch.testing.assert_close(state["exp_avg"], torch.tensor(expected["exp_avg"]), rtol=1e-5, atol=1e-6)
        assert {key: tuple(value.shape) for key, value in state.items() if value.ndim} == {
            "exp_avg": (2, 8),
            "exp_avg_sq.row": (6,),
            "exp_avg_sq.col": (8,),
        }


def test_seeds():
    known = content("flora")
    chain = known["seed_chain_from_1"]
    assert [next_seed(seed) for seed in chain[:-1]] == chain[1:]
    assert list(split_seed(1)) == known["split_seed_of_1"]
    drawn = gaussian((2, 3), split_seed(1)[0], torch.float32, torch.device("cpu"))
    assert torch.equal(drawn, torch.tensor(known["randn_2x3_seed_split_left_of_1"]))
