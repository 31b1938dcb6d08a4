"""What every optimizer of the catalogue promises, on every space and dtype."""

from __future__ import annotations

import copy
import functools
import pickle
import warnings
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from cases import (
    DTYPES,
    SPACES,
    Case,
    assert_same_bits,
    assert_same_run,
    backward,
    build,
    cases,
    each,
    resumed,
    same_bits,
    set_gradients,
    snapshot,
    through_disk,
    train,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import metrize
from metrize import Dense, Stiefel, rules

ALL = cases()
BOTH = cases(dtypes=["fp32", "bf16"])
FP32 = cases(dtypes=["fp32"])
SECTIONS = cases(spaces=["transported", "redrawn"], dtypes=["fp32", "bf16"])
STEPS = 8


# Going on from a checkpoint or a copy


@functools.cache
def straight(case: Case) -> tuple[nn.Module, metrize.Optimizer]:
    model, optimizer = case.start()
    train(model, optimizer, 0, STEPS)
    return model, optimizer


def check_sections(optimizer: metrize.Optimizer) -> None:
    """Masters are points, and stored complements complements."""
    for p, state in optimizer.state.items():
        if "master" in state:
            assert float(Stiefel().error_of(state["master"])) < 1e-5
        if "section" in state:
            point = Stiefel().points(state.get("master", p.detach()))
            assert float(Stiefel().error_of(torch.cat([point, state["section"]], -1))) < 1e-4


@each(ALL + SECTIONS)
@settings(max_examples=3, derandomize=True, deadline=None, database=None)
@given(save_at=st.integers(1, STEPS - 1))
def test_a_resumed_run_is_the_straight_run(case: Case, save_at: int) -> None:
    model, optimizer = case.start()
    train(model, optimizer, 0, save_at)
    model, optimizer = resumed(case, model, optimizer)
    train(model, optimizer, save_at, STEPS)
    assert_same_run(model, optimizer, *straight(case))
    check_sections(optimizer)


@each(BOTH + SECTIONS)
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
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


# Steps


@each(ALL)
def test_a_late_gradient_starts_its_own_count(case: Case) -> None:
    model, optimizer = case.start()
    late, alone = copy.deepcopy(model), copy.deepcopy(model)
    for step in range(6):
        set_gradients(model.parameters(), step)
        if step < 3:
            model.two.weight.grad = model.two.bias.grad = None
        optimizer.step()
    counts = {name: float(optimizer.state[p]["step"]) for name, p in model.named_parameters()}
    assert counts == {name: 3.0 if name.startswith("two") else 6.0 for name in counts}

    if not case.alone:
        return
    twin = case.optimizer(alone)
    for step in range(3, 6):
        set_gradients(alone.parameters(), step)
        twin.step()
    for name in ("weight", "bias"):
        mine, theirs = getattr(model.two, name), getattr(alone.two, name)
        assert not torch.equal(mine, getattr(late.two, name))
        torch.testing.assert_close(mine, theirs)  # in a batch of two, and alone: rounding differs


@each(FP32)
def test_a_parameter_without_gradients_stays(case: Case) -> None:
    model, optimizer = case.start()
    before = snapshot(model, optimizer)["weights"]
    optimizer.step()
    assert_same_bits(snapshot(model, optimizer)["weights"], before)
    assert all(float(state["step"]) == 0 for state in optimizer.state.values())


@each(ALL)
@pytest.mark.parametrize("maximize", [False, True])
def test_gradients_and_options_are_never_written(case: Case, maximize: bool) -> None:
    model, optimizer = case.start(lr=torch.tensor(0.02), maximize=maximize)
    for step in range(4):
        set_gradients(model.parameters(), step)
        if step == 3:
            model.two.weight.grad = None  # a batch that is not full
        grads = [p.grad for p in model.parameters()]
        before = [None if g is None else (g.clone(), g._version) for g in grads]
        options = copy.deepcopy([{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups])
        rates = [group["lr"] for group in optimizer.param_groups]
        versions = [lr._version for lr in rates if isinstance(lr, Tensor)]
        assert versions
        optimizer.step()
        assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))
        for g, old in zip(grads, before, strict=True):
            assert old is None or (same_bits(g, old[0]) and g._version == old[1])
        assert all(group["lr"] is lr for group, lr in zip(optimizer.param_groups, rates, strict=True))
        assert [lr._version for lr in rates if isinstance(lr, Tensor)] == versions
        now = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
        assert_same_bits(now, options)


