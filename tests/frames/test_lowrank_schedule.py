"""When low-rank bases are refreshed, what happens where that fails, and that a run can be resumed."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from tests.frames.lowrank import low_rank
from torch import Tensor, nn

import metrize
from metrize import Dense, Recipe, frames, moments, parse, rules
from metrize.frames import FrameError, bases

FRAMES = [
    frames.GaLore(rank=2, period=3),
    frames.GaLore(rank=2, period=3, side="full", method="sketch", carry="squares", dtype="bfloat16"),
    frames.COAP(rank=2, period=2, reproject=2, conv_above=10),
    frames.COAP(ratio=2.0, period=2, reproject=2, conv_above=10, normalize=False, carry="root"),
    frames.APOLLO(rank=2, period=3),
    frames.APOLLO(rank=1, period=3, granularity="tensor", scale=128.0, projection="svd"),
    frames.OnlineSubspace(rank=2),
    frames.OnlineSubspace(rank=2, period=3, side="reverse_std", carry="squares"),
]
SHAPES = [(), (5,), (6, 4), (4, 6), (6, 4), (1, 7), (2, 3, 4), (4, 3, 3, 3), (4, 6, 1, 1), (2, 2, 3, 2, 2), (0, 3)]


def optimizer(params: Any, frame: frames.Frame, **numbers: Any) -> metrize.Optimizer:
    recipe = Recipe(frame=frame, rule=rules.Adam(bias_correction="step"), decay="after")
    return metrize.Optimizer(params, recipe, lr=1e-2, **numbers)


def parameters(dtype: torch.dtype = torch.float32, shapes: Any = SHAPES) -> list[nn.Parameter]:
    g = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=g).to(dtype)) for shape in shapes]


def set_gradients(params: list[nn.Parameter], step: int) -> None:
    g = torch.Generator().manual_seed(100 + step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=g).to(p.dtype)


@pytest.mark.parametrize("frame", FRAMES, ids=str)
def test_a_frame_is_a_sentence(frame):
    assert parse(repr(frame)) == frame
    assert parse(str(frame)) == frame


@pytest.mark.parametrize(
    ("part", "options"),
    [
        (frames.GaLore, {"rank": 0}),
        (frames.GaLore, {"period": 0}),
        (frames.GaLore, {"scale": 0.0}),
        (frames.GaLore, {"side": "up"}),
        (frames.GaLore, {"method": "guess"}),
        (frames.GaLore, {"carry": "all"}),
        (frames.GaLore, {"dtype": "float16"}),
        (frames.COAP, {"rank": 0}),
        (frames.COAP, {"ratio": 0.5}),
        (frames.COAP, {"conv_ratio": 0.5}),
        (frames.COAP, {"reproject": 0}),
        (frames.APOLLO, {"granularity": "row"}),
        (frames.APOLLO, {"projection": "none"}),
        (frames.APOLLO, {"growth": 1.0}),
        (frames.OnlineSubspace, {"rate": 1.5}),
        (frames.OnlineSubspace, {"side": "up"}),
        (moments.RandomProjection, {"rank": 0}),
        (moments.RandomProjection, {"max_aspect": 0.5}),
    ],
    ids=str,
)
def test_options_that_do_not_exist(part, options):
    with pytest.raises(ValueError, match=f"{part.__name__}.*{next(iter(options))}"):
        part(**options)


@pytest.mark.parametrize("frame", FRAMES, ids=str)
def test_any_rank_and_zero_gradients(frame):
    params = parameters()
    opt = optimizer(params, frame)
    before = [p.detach().clone() for p in params]
    for _ in range(4):
        for p in params:
            p.grad = torch.zeros_like(p)
        opt.step()
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))
    for step in range(8):
        set_gradients(params, step)
        opt.step()
    for p, b in zip(params, before, strict=True):
        assert torch.isfinite(p).all()
        assert p.numel() == 0 or not torch.equal(p, b)
        assert all(torch.isfinite(value).all() for value in opt.state[p].values())
        assert set(opt.state[p]) == set(opt.spec(opt.param_groups[0], [q is p for q in params].index(True)))


@pytest.mark.parametrize("frame", FRAMES, ids=str)
def test_tensors_without_a_subspace_are_plain(frame):
    params, plain = ([nn.Parameter(p.detach().clone()) for p in parameters(shapes=[(), (5,), (2, 3, 4)])] for _ in "ab")
    opt, other = optimizer(params, frame), optimizer(plain, frames.Identity())
    for step in range(3):
        set_gradients(params, step)
        set_gradients(plain, step)
        opt.step()
        other.step()
    for p, q in zip(params, plain, strict=True):
        assert torch.equal(p, q)
        assert set(opt.state[p]) == {"step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize("frame", [frames.GaLore(rank=5), frames.COAP(rank=4), frames.APOLLO(rank=5)], ids=str)
def test_a_rank_the_matrix_does_not_have_is_plain(frame):
    assert frame.ranks(torch.Size((6, 4))) == {}
    assert frame.shape(torch.Size((6, 4))) == (6, 4)
    assert frame.state_spec(torch.Size((6, 4)), torch.float32) == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("frame", FRAMES, ids=str)
def test_resume_bit_for_bit(frame, dtype):
    params = parameters(dtype)
    opt = optimizer(params, frame, weight_decay=0.1)
    for step in range(3):
        set_gradients(params, step)
        opt.step()
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    others = [nn.Parameter(p.detach().clone()) for p in params]
    fresh = optimizer(others, frame, weight_decay=0.1)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    for step in range(3, 9):
        for members, one in ((params, opt), (others, fresh)):
            set_gradients(members, step)
            one.step()
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)
        assert all(torch.equal(opt.state[p][key], fresh.state[q][key]) for key in opt.state[p])


def count_refreshes(monkeypatch: pytest.MonkeyPatch, frame: frames.Frame, steps: int, count: int = 6) -> list[int]:
    """How many bases are made in each step of a model of equal matrices."""
    params = parameters(shapes=[(5, 4)] * count)
    made: list[int] = []
    find = type(frame).find

    def counting(self: Any, grad: Tensor, state: dict[str, Tensor]) -> dict[int, Tensor]:
        made[-1] += 1
        return find(self, grad, state)

    monkeypatch.setattr(type(frame), "find", counting)
    opt = optimizer(params, frame)
    for step in range(steps):
        made.append(0)
        set_gradients(params, step)
        opt.step()
    return made


@pytest.mark.parametrize("stagger", [True, False])
@pytest.mark.parametrize("cls", [frames.GaLore, frames.APOLLO, frames.COAP])
def test_refreshes_are_spread_over_the_period(cls, stagger, monkeypatch):
    made = count_refreshes(monkeypatch, cls(rank=2, period=3, stagger=stagger), 10)
    # two have their turn at the first step anyway; afterwards each has it every third step
    assert made == ([6, 2, 2, 2, 2, 2, 2, 2, 2, 2] if stagger else [6, 0, 0, 6, 0, 0, 6, 0, 0, 6])


def test_a_period_may_be_longer_than_any_run():
    params = parameters(shapes=[(5, 4)] * 3)
    opt = optimizer(params, frames.GaLore(rank=2, period=10**15))
    opt.init_state()
    assert [int(opt.state[p]["phase"]) for p in params] == [0, 1, 2]


def test_random_bases_have_seeds_of_their_own():
    params = parameters(shapes=[(5, 4)] * 3)
    opt = optimizer(params[:2], frames.APOLLO(rank=2))
    opt.init_state()
    opt.add_param_group({"params": params[2:]})
    opt.init_state()
    assert [int(opt.state[p]["seed"]) for p in params] == [1, 2, 3]


@pytest.mark.parametrize("stagger", [True, False])
def test_new_bases_of_coap_are_spread_as_well(stagger, monkeypatch):
    frame = frames.COAP(rank=2, period=2, reproject=3, stagger=stagger)
    anew: list[int] = []
    params = parameters(shapes=[(5, 4)] * 2)
    monkeypatch.setattr(
        "metrize.frames.coap.sketched", lambda g, dim, start: anew.append(1) or bases.sketched(g, dim, start)
    )
    opt, made = optimizer(params, frame), []
    for step in range(13):
        set_gradients(params, step)
        opt.step()
        made.append(len(anew))
        anew.clear()
    # every sixth step for each of the two, never both at once but at the first step
    assert made == ([2, 0, 0, 0, 0, 0, 2] + [0] * 5 + [2] if not stagger else [2, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1])


@pytest.mark.parametrize("frame", [frames.GaLore(rank=2, period=2), frames.COAP(rank=2, period=2)], ids=str)
def test_a_first_gradient_of_zero_is_not_the_basis(frame):
    p = nn.Parameter(torch.ones(5, 4))
    opt = optimizer([p], frame)
    for _ in range(5):
        p.grad = torch.zeros_like(p)
        opt.step()
    assert not opt.state[p]["basis_1"].any()
    assert opt.state[p]["failures"] == 1
    p.grad = low_rank((5, 4), 2, seed=0, noise=0.0)
    opt.step()
    q = opt.state[p]["basis_1"]
    torch.testing.assert_close(p.grad @ q @ q.mT, p.grad)
    assert opt.state[p]["failures"] == 0


def test_gradients_that_are_not_finite_leave_the_basis(recwarn):
    p, other = nn.Parameter(torch.ones(5, 4)), nn.Parameter(torch.ones(5, 4))
    frame = frames.GaLore(rank=2, period=1)
    opt = optimizer([("body.weight", p), ("head.weight", other)], frame, skip_nonfinite=False)
    for q in (p, other):
        q.grad = low_rank((5, 4), 2, seed=0)
    opt.step()
    basis = opt.state[other]["basis_1"].clone()
    for failures in (1, 2):
        other.grad = torch.full((5, 4), torch.nan)
        opt.step()
        assert torch.equal(opt.state[other]["basis_1"], basis)
        assert opt.state[other]["failures"] == failures
        assert opt.state[p]["failures"] == 0
    with pytest.raises(FrameError, match=r"parameter 'head.weight': no basis .* 3 gradients in a row.* nan"):
        opt.step()


@pytest.mark.parametrize("exception", [torch.linalg.LinAlgError, None])
def test_a_decomposition_that_fails_is_tried_in_float64(exception, monkeypatch):
    seen = []

    def failing(grad: Tensor, rank: int, dims: list[int]) -> dict[int, Tensor]:
        seen.append(grad.dtype)
        if grad.dtype == torch.float32:
            if exception:
                raise exception("did not converge")
            return {1: torch.full((4, 2), torch.nan)}
        return bases.leading(grad, rank, dims)

    monkeypatch.setattr("metrize.frames.galore.leading", failing)
    p = nn.Parameter(torch.ones(5, 4))
    opt = optimizer([p], frames.GaLore(rank=2))
    p.grad = low_rank((5, 4), 2, seed=0)
    opt.step()
    assert seen == [torch.float32, torch.float64]
    assert opt.state[p]["failures"] == 0
    assert opt.state[p]["basis_1"].any()


def test_three_decompositions_that_fail(monkeypatch):
    monkeypatch.setattr("metrize.frames.galore.leading", lambda grad, rank, dims: {1: torch.full((4, 2), torch.nan)})
    p = nn.Parameter(torch.ones(5, 4))
    opt = optimizer([p], frames.GaLore(rank=2))
    p.grad = low_rank((5, 4), 2, seed=0)
    opt.step()
    opt.step()
    assert torch.equal(p, torch.ones(5, 4))
    with pytest.raises(FrameError, match="parameter '#0 of its group'"):
        opt.step()


@pytest.mark.parametrize("frame", FRAMES, ids=str)
def test_parameters_in_one_batch_do_not_disturb_each_other(frame):
    """Equal matrices share a batch, and have their turns at different steps."""
    together = parameters(shapes=[(6, 4)] * 3)
    alone = copy.deepcopy(together)
    opt = optimizer(together, frame)
    opt.init_state()
    singles = []
    for p, q in zip(together, alone, strict=True):
        one = optimizer([q], frame)
        one.init_state()
        for key in {"phase", "seed"} & opt.state[p].keys():
            one.state[q][key].copy_(opt.state[p][key])
        singles.append(one)
    for step in range(7):
        for members in (together, alone):
            set_gradients(members, step)
        for one in (opt, *singles):
            one.step()
    for p, q in zip(together, alone, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_looking_at_an_average_does_not_round_it_again():
    """Codes of 8 bits whose largest number is negative shrink whenever they are read and written."""
    storage, average = moments.Quantized(smallest=0), -low_rank((6, 4), 2, seed=0)[None]
    slot = moments.Slot("exp_avg", "linear", torch.Size((6, 4)), torch.float32, lambda stack: stack)
    spec = storage.state_spec("exp_avg", slot.shape, torch.float32, "linear")
    state = {key: torch.zeros(2, *shape, dtype=dtype) for key, (shape, dtype) in spec.items()}
    storage.write(slot, state, average.expand(2, 6, 4))
    averages = moments.Averages(storage, state, {"exp_avg": slot})
    before, seen = copy.deepcopy(state), []
    averages.turn("linear", lambda x: seen.append(x.clone()))
    assert all(torch.equal(state[key], before[key]) for key in state)
    assert seen[0].shape == (2, 6, 4)
    averages.turn("linear", lambda x: -x, 1)
    for key in state:
        assert torch.equal(state[key][0], before[key][0])
        assert not torch.equal(state[key][1], before[key][1])


def test_storage_of_the_averages_is_free():
    p = nn.Parameter(torch.ones(6, 4))
    recipe = Recipe(frame=frames.GaLore(rank=2), moments=Dense("bfloat16"), rule=rules.Momentum())
    opt = metrize.Optimizer([p], recipe, lr=1e-2)
    p.grad = low_rank((6, 4), 2, seed=0)
    opt.step()
    assert opt.state[p]["momentum_buffer"].dtype == torch.bfloat16
    assert opt.state[p]["momentum_buffer"].shape == (6, 2)
