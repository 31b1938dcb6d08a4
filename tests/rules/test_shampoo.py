"""Shampoo: reference trajectories, identities, blocks, grafting, bad luck."""

import json
from pathlib import Path

import pytest
import torch

import metrize
from metrize import parse, rules
from metrize.frames import FrameError
from metrize.named.shampoo import DistributedShampoo, Shampoo

GOLDEN = Path(__file__).parents[1] / "golden" / "shampoo.json"
CASES = {case["name"]: case for case in json.loads(GOLDEN.read_text())["cases"]}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def built(params, hyper):
    """The optimizer that a case's numbers describe."""
    if "exponent" in hyper:
        exponent = hyper["exponent"] if isinstance(hyper["exponent"], float) else None
        return Shampoo(params, lr=hyper["lr"], eps=hyper["eps"], exponent=exponent and -exponent)
    known = {"grafting": "none", "merge_dims": hyper["target_parameter_dimensionality"] == 1}
    if hyper.get("grafting", "").startswith("Adam"):
        known |= {"grafting": "adam", "grafting_beta2": 0.75, "grafting_epsilon": 1e-8}
    elif "grafting" in hyper:
        known["grafting"] = hyper["grafting"].lower()
    left_out = ("grafting", "target_parameter_dimensionality")
    return DistributedShampoo(params, **{k: v for k, v in hyper.items() if k not in left_out}, **known)


@pytest.mark.parametrize("name", CASES)
def test_reference_trajectories(name):
    case = CASES[name]
    params = {key: torch.nn.Parameter(double(value)) for key, value in case["params_init"].items()}
    optimizer = built(list(params.values()), case["hyperparameters"])
    officials = case.get("params_after_official", case["params_after"])
    for grads, expected, official in zip(case["grads"], case["params_after"], officials, strict=True):
        for key, p in params.items():
            p.grad = double(grads[key])
        optimizer.step()
        for key, p in params.items():
            torch.testing.assert_close(p.detach(), double(expected[key]), rtol=0, atol=1e-10)
            torch.testing.assert_close(p.detach(), double(official[key]), rtol=0, atol=1e-6)


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def trained(optimizer_of, start, grads):
    """The parameter after steps with these gradients."""
    p = torch.nn.Parameter(start.clone())
    optimizer = optimizer_of([p])
    for grad in grads:
        p.grad = grad.clone()
        optimizer.step()
    return p.detach(), optimizer


def polar(g):
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    return u @ vh


@pytest.mark.parametrize("shape", [(4, 4), (3, 6), (6, 3), (1, 5)])
def test_with_one_gradient_a_matrix_moves_along_its_polar_factor(shape):
    g = drawn(*shape)
    after, _ = trained(lambda p: Shampoo(p, lr=1.0, eps=1e-14), torch.zeros_like(g), [g])
    torch.testing.assert_close(-after, polar(g), rtol=0, atol=1e-6)
    one_sided = {2: (0.5, 0)} if shape[0] <= shape[1] else {2: (0, 0.5)}
    after, _ = trained(lambda p: Shampoo(p, lr=1.0, eps=1e-14, exponent=one_sided), torch.zeros_like(g), [g])
    torch.testing.assert_close(-after, polar(g), rtol=0, atol=1e-6)
    both = trained(lambda p: Shampoo(p, lr=1.0, eps=1e-14, exponent=0.5), torch.zeros_like(g), [g])[0]
    torch.testing.assert_close(-both, torch.linalg.pinv(g).mT, rtol=0, atol=1e-5)


def test_a_vector_with_one_gradient_moves_along_it():
    g = drawn(5)
    after, _ = trained(lambda p: Shampoo(p, lr=1.0, eps=1e-14), torch.zeros_like(g), [g])
    torch.testing.assert_close(-after, g / g.norm(), rtol=0, atol=1e-6)


def test_a_number_is_adagrad_s():
    grads = [double(2.0), double(-1.0), double(0.5)]
    after, _ = trained(lambda p: Shampoo(p, lr=0.1, eps=1e-4), double(1.0), grads)
    rival = torch.nn.Parameter(double(1.0))
    adagrad = torch.optim.Adagrad([rival], lr=0.1, eps=0, initial_accumulator_value=1e-4)
    for grad in grads:
        rival.grad = grad
        adagrad.step()
    torch.testing.assert_close(after, rival.detach())