@each(FP32)
def test_gradients_may_be_freed_after_the_step(case: Case) -> None:
    model, optimizer = case.start()
    for poison in (0.0, float("nan")):
        set_gradients(model.parameters(), 0)
        model.wide.weight.grad[0, 0] += poison
        references = [weakref.ref(p.grad.untyped_storage()) for p in model.parameters()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            optimizer.step()
        model.zero_grad()
        assert not any(reference() for reference in references)


@each(FP32)
def test_a_step_of_length_zero_changes_no_bit(case: Case) -> None:
    model, optimizer = case.start()
    train(model, optimizer, 0, 2)  # the next step would be polished
    before = snapshot(model, optimizer)["weights"]
    for group in optimizer.param_groups:
        group["lr"] = group["weight_decay"] = 0.0
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert_same_bits(snapshot(model, optimizer)["weights"], before)
    assert {float(state["step"]) for state in optimizer.state.values()} == {3.0}  # it is a step, and no probe


@each(BOTH)
@pytest.mark.parametrize(("poison", "start"), [("nan", 0), ("inf", 2), ("-inf", 2)])
def test_a_step_with_a_gradient_that_is_not_finite_is_skipped(case: Case, poison: str, start: int) -> None:
    model, optimizer = case.start()
    optimizer.init_state()
    train(model, optimizer, 0, start)
    other, twin = copy.deepcopy((model, optimizer))
    backward(model, start)
    model.one.weight.grad[1, 2] = float(poison)
    before = snapshot(model, optimizer)
    with pytest.warns(RuntimeWarning, match="'one.weight'") as caught:
        optimizer.step()
    assert [w.filename for w in caught] == [__file__]
    after = snapshot(model, optimizer)
    assert after["optimizer"]["param_groups"][0].pop("skipped_steps") == 1
    assert before["optimizer"]["param_groups"][0].pop("skipped_steps") == 0
    assert_same_bits(after, before)

    train(model, optimizer, start, start + 3)
    train(other, twin, start, start + 3)
    twin.param_groups[0]["skipped_steps"] = 1
    assert_same_run(model, optimizer, other, twin)


@each(BOTH)
def test_the_guard_can_be_taken_off(case: Case) -> None:
    model, optimizer = case.start(skip_nonfinite=False)
    train(model, optimizer, 0, 1)
    backward(model, 1)
    model.one.weight.grad[1, 2] = float("nan")
    if ("accuracy", "exact") in case.options:
        with pytest.raises(torch.linalg.LinAlgError):  # there are no singular values of a NaN
            optimizer.step()
        return
    optimizer.step()
    assert optimizer.param_groups[0]["skipped_steps"] == 0
    if case.method == "SignSGD":
        return  # the sign of a NaN is 0, and it keeps nothing
    averages = [value for value in optimizer.state[model.one.weight].values() if value.is_floating_point()]
    assert any(value.isnan().any() for value in [model.one.weight, *averages])
    if case.alone:
        assert not model.two.bias.isnan().any()


def test_the_count_of_skipped_steps_is_saved() -> None:
    model, optimizer = ALL[0].start()
    backward(model, 0)
    model.one.bias.grad[0] = float("inf")
    for _ in range(2):
        with pytest.warns(RuntimeWarning):
            optimizer.step()
    _, fresh = resumed(ALL[0], model, optimizer)
    assert fresh.param_groups[0]["skipped_steps"] == 2


def test_large_finite_gradients_are_no_alarm() -> None:
    p = nn.Parameter(torch.ones(4))
    optimizer = metrize.Adam([p], lr=0.1)
    p.grad = torch.full((4,), 3e38)  # whose squares overflow
    optimizer.step()
    assert optimizer.param_groups[0]["skipped_steps"] == 0
    assert float(optimizer.state[p]["step"]) == 1


# Refused checkpoints


def refused(optimizer: metrize.Optimizer, saved: dict[str, Any], match: str) -> None:
    before = copy.deepcopy(optimizer.state_dict())
    params = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
    with pytest.raises(ValueError, match=match):
        optimizer.load_state_dict(saved)
    assert_same_bits(optimizer.state_dict(), before)
    assert_same_bits([p.detach() for group in optimizer.param_groups for p in group["params"]], params)
    assert not optimizer._optimizer_load_state_dict_pre_hooks
    assert not optimizer._optimizer_load_state_dict_post_hooks


@pytest.fixture
def trained() -> tuple[nn.Module, metrize.Optimizer]:
    model = build(Stiefel())
    optimizer = metrize.Adam(model, lr=0.02)
    train(model, optimizer, 0, 2)
    return model, optimizer


def checkpoint_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return through_disk(optimizer.state_dict())


def test_a_checkpoint_of_another_recipe_is_refused(trained: tuple[nn.Module, metrize.Optimizer]) -> None:
    model, optimizer = trained
    for other in (metrize.SGD(model), metrize.AdamW(model), metrize.Adam(model, moments=Dense("bfloat16"))):
        refused(optimizer, checkpoint_of(other), "trained with Recipe.*has Recipe")


def test_a_checkpoint_of_another_space_is_refused(trained: tuple[nn.Module, metrize.Optimizer]) -> None:
    _, optimizer = trained
    other = metrize.Adam(build(Stiefel(retraction="geodesic")))
    refused(optimizer, checkpoint_of(other), "'tall.weight' was trained on Stiefel.*geodesic")
    refused(optimizer, checkpoint_of(metrize.Adam(build(None))), "'tall.weight' was trained on a vector space")
    refused(metrize.Adam(build(None)), checkpoint_of(optimizer), "'tall.weight' was trained on Stiefel")


@pytest.mark.parametrize("swap", [False, True])
def test_a_checkpoint_of_another_shape_is_refused(swap: bool) -> None:
    def started(shape: tuple[int, ...]) -> metrize.Optimizer:
        params = [("first", nn.Parameter(torch.zeros(4))), ("second", nn.Parameter(torch.zeros(shape)))]
        optimizer = metrize.Adam(params)
        optimizer.init_state()
        return optimizer

    one, other = started((3, 4)), started((4, 3))
    refused(*((one, checkpoint_of(other)) if swap else (other, checkpoint_of(one))), "'second'.*shape")


def test_a_checkpoint_of_another_format_is_refused(trained: tuple[nn.Module, metrize.Optimizer]) -> None:
    _, optimizer = trained
    saved = checkpoint_of(optimizer)
    saved["param_groups"][0]["format"] = 99
    refused(optimizer, saved, "format 99")
    del saved["param_groups"][0]["format"]
    refused(optimizer, saved, "format")


@pytest.mark.parametrize("theirs", [torch.optim.AdamW, torch.optim.SGD])
def test_a_checkpoint_of_torch_is_refused(trained: tuple[nn.Module, metrize.Optimizer], theirs: type) -> None:
    model, optimizer = trained
    other = theirs(model.parameters(), lr=0.1)
    train(model, other, 0, 1)
    refused(optimizer, checkpoint_of(other), "names no recipe: it was not written by this library")


def test_a_checkpoint_of_other_groups_is_refused(trained: tuple[nn.Module, metrize.Optimizer]) -> None:
    model, optimizer = trained
    weights, biases = [p for p in model.parameters() if p.ndim > 1], [p for p in model.parameters() if p.ndim == 1]
    split = metrize.Adam([{"params": weights}, {"params": biases}])
    refused(optimizer, checkpoint_of(split), "2 parameter groups and this optimizer has 1")
    refused(optimizer, checkpoint_of(metrize.Adam(biases)), "4 parameters and this optimizer's has 8")


def test_a_damaged_checkpoint_is_refused(trained: tuple[nn.Module, metrize.Optimizer]) -> None:
    _, optimizer = trained
    saved = checkpoint_of(optimizer)
    saved["state"][0]["exp_avg"] = saved["state"][0]["exp_avg"].bfloat16()
    refused(optimizer, saved, "'tall.weight'.*exp_avg.*bfloat16")
    saved = checkpoint_of(optimizer)
    del saved["state"][3]["exp_avg_sq"]
    refused(optimizer, saved, "'one.bias'.*keeps")
    saved = checkpoint_of(optimizer)
    saved["state"][3]["exp_avg_sq"] = "<generator object>"  # what torch itself makes of a text in a state
    refused(optimizer, saved, "'one.bias'.*exp_avg_sq")


def test_the_last_parameter_is_checked_before_the_first_is_loaded() -> None:
    model = build(None)
    optimizer, other = metrize.Adam(model), metrize.Adam(build(None))
    train(model, optimizer, 0, 2)
    other.init_state()
    saved = checkpoint_of(other)
    saved["state"][7]["exp_avg"] = torch.zeros(5)
    refused(optimizer, saved, "'wide.bias'")


@each(FP32)
def test_a_checkpoint_older_than_an_option_takes_its_default(case: Case) -> None:
    model, optimizer = case.start()
    train(model, optimizer, 0, 3)
    saved = checkpoint_of(optimizer)
    for group in saved["param_groups"]:
        del group["skip_nonfinite"], group["maximize"], group["skipped_steps"]
    optimizer.load_state_dict(saved)
    train(model, optimizer, 3, STEPS)
    assert_same_run(model, optimizer, *straight(case))


# What frameworks do


@each(FP32)
def test_loading_an_empty_state_at_once_changes_nothing(case: Case) -> None:
    model, optimizer = case.start()  # Accelerate does this in `prepare`
    optimizer.load_state_dict(optimizer.state_dict())
    assert not optimizer.state
    train(model, optimizer, 0, STEPS)
    assert_same_run(model, optimizer, *straight(case))


def test_a_space_is_kept_when_another_comes_to_light_after_an_exchange() -> None:
    model = build(None)
    metrize.constrain(model.tall, "weight", Stiefel())
    optimizer = metrize.Adam(model, lr=0.1)
    model = copy.deepcopy(model)  # whose parameters carry no tags
    optimizer.param_groups[0]["params"][:] = list(model.parameters())
    metrize.constrain(model.one, "weight", Stiefel())
    set_gradients(model.parameters(), 0)
    optimizer.step()
    assert optimizer.param_groups[0]["spaces"] == (repr(Stiefel()), None, repr(Stiefel()), *[None] * 5)
    assert all(float(error) < 1e-5 for error in metrize.error_on_space(model).values())


@each(FP32)
def test_state_dict_makes_no_state(case: Case) -> None:
    _, optimizer = case.start()
    optimizer.state_dict()
    assert not optimizer.state


@each(FP32)
@pytest.mark.parametrize("after", [0, 2])
def test_exchanged_parameters_keep_their_space_and_leave_no_state(case: Case, after: int) -> None:
    model, optimizer = case.start()
    train(model, optimizer, 0, after)
    other = copy.deepcopy(model)  # without the tags on the parameters
    counterpart = dict(zip(model.parameters(), other.parameters(), strict=True))
    for group in optimizer.param_groups:
        group["params"][:] = [counterpart[p] for p in group["params"]]
    for step in range(3):
        set_gradients(other.parameters(), step)
        optimizer.step()
    assert set(optimizer.state) == set(other.parameters())
    assert all(float(error) < 1e-5 for error in metrize.error_on_space(other).values())

    expected, twin = copy.deepcopy(model), None
    twin = case.optimizer(expected)
    for step in range(3):
        set_gradients(expected.parameters(), step)
        twin.step()
    assert_same_run(other, optimizer, expected, twin)


@each(BOTH + SECTIONS)
def test_the_probe_of_distributed_checkpoints_only_makes_state(case: Case) -> None:
    model, optimizer = case.start()
    weights, rates = snapshot(model, optimizer)["weights"], [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(0.0) if case.dtype == "bf16" else 0.0
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step(closure=None)
    model.zero_grad()
    for group, lr in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = lr
    _, fresh = case.start()
    fresh.init_state()
    assert len(optimizer.state) == 8
    assert_same_bits(optimizer.state_dict()["state"], fresh.state_dict()["state"])
    assert_same_bits(snapshot(model, optimizer)["weights"], weights)
    train(model, optimizer, 0, STEPS)
    assert_same_run(model, optimizer, *straight(case))


@each(FP32)
def test_a_real_first_step_of_a_warmup_is_no_probe(case: Case) -> None:
    model, optimizer = case.start(lr=0.0)
    train(model, optimizer, 0, 1)
    assert {float(state["step"]) for state in optimizer.state.values()} == {1.0}


@each(BOTH)
@pytest.mark.parametrize("flat", [False, True])
def test_distributed_checkpoint_round_trip_in_one_process(case: Case, flat: bool) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, optimizer = case.start()
    train(model, optimizer, 0, 3)
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
    other, fresh = case.start(seed=1)
    other.load_state_dict(model.state_dict())
    set_optimizer_state_dict(other, fresh, saved, options=options)
    train(model, optimizer, 3, STEPS)
    train(other, fresh, 3, STEPS)
    assert_same_run(model, optimizer, other, fresh)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
@each(cases(spaces=["transported"], dtypes=["bf16"]))
def test_distributed_checkpoint_through_files(case: Case, tmp_path: Path) -> None:
    model, optimizer = case.start()
    model.tall.bias.requires_grad_(False)
    train(model, optimizer, 0, 3)
    dcp.save({"optimizer": get_optimizer_state_dict(model, optimizer)}, checkpoint_id=tmp_path, no_dist=True)
    other, fresh = case.start(seed=1)
    other.load_state_dict(model.state_dict())
    other.tall.bias.requires_grad_(False)
    content = {"optimizer": get_optimizer_state_dict(other, fresh)}
    dcp.load(content, checkpoint_id=tmp_path, no_dist=True)
    set_optimizer_state_dict(other, fresh, content["optimizer"])
    train(model, optimizer, 3, STEPS)
    train(other, fresh, 3, STEPS)
    assert_same_run(model, optimizer, other, fresh)


@each(FP32)
def test_reading_the_state_of_a_fresh_optimizer_changes_nothing(case: Case) -> None:
    model, optimizer = case.start()
    get_optimizer_state_dict(model, optimizer)
    train(model, optimizer, 0, STEPS)
    assert_same_run(model, optimizer, *straight(case))


@each(FP32)
def test_gradient_scaler(case: Case) -> None:
    model, optimizer = case.start()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(1000 + step)
        x, y = torch.randn(4, 3, generator=generator), torch.randn(4, 2, generator=generator)
        model.zero_grad()
        scaler.scale(nn.functional.mse_loss(model(x), y)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert_same_run(model, optimizer, *straight(case))  # a power of two leaves every bit of the mantissa

    before = snapshot(model, optimizer)
    backward(model, STEPS)
    scaler.scale(torch.ones(()))
    model.one.weight.grad[0, 0] = float("inf")
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**9
    assert_same_bits(snapshot(model, optimizer), before)  # the scaler's own guard; ours was not asked
    backward(model, STEPS)
    scaler.step(optimizer)
    scaler.update()
    assert {float(state["step"]) for state in optimizer.state.values()} == {STEPS + 1.0}


@each(FP32)
def test_one_cycle_with_momentum(case: Case) -> None:
    model, optimizer = case.start()
    group = optimizer.param_groups[0]
    key = "betas" if "betas" in optimizer.defaults else "momentum"  # as the schedule decides
    if not optimizer.defaults.get("momentum", "betas" in group):
        pytest.skip("without momentum there is nothing to cycle")
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=STEPS, cycle_momentum=True)
    seen = set()
    for step in range(STEPS - 1):
        backward(model, step)
        optimizer.step()
        schedule.step()
        seen.add(group[key])
    assert len(seen) > 3
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert all(float(error) < 1e-5 for error in metrize.error_on_space(model).values())


@each(FP32)
def test_offloaded_state_is_used_and_saved(case: Case) -> None:
    model, optimizer = case.start()
    train(model, optimizer, 0, 3)
    for state in optimizer.state.values():  # as helpers do that move the state to another device
        for key, value in list(state.items()):
            state[key] = value.clone()
    train(model, optimizer, 3, STEPS)
    assert_same_run(model, optimizer, *straight(case))


@each(cases(spaces=["vector"], dtypes=["fp32"]))
def test_state_written_in_place_counts(case: Case) -> None:
    model, optimizer = case.start()
    optimizer.init_state()
    if any(value.any() for state in optimizer.state.values() for value in state.values()):
        pytest.skip("its state does not start at zero")
    train(model, optimizer, 0, 2)
    for state in optimizer.state.values():
        for value in state.values():
            value.zero_()
    other, twin = case.start()
    other.load_state_dict(model.state_dict())
    train(model, optimizer, 2, 4)
    train(other, twin, 2, 4)
    assert_same_run(model, optimizer, other, twin)


@each(cases(spaces=["vector"], dtypes=["fp32"]))
def test_a_parameter_grown_with_its_state_goes_on(case: Case) -> None:
    p = nn.Parameter(torch.ones(3, 2))
    optimizer = case.optimizer([p])
    set_gradients([p], 0)
    optimizer.step()
    if any(value.ndim and value.shape != p.shape for value in optimizer.state[p].values()):
        pytest.skip("it keeps something of another shape, which its owner would have to grow")
    state = optimizer.state.pop(p)  # as Gaussian splatting densifies its points
    for key, value in state.items():
        if value.shape == p.shape:
            state[key] = torch.cat([value, torch.zeros_like(value)[:2]])
    grown = optimizer.param_groups[0]["params"][0] = nn.Parameter(torch.cat([p.detach(), torch.ones_like(p)[:2]]))
    optimizer.state[grown] = state
    set_gradients([grown], 1)
    before = grown.detach().clone()
    optimizer.step()
    assert float(optimizer.state[grown]["step"]) == 2
    assert not (grown == before).any()


@each(cases(dtypes=["fp32", "bf16"]))
def test_a_parameter_that_outgrew_its_state_is_refused(case: Case) -> None:
    kept = ("exp_avg", "exp_avg_sq", "momentum_buffer")
    p = nn.Parameter(torch.eye(3, dtype=DTYPES[case.dtype]))
    optimizer = case.optimizer([("p", p)], space=SPACES[case.space])
    p.grad = torch.ones_like(p)
    optimizer.step()
    if not any(optimizer.state[p][key].shape == p.shape for key in kept if key in optimizer.state[p]):
        pytest.skip("it keeps nothing of the parameter's shape")
    before = copy.deepcopy(dict(optimizer.state[p]))
    p.data = torch.eye(50, dtype=p.dtype)
    p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match=r"'p' has shape \(50, 50\) now.*delete optimizer.state"):
        optimizer.step()
    assert_same_bits(dict(optimizer.state[p]), before)
    assert same_bits(p, torch.eye(50, dtype=p.dtype))
    del optimizer.state[p]
    optimizer.step()
    assert float(optimizer.state[p]["step"]) == 1


@each(FP32)
def test_parameters_added_and_taken_in_place(case: Case) -> None:
    model = case.model()
    optimizer = case.optimizer(list(model.tall.named_parameters("tall")) + list(model.one.named_parameters("one")))
    homes = {id(p): group["params"] for group in optimizer.param_groups for p in group["params"]}
    train(model, optimizer, 0, 2)
    for one, two in zip(model.one.parameters(), model.two.parameters(), strict=True):
        homes[id(one)].append(two)
    train(model, optimizer, 2, 4)
    assert homes[id(model.tall.weight)].pop(0) is model.tall.weight
    tall = model.tall.weight.detach().clone()
    train(model, optimizer, 4, 6)
    assert same_bits(model.tall.weight, tall)
    assert {float(optimizer.state[p]["step"]) for p in model.one.parameters()} == {6.0}
    assert {float(optimizer.state[p]["step"]) for p in model.two.parameters()} == {4.0}
    assert set(optimizer.state) == {p for group in optimizer.param_groups for p in group["params"]}
    assert all(float(error) < 1e-5 for error in metrize.error_on_space(model).values())


@each(FP32)
def test_forgotten_state_starts_anew(case: Case) -> None:
    model, optimizer = case.start()
    train(model, optimizer, 0, 2)
    optimizer.state.clear()
    other, twin = case.start()
    other.load_state_dict(model.state_dict())
    train(model, optimizer, 2, 4)
    train(other, twin, 2, 4)
    assert_same_run(model, optimizer, other, twin)


@each(FP32)
def test_wrappers_may_keep_their_own_things_in_the_state(case: Case) -> None:
    model, optimizer = case.start()
    kept = optimizer.state[model.one.weight]["z"] = torch.ones(3)  # as schedule-free's wrapper does
    train(model, optimizer, 0, 4)
    assert optimizer.state[model.one.weight]["z"] is kept
    model, optimizer = resumed(case, model, optimizer)
    train(model, optimizer, 4, STEPS)
    assert same_bits(optimizer.state[model.one.weight].pop("z"), torch.ones(3))
    assert_same_run(model, optimizer, *straight(case))


# Tensors of every kind


@each(FP32)
def test_empty_and_scalar_parameters(case: Case) -> None:
    space = {"stiefel": Stiefel()}.get(case.space)
    if space is None:
        params = [nn.Parameter(torch.ones(shape)) for shape in ((0,), (0, 3), (3, 0), (), ())]
    else:
        params = [nn.Parameter(torch.ones(shape)) for shape in ((0, 3, 3), (1, 1), (2, 1, 1))]
    if case.method in ("COAPMuon", "FreeMuon", "Muon", "Scion"):  # whose norms want a matrix with entries
        with pytest.raises(metrize.SpaceError, match=r"'#0 of its group': .* two dimensions at least, and entries"):
            case.optimizer([p for p in params if p.ndim > 1], space=space)
        params = [p for p in params if p.numel()]
    optimizer = case.optimizer(params, space=space)
    for step in range(3):
        set_gradients(params, step)
        optimizer.step()
    assert all(torch.isfinite(p).all() for p in params)
    assert all(torch.isfinite(t).all() for state in optimizer.state.values() for t in state.values())
    assert {float(state["step"]) for state in optimizer.state.values()} == {3.0}
    optimizer.load_state_dict(checkpoint_of(optimizer))


@each(FP32)
def test_a_single_point_stays_where_it_is(case: Case) -> None:
    if case.space == "vector":
        pytest.skip("a vector space has more points than one")
    p = nn.Parameter(-torch.ones(1, 1))  # of which the manifold O(1) has two, apart
    optimizer = case.optimizer([p], space=Stiefel())
    p.grad = torch.ones(1, 1)
    optimizer.step()
    assert float(p.detach()) == -1


@each(BOTH)
def test_exchanged_memory_is_seen(case: Case) -> None:
    model, optimizer = case.start()
    other, twin = case.start()
    for step in range(4):
        backward(model, step)
        backward(other, step)
        optimizer.step()
        twin.step()
        for p in model.parameters():
            p.data = p.data.clone()
    assert_same_run(model, optimizer, other, twin)


@each(FP32)
@pytest.mark.parametrize("dtype", ["bf16", "fp64"])
@pytest.mark.parametrize("made", ["before", "after"])
def test_a_conversion_before_the_first_step_is_honoured(case: Case, dtype: str, made: str) -> None:
    model = case.model()
    optimizer = case.optimizer(model) if made == "before" else None
    model.to(DTYPES[dtype])
    for name, space in metrize.spaces_of(model).items():  # 24 bits are no point of a manifold in 53
        space.project_(model.get_parameter(name))
    optimizer = optimizer or case.optimizer(model)
    train(model, optimizer, 0, 3)
    state = optimizer.state[model.one.weight]
    compute = torch.float64 if dtype == "fp64" else torch.float32
    stored = torch.bfloat16 if dict(case.options).get("moments") else compute
    for key, value in state.items():
        average = key in ("exp_avg", "exp_avg_sq", "momentum_buffer")
        if (value.ndim and value.is_floating_point()) or key == "step":
            assert value.dtype == (torch.float32 if key == "step" else stored if average else compute)
    assert ("master" in state) == (case.space != "vector" and dtype == "bf16")
    assert all(float(error) < 0.1 for error in metrize.error_on_space(model).values())


@each(FP32)
def test_a_conversion_to_16_bits_between_steps_is_honoured(case: Case) -> None:
    model, optimizer = case.start()
    train(model, optimizer, 0, 2)
    model.bfloat16()
    train(model, optimizer, 2, 5)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {float(state["step"]) for state in optimizer.state.values()} == {5.0}
    assert ("master" in optimizer.state[model.one.weight]) == (case.space != "vector")
    if case.space != "vector":
        for p, state in optimizer.state.items():
            assert "master" not in state or same_bits(state["master"].bfloat16(), p)


@each(BOTH)
def test_a_conversion_to_more_bits_between_steps_is_honoured(case: Case) -> None:
    model, optimizer = case.start()
    train(model, optimizer, 0, 2)
    model.to({"fp32": torch.float64, "bf16": torch.float32}[case.dtype])
    train(model, optimizer, 2, 5)
    assert {float(state["step"]) for state in optimizer.state.values()} == {5.0}
    wide = case.model().to(model.one.weight.dtype)
    if case.space == "vector":
        other = case.optimizer(wide)
        other.load_state_dict(optimizer.state_dict())  # it is a state of the new dtype through and through


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, 3)


