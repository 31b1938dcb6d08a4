"""What every optimizer promises: a run that goes on from a checkpoint or a copy is the straight run."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from cases import (
    ALL,
    BOTH,
    FP32,
    SECTIONS,
    SPACES,
    STEPS,
    Case,
    assert_same_bits,
    assert_same_run,
    cases,
    each,
    resumed,
    snapshot,
    straight,
    train,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import metrize
from metrize import Stiefel


def check_sections(optimizer: metrize.Optimizer) -> None:
    """Masters are points, and stored complements complements."""
    for p, state in optimizer.state.items():
        if "master" in state:
            assert float(Stiefel().error_of(state["master"])) < 1e-5
        if "section" in state:
            point = Stiefel().points(state.get("master", p.detach()))
            assert float(Stiefel().error_of(torch.cat([point, state["section"]], -1))) < 1e-4


@each(ALL + SECTIONS)
@settings(max_examples=2, derandomize=True, deadline=None, database=None)
@given(save_at=st.integers(1, STEPS - 1))
def test_a_resumed_run_is_the_straight_run(case: Case, save_at: int) -> None:
    model, optimizer = case.start()
    train(model, optimizer, 0, save_at)
    model, optimizer = resumed(case, model, optimizer)
    train(model, optimizer, save_at, STEPS)
    assert_same_run(model, optimizer, *straight(case))
    check_sections(optimizer)


@each(BOTH + SECTIONS)
@pytest.mark.parametrize("how", [pytest.param("deepcopy", marks=pytest.mark.slow), "pickle"])
def test_a_copy_goes_on_like_the_original(case: Case, how: str) -> None:
    model, optimizer = case.start()
    train(model, optimizer, 0, 3)
    pair = (model, optimizer)
    other, twin = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))
    before = snapshot(other, twin)
    train(model, optimizer, 3, STEPS)
    assert_same_bits(snapshot(other, twin), before)  # nothing is shared with the original
    train(other, twin, 3, STEPS)
    assert_same_run(model, optimizer, other, twin)
    assert_same_run(model, optimizer, *straight(case))


@each(cases(dtypes=["bf16"]) + cases(spaces=["transported"], dtypes=["bf16"]))
def test_a_checkpoint_keeps_the_dtype_of_every_state(case: Case) -> None:
    model, optimizer = case.start()
    train(model, optimizer, 0, 2)
    _, fresh = resumed(case, model, optimizer)
    kept = [(key, t.dtype) for state in optimizer.state.values() for key, t in state.items()]
    assert [(key, t.dtype) for state in fresh.state.values() for key, t in state.items()] == kept
    others = [dtype for key, dtype in kept if key not in ("exp_avg", "exp_avg_sq", "momentum_buffer")]
    assert {dtype for dtype in others if dtype.is_floating_point} <= {torch.float32, torch.float64}


@each(FP32)
def test_a_checkpoint_shares_no_memory_with_what_was_loaded(case: Case) -> None:
    model, optimizer = case.start()
    train(model, optimizer, 0, 2)
    saved = copy.deepcopy(optimizer.state_dict())
    other, fresh = case.start()
    fresh.load_state_dict(saved)
    before = copy.deepcopy(saved)
    train(other, fresh, 2, 4)
    assert_same_bits(saved, before)


@each(FP32)
def test_a_plain_pickle_is_about_as_large_as_the_state(case: Case) -> None:
    weights = [nn.Parameter(torch.linalg.qr(torch.randn(32, 16))[0]) for _ in range(20)]
    optimizer = case.optimizer(weights, space=SPACES[case.space])
    optimizer.init_state()
    values = metrize.state_bytes(optimizer) + sum(4 * p.numel() for p in weights)
    assert len(pickle.dumps(optimizer)) < 2 * values + 50_000


@each(FP32)
def test_a_count_saved_as_a_plain_number_is_read(case: Case) -> None:
    model, optimizer = case.start()
    train(model, optimizer, 0, 2)
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state["step"] = int(state["step"])
    other, fresh = copy.deepcopy(model), case.optimizer(model)
    fresh = case.optimizer(other)
    fresh.load_state_dict(saved)
    train(model, optimizer, 2, 4)
    train(other, fresh, 2, 4)
    assert_same_run(model, optimizer, other, fresh)