def test_blocks_are_parameters_of_their_own():
    start, grads = drawn(5, 4), [drawn(5, 4, seed=s) for s in range(1, 6)]
    options = {
        "lr": 0.1,
        "merge_dims": False,
        "grafting": "rmsprop",
        "grafting_beta2": 0.9,
        "precondition_frequency": 2,
    }
    whole, _ = trained(lambda p: DistributedShampoo(p, max_preconditioner_dim=3, **options), start, grads)
    for rows in (slice(0, 3), slice(3, 5)):
        for columns in (slice(0, 3), slice(3, 4)):
            at = (rows, columns)
            part, _ = trained(
                lambda p: DistributedShampoo(p, max_preconditioner_dim=99, **options), start[at], [g[at] for g in grads]
            )
            torch.testing.assert_close(whole[at], part, rtol=0, atol=1e-13)


def test_merged_dimensions_are_one():
    start, grads = drawn(3, 2, 4), [drawn(3, 2, 4, seed=s) for s in range(1, 4)]
    merged, _ = trained(lambda p: DistributedShampoo(p, max_preconditioner_dim=6), start, grads)
    flat, _ = trained(
        lambda p: DistributedShampoo(p, merge_dims=False), start.reshape(6, 4), [g.reshape(6, 4) for g in grads]
    )
    torch.testing.assert_close(merged, flat.reshape(3, 2, 4), rtol=0, atol=1e-13)


@pytest.mark.parametrize("graft", ["sgd", "adagrad", "rmsprop", "adam"])
def test_a_grafted_step_has_the_length_of_the_grafted_method(graft):
    start, grads = drawn(4, 3), [drawn(4, 3, seed=s) for s in range(1, 5)]
    betas, lr = (0.0, 0.9), 0.1
    moved, lengths = start, []
    rivals = {
        "sgd": lambda p: torch.optim.SGD(p, lr=lr),
        "adagrad": lambda p: torch.optim.Adagrad(p, lr=lr, eps=1e-10),
        "rmsprop": lambda p: torch.optim.RMSprop(p, lr=lr, alpha=0.99, eps=1e-10),
        "adam": lambda p: torch.optim.Adam(p, lr=lr, betas=(0.0, 0.99), eps=1e-10),
    }
    for count in range(1, len(grads) + 1):
        after, _ = trained(
            lambda p: DistributedShampoo(p, lr, betas, grafting=graft, grafting_beta2=0.99, merge_dims=False),
            start,
            grads[:count],
        )
        rival, _ = trained(rivals[graft], start, grads[:count])
        lengths.append(((after - moved).norm(), rival))
        moved = after
    before = start
    for length, rival in lengths:
        torch.testing.assert_close(length, (rival - before).norm(), rtol=1e-9, atol=0)
        before = rival


def test_roots_are_taken_on_time(monkeypatch):
    taken = []
    monkeypatch.setattr("metrize.rules.shampoo.inverse_power", lambda a, *_: taken.append(now) or torch.eye(len(a)))
    p = torch.nn.Parameter(drawn(3, 2))
    optimizer = DistributedShampoo(
        [p], precondition_frequency=3, start_preconditioning_step=4, merge_dims=False, grafting="sgd"
    )
    for now in range(1, 12):
        p.grad = drawn(3, 2, seed=now)
        optimizer.step()
    assert taken == [4, 4, 6, 6, 9, 9]


def test_a_late_gradient_has_its_own_count():
    early, late = (torch.nn.Parameter(drawn(3, 3)) for _ in range(2))
    alone = torch.nn.Parameter(drawn(3, 3))
    options = {"betas": (0.9, 0.9), "precondition_frequency": 2, "grafting": "adam", "merge_dims": False}
    together, single = DistributedShampoo([early, late], **options), DistributedShampoo([alone], **options)
    for step in range(8):
        early.grad = drawn(3, 3, seed=step)
        if step >= 3:
            late.grad = drawn(3, 3, seed=step)
            alone.grad = late.grad.clone()
            single.step()
        together.step()
    torch.testing.assert_close(late, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-18, 1e15])
@pytest.mark.parametrize("shape", [(4, 6), (5,), (2, 3, 4)])
def test_the_step_does_not_depend_on_the_scale_of_the_loss(shape, scale):
    grads = [drawn(*shape, seed=s) for s in range(4)]
    start = torch.zeros(shape, dtype=torch.float64)
    plain, _ = trained(lambda p: Shampoo(p, lr=1.0, eps=1e-10), start, grads)
    scaled, _ = trained(lambda p: Shampoo(p, lr=1.0, eps=1e-10 * scale**2), start, [g * scale for g in grads])
    torch.testing.assert_close(plain, scaled, rtol=0, atol=1e-9)


def test_zero_gradients_move_nothing():
    for optimizer_of in (Shampoo, DistributedShampoo, lambda p: DistributedShampoo(p, grafting="adagrad")):
        start = drawn(3, 4, dtype=torch.float32)
        after, _ = trained(optimizer_of, start, [torch.zeros(3, 4)] * 3)
        assert torch.equal(after, start)