def layouts(weight: Tensor) -> dict[str, Tensor]:
    """The same numbers in other strides: dense ones, and one with gaps."""
    weight = weight.detach()
    wide = torch.zeros(*weight.shape[:-1], 2 * weight.shape[-1], dtype=weight.dtype)
    return {
        "channels_last": weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight,
        "transposed": weight.transpose(0, 1).contiguous().transpose(0, 1),
        "gaps": wide[..., ::2].copy_(weight),
    }


@each(cases(spaces=["vector"], dtypes=["fp32", "bf16"]))
@pytest.mark.parametrize("layout", ["channels_last", "transposed", "gaps"])
@pytest.mark.parametrize("of", ["parameter", "gradient", "both"])
def test_memory_layouts_make_no_difference(case: Case, layout: str, of: str) -> None:
    torch.manual_seed(0)
    model = Convolution().to(DTYPES[case.dtype])
    other = copy.deepcopy(model)
    if of != "gradient":
        for layer in (other.one, other.two):
            layer.weight = nn.Parameter(layouts(layer.weight)[layout])
    optimizer, twin = case.optimizer(model), case.optimizer(other)
    for step in range(4):
        set_gradients(model.parameters(), step)
        set_gradients(other.parameters(), step)
        if of != "parameter":
            for layer in (other.one, other.two):
                layer.weight.grad = layouts(layer.weight.grad)[layout]
        optimizer.step()
        twin.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)
        for key, value in optimizer.state[p].items():
            torch.testing.assert_close(twin.state[q][key], value)


@each(cases(spaces=["stiefel"], dtypes=["fp32", "bf16"]))
@pytest.mark.parametrize("layout", ["transposed", "gaps"])
def test_memory_layouts_make_no_difference_on_a_manifold(case: Case, layout: str) -> None:
    torch.manual_seed(0)
    points = [torch.linalg.qr(torch.randn(8, 5))[0].to(DTYPES[case.dtype]) for _ in range(3)]
    plain = [nn.Parameter(p.clone()) for p in points]
    strided = [nn.Parameter(layouts(p)[layout]) for p in points]
    optimizer, twin = (case.optimizer(params, space=Stiefel()) for params in (plain, strided))
    for step in range(4):
        set_gradients(plain, step)
        set_gradients(strided, step)
        for p in strided[1:]:
            p.grad = layouts(p.grad)["transposed"]
        optimizer.step()
        twin.step()
    for p, q in zip(plain, strided, strict=True):
        torch.testing.assert_close(p, q)


@each(cases(spaces=["vector"], dtypes=["fp32"]))
def test_a_layout_changed_between_steps_is_seen(case: Case) -> None:
    torch.manual_seed(0)
    model = Convolution()
    other = copy.deepcopy(model)
    optimizer, twin = case.optimizer(model), case.optimizer(other)
    for step in range(4):
        set_gradients(model.parameters(), step)
        set_gradients(other.parameters(), step)
        optimizer.step()
        twin.step()
        if step == 1:
            other.to(memory_format=torch.channels_last)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@each(FP32)