def test_factors_are_float32_for_a_16_bit_parameter_and_resume_to_the_bit():
    def run(saved, steps):
        p = torch.nn.Parameter(drawn(6, 4, dtype=torch.bfloat16))
        optimizer = DistributedShampoo([p], max_preconditioner_dim=4, merge_dims=False, grafting="adam")
        if saved:
            p.data.copy_(saved[0])
            optimizer.load_state_dict(saved[1])
        for step in steps:
            p.grad = drawn(6, 4, seed=step, dtype=torch.bfloat16)
            optimizer.step()
        return p, optimizer

    straight, optimizer = run(None, range(7))
    assert {v.dtype for k, v in optimizer.state[straight].items() if k != "failures"} == {torch.float32}
    half, first = run(None, range(3))
    resumed, second = run((half.detach(), first.state_dict()), range(3, 7))
    assert torch.equal(straight, resumed)
    for key, value in optimizer.state[straight].items():
        assert torch.equal(value, second.state[resumed][key]), key


def test_state_is_what_the_paper_counts():
    p = torch.nn.Parameter(drawn(6, 4, dtype=torch.float32))
    p.grad = drawn(6, 4, dtype=torch.float32)
    optimizer = Shampoo([p])
    optimizer.step()
    assert sum(v.numel() for k, v in optimizer.state[p].items() if k.startswith("block")) == 2 * 6**2 + 2 * 4**2


# Bad luck


def failing(monkeypatch, times=None):
    """Make decompositions fail."""
    calls = []
    real = torch.linalg.eigh

    def eigh(a):
        calls.append(a.dtype)
        if times is None or len(calls) <= times:
            raise torch.linalg.LinAlgError("bad luck")
        return real(a)

    monkeypatch.setattr(torch.linalg, "eigh", eigh)
    return calls


def test_a_root_that_fails_is_tried_in_float64(monkeypatch):
    grads = [drawn(4, 3, seed=s, dtype=torch.float32) for s in range(2)]
    start = torch.zeros(4, 3)
    plain, _ = trained(Shampoo, start, grads)
    calls = failing(monkeypatch, times=1)
    lucky, _ = trained(Shampoo, start, grads)
    assert calls[:2] == [torch.float32, torch.float64]
    torch.testing.assert_close(plain, lucky, rtol=1e-3, atol=1e-4)


def test_three_failures_in_a_row_are_an_error_that_names_the_parameter(monkeypatch):
    p = torch.nn.Parameter(drawn(4, 3, dtype=torch.float32))
    optimizer = Shampoo([("layer.weight", p)])
    p.grad = drawn(4, 3, seed=1, dtype=torch.float32)
    optimizer.step()
    root = optimizer.state[p]["block_0.root_0"].clone()
    failing(monkeypatch)
    for _ in range(2):
        optimizer.step()
    assert int(optimizer.state[p]["failures"]) == 2
    assert torch.equal(optimizer.state[p]["block_0.root_0"], root)
    before = p.detach().clone()
    with pytest.raises(FrameError, match=r"'layer.weight'.*three times in a row"):
        optimizer.step()
    assert torch.equal(p, before)
    monkeypatch.undo()
    optimizer.step()
    assert int(optimizer.state[p]["failures"]) == 0


def test_a_gradient_that_is_not_finite_does_not_poison_the_factors():
    p = torch.nn.Parameter(drawn(3, 3, dtype=torch.float32))
    optimizer = Shampoo([p], skip_nonfinite=False)
    for bad in (float("nan"), 1e30):
        p.grad = torch.full((3, 3), bad)
        optimizer.step()
        kept = optimizer.state[p]
        assert all(torch.isfinite(v).all() for k, v in kept.items() if k.startswith("block"))


def test_recipes_read_back_and_bad_options_are_refused():
    rule = rules.Shampoo(exponents=((2, 0.5, 0.25), (1, 0.5)), max_dim=16, merge_dims=True, period=4, graft="adam")
    assert parse(repr(rule)) == rule
    for options in (
        {"graft": "lion"},
        {"period": 0},
        {"max_dim": 0},
        {"merge_dims": True},
        {"exponents": ((2, 1, 1, 1),)},
    ):
        with pytest.raises(ValueError, match=r"Shampoo\("):
            rules.Shampoo(**options)
    p = torch.nn.Parameter(torch.eye(3))
    for hyper in ({"betas": (1.0, 0.9)}, {"epsilon": 0.0}, {"grafting_beta2": 1.0}):
        with pytest.raises(ValueError, match="number"):
            DistributedShampoo([p], **hyper)
    with pytest.raises(metrize.SpaceError, match="vector space"):
        metrize.Optimizer([p], Shampoo.recipe().replace(space=metrize.Stiefel()))