def test_a_gradient_that_is_part_of_a_graph_is_taken_as_numbers(case: Case) -> None:
    model, optimizer = case.start()
    other, twin = copy.deepcopy((model, optimizer))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        p.grad = torch.ones(p.shape, requires_grad=True) * 2
        q.grad = torch.full(q.shape, 2.0)
    optimizer.step()
    twin.step()
    assert all(p.is_leaf for p in model.parameters())
    assert_same_run(model, optimizer, other, twin)


@each(cases(dtypes=["fp32", "bf16"]))
def test_parameters_may_be_views_of_one_buffer(case: Case) -> None:
    space, dtype = SPACES[case.space], DTYPES[case.dtype]
    start = torch.eye(4, 3, dtype=dtype)
    buffer = torch.cat([torch.full((5,), 7.0, dtype=dtype), start.flatten(), start.flatten(), start.flatten()[:5]])
    views = [nn.Parameter(buffer[5:17].view(4, 3)), nn.Parameter(buffer[17:29].view(4, 3))]
    apart = [nn.Parameter(start.clone()) for _ in views]
    optimizers = [case.optimizer(params, space=space) for params in (views, apart)]
    for step in range(3):
        set_gradients(views, step)
        set_gradients(apart, step)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(views, apart)
    assert same_bits(buffer[:5], torch.full((5,), 7.0, dtype=dtype))
    assert same_bits(buffer[29:], start.flatten()[:5])
    assert same_bits(buffer[5:17].view(4, 3), views[0])


@each(FP32)
def test_an_expanded_gradient_is_read_as_what_it_stands_for(case: Case) -> None:
    model, optimizer = case.start()
    other, twin = copy.deepcopy((model, optimizer))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        p.grad = torch.ones(()).expand(p.shape)  # as `p.sum().backward()` may leave it
        q.grad = torch.ones(p.shape)
    optimizer.step()
    twin.step()
    assert_same_run(model, optimizer, other, twin)


def test_a_lazily_conjugated_gradient_is_resolved() -> None:
    p = nn.Parameter(torch.randn(5, dtype=torch.complex64))
    q = nn.Parameter(p.detach().clone())
    grad = torch.randn(5, dtype=torch.complex64)
    p.grad, q.grad = grad.conj(), grad.conj().resolve_conj()
    for parameter in (p, q):
        metrize.Adam([parameter], lr=0.1).step()
    assert same_bits(p, q)


@each(ALL)
def test_a_batch_of_many_gives_the_numbers_of_each_alone(case: Case) -> None:
    torch.manual_seed(0)
    space, dtype = SPACES[case.space], DTYPES[case.dtype]
    points = [torch.linalg.qr(torch.randn(6, 4, dtype=torch.float64))[0].to(dtype) for _ in range(72)]
    many = [nn.Parameter(p.clone()) for p in points]
    alone = [nn.Parameter(p.clone()) for p in points[::12]]
    optimizer = case.optimizer(many, space=space)
    if not case.alone:
        pytest.skip("every parameter counts for the step of each")
    if case.space != "vector" and case.method in ("Adam8bit", "Adam4bit"):
        pytest.skip("the rounding of a lift decides between neighbouring codes")
    singles = [case.optimizer([p], space=space) for p in alone]
    optimizer.init_state()
    for p, q, single in zip(many[::12], alone, singles, strict=True):
        single.init_state()
        if "phase" in single.state[q]:  # of a refresh, which is spread over the parameters
            single.state[q]["phase"].copy_(optimizer.state[p]["phase"])
    for step in range(4):
        set_gradients(many, step)
        for p, q in zip(many[::12], alone, strict=True):
            q.grad = p.grad.clone()
        optimizer.step()
        for single in singles:
            single.step()
    for p, q, single in zip(many[::12], alone, singles, strict=True):
        torch.testing.assert_close(p, q)
        for key, value in single.state[q].items():
            rounding = {torch.bfloat16: 1e-2, torch.float32: 1e-4, torch.float64: 1e-10}
            tolerance = {"rtol": rounding.get(value.dtype, 0), "atol": 1e-4}
            torch.testing.assert_close(optimizer.state[p][key], value, **tolerance)


# Groups


def test_a_group_may_have_its_own_recipe_and_numbers() -> None:
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(4, 3)) for _ in range(3)]
    start = [p.detach().clone() for p in params]
    optimizer = metrize.Adam(
        [
            {"params": params[:1]},
            {"params": params[1:2], "recipe": metrize.SGD.recipe(), "lr": 0.5},
            {"params": params[2:], "recipe": metrize.SGD.recipe(), "momentum": 0.3, "nesterov": True},
        ],
        lr=0.1,
    )
    rivals = [
        torch.optim.Adam([nn.Parameter(start[0].clone())], lr=0.1, fused=True),
        torch.optim.SGD([nn.Parameter(start[1].clone())], lr=0.5, momentum=0.9, fused=True),
        torch.optim.SGD([nn.Parameter(start[2].clone())], lr=0.1, momentum=0.3, nesterov=True, fused=True),
    ]
    for step in range(4):
        set_gradients(params, step)
        for p, rival in zip(params, rivals, strict=True):
            rival.param_groups[0]["params"][0].grad = p.grad.clone()
            rival.step()
        optimizer.step()
    for p, rival in zip(params, rivals, strict=True):
        assert same_bits(p, rival.param_groups[0]["params"][0])
    assert optimizer.recipes()[1].rule == rules.Momentum()
    optimizer.load_state_dict(checkpoint_of(optimizer))


def test_a_group_may_have_its_own_space() -> None:
    free = nn.Parameter(torch.randn(6, 3))
    bound = nn.Parameter(torch.linalg.qr(torch.randn(6, 3))[0])
    optimizer = metrize.Adam([{"params": [free]}, {"params": [bound], "space": Stiefel()}], lr=0.1)
    for step in range(5):
        set_gradients([free, bound], step)
        optimizer.step()
    assert float(Stiefel().error_of(bound)) < 1e-5
    assert float(Stiefel().error_of(free)) > 0.1
    optimizer.load_state_dict(checkpoint_of(optimizer))


def test_a_group_added_later_is_trained_and_saved() -> None:
    model = build(Stiefel())
    optimizer = metrize.Adam(list(model.tall.named_parameters()), lr=0.02)
    train(model, optimizer, 0, 2)
    optimizer.add_param_group({"params": list(model.one.named_parameters()), "lr": 0.5})
    before = snapshot(model, optimizer)["weights"]
    train(model, optimizer, 2, 4)
    after = snapshot(model, optimizer)["weights"]
    changed = {name for name in after if not same_bits(before[name], after[name])}
    assert changed == {"tall.weight", "tall.bias", "one.weight", "one.bias"}
    assert float(optimizer.state[model.tall.weight]["step"]) == 4
    assert float(optimizer.state[model.one.weight]["step"]) == 2
    assert float(Stiefel().error_of(model.one.weight)) < 1e-5


@each(FP32)
def test_groups_hold_nothing_the_safe_loader_refuses(case: Case) -> None:
    model, optimizer = case.start()
    train(model, optimizer, 0, 1)
    assert_same_bits(checkpoint_of(optimizer), optimizer.state_dict())
    kinds = (int, float, str, bool, tuple, list, Tensor, type(None))
    assert all(isinstance(value, kinds) for group in optimizer.param_groups for value in group.values())


@each(FP32)
def test_schedulers_find_what_they_write(case: Case) -> None:
    _, optimizer = case.start()
    assert {"lr", "weight_decay"} <= optimizer.param_groups[0].keys()
    assert {"lr", "weight_decay"} <= optimizer.defaults.keys()


def test_a_frozen_parameter_has_no_state_until_it_is_thawed() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].requires_grad_(False)
    optimizer = metrize.AdamW(model, lr=0.1)
    frozen = model[0].weight.detach().clone()

    def step() -> None:
        optimizer.zero_grad()
        model(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()

    step()
    assert set(optimizer.state) == set(model[1].parameters())
    assert torch.equal(model[0].weight, frozen)
    model[0].requires_grad_(True)
    step()
    assert not torch.equal(model[0].weight, frozen)
    assert [int(optimizer.state[p]["step"]) for p in model.parameters()] == [1, 1, 2, 2]
