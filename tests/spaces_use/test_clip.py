"""Clipping by the norm of the lift: torch's where nothing is constrained, the metric's where something is."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn

import metrize
from metrize import Grassmann, Orthogonal, Product, SpaceError, Sphere, Stiefel, Vector

SPACES = {
    "stiefel": (Stiefel(), (9, 3)),
    "wide fused": (Stiefel(blocks=3), (9, 8)),
    "batch": (Stiefel(retraction="geodesic"), (4, 7, 2)),
    "square": (Orthogonal(), (4, 4)),
    "grassmann": (Grassmann(blocks=2), (6, 8)),
    "sphere": (Sphere(axis=-1, radius=2.0), (5, 6)),
    "product": (Product(Stiefel(section="transported"), 6, Product(Sphere(axis=-1), 2, Vector())), (11, 4)),
    "vector": (Vector(), (5, 3)),
}
every_space = pytest.mark.parametrize(("space", "shape"), SPACES.values(), ids=SPACES)


def gaussian(shape, seed, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def weight(space, shape, seed=0, dtype=torch.float64, scale=3.0):
    p = nn.Parameter(space.random_(torch.empty(shape, dtype=dtype), torch.Generator().manual_seed(seed)))
    p.grad = gaussian(shape, seed + 100, dtype) * scale
    return p


def lift_norm(space, p, turn=None):
    """By the optimizer's own way: the first step of gradient descent with lr 1 is the lift."""
    state = {"step": torch.ones(1)}
    for key, (shape, dtype) in space.state_spec(p.shape, p.dtype).items():
        state[key] = torch.zeros(1, *shape, dtype=dtype)
    points = space.points(p.detach().clone().unsqueeze(0))
    space.init_state(points, state)
    if turn is not None:
        state["section"].copy_(state["section"] @ turn)
    lifted = space.lift(points, space.points(p.grad.unsqueeze(0)), space.section_at(points, state))
    return space.sq_norm(lifted).sum().sqrt()


def module_with(*members):
    module = nn.Module()
    for at, (space, p) in enumerate(members):
        module.register_parameter(f"w{at}", p)
        if not space.flat:
            metrize.constrain(module, f"w{at}", space, project=False)
    return module


@every_space
def test_the_norm_is_that_of_the_lift(space, shape):
    p = weight(space, shape)
    expected = lift_norm(space, p)
    before = p.grad.clone()
    total = metrize.clip_lift_norm_(p, math.inf, space=space)
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=0)
    assert torch.equal(p.grad, before)


@every_space
def test_what_is_left_has_exactly_the_norm_that_was_asked_for(space, shape):
    p = weight(space, shape)
    before = p.grad.clone()
    total = metrize.clip_lift_norm_([p], 0.25, space=space)
    assert total > 0.25
    left = lift_norm(space, p)
    torch.testing.assert_close(left, 0.25 * total / (total + 1e-6), rtol=1e-12, atol=0)
    torch.testing.assert_close(p.grad, before * (0.25 / (total + 1e-6)), rtol=1e-12, atol=0)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 4), extra=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_the_norm_does_not_depend_on_the_section(seed, n, extra):
    rows = n + extra
    p = weight(Stiefel(), (rows, n), seed)
    y, g = p.detach(), p.grad
    a = y.mT @ g - g.mT @ y
    formula = (a.square().sum() / 2 + (g - y @ (y.mT @ g)).square().sum()).sqrt()
    turn = torch.linalg.qr(gaussian((extra, extra), seed + 1))[0]
    for space in (Stiefel(), Stiefel(section="redrawn"), Stiefel(section="transported")):
        torch.testing.assert_close(metrize.clip_lift_norm_(p, math.inf, space=space), formula)
        torch.testing.assert_close(lift_norm(space, p), formula)
    torch.testing.assert_close(lift_norm(space, p, turn), formula)


@given(seed=st.integers(0, 10**6), right=st.booleans())
@settings(max_examples=20, deadline=None)
def test_the_norm_does_not_depend_on_the_axes_of_the_space(seed, right):
    """Rotations of R^N, and of the basis of a subspace, move weight and gradient alike."""
    p = weight(Grassmann(), (6, 2), seed)
    before = metrize.clip_lift_norm_(p, math.inf, space=Grassmann())
    turn = torch.linalg.qr(gaussian((2, 2) if right else (6, 6), seed))[0]
    q = nn.Parameter(p.detach() @ turn if right else turn @ p.detach())
    q.grad = p.grad @ turn if right else turn @ p.grad
    torch.testing.assert_close(metrize.clip_lift_norm_(q, math.inf, space=Grassmann()), before)


@given(seed=st.integers(0, 10**6), bound=st.floats(0, 50), dtype=st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=25, deadline=None)
def test_free_weights_are_clipped_as_torch_does(seed, bound, dtype):
    ours = [weight(Vector(), shape, seed, dtype) for shape in [(4, 3), (5,), (2, 2, 2), ()]]
    theirs = [weight(Vector(), shape, seed, dtype) for shape in [(4, 3), (5,), (2, 2, 2), ()]]
    total = metrize.clip_lift_norm_(ours, bound)
    torch.testing.assert_close(total, torch.nn.utils.clip_grad_norm_(theirs, bound))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_a_complex_weight_counts_as_torch_counts_it():
    ours, theirs = (nn.Parameter(torch.zeros(3, 2, dtype=torch.complex64)) for _ in range(2))
    ours.grad, theirs.grad = (torch.full((3, 2), 3 + 4j) for _ in range(2))
    expected = torch.nn.utils.clip_grad_norm_([theirs], 1.0)
    torch.testing.assert_close(metrize.clip_lift_norm_([ours], 1.0), expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_one_factor_for_a_whole_model():
    members = [(space, weight(space, shape, at)) for at, (space, shape) in enumerate(SPACES.values())]
    model = module_with(*members)
    before = [p.grad.clone() for _, p in members]
    total = metrize.clip_lift_norm_(model, 1.0)
    lifts = torch.stack([lift_norm(space, p) for space, p in members])
    torch.testing.assert_close(lifts.norm(), torch.tensor(1.0).double(), rtol=1e-6, atol=0)
    for (_, p), grad in zip(members, before, strict=True):
        torch.testing.assert_close(p.grad * (total + 1e-6), grad)


def test_equal_weights_are_lifted_together_and_counted_each():
    members = [(Stiefel(), weight(Stiefel(), (8, 3), seed)) for seed in range(5)]
    expected = torch.stack([lift_norm(*member) for member in members]).norm()
    torch.testing.assert_close(metrize.clip_lift_norm_(module_with(*members), 1.0), expected)


def test_declared_spaces_are_known_from_bare_parameters_too():
    members = [(space, weight(space, shape)) for space, shape in (SPACES["stiefel"], SPACES["vector"])]
    model = module_with(*members)
    whole = metrize.clip_lift_norm_(model, math.inf)
    for given_ in (model.parameters(), model.named_parameters(), [p for _, p in members] * 2):
        assert metrize.clip_lift_norm_(given_, math.inf) == whole
    assert metrize.clip_lift_norm_(members[0][1], math.inf) < members[0][1].grad.norm()


def test_a_tied_weight_counts_once():
    p = weight(Stiefel(), (6, 2))
    model = module_with((Stiefel(), p), (Stiefel(), p))
    torch.testing.assert_close(metrize.clip_lift_norm_(model, 1e-3), lift_norm(Stiefel(), weight(Stiefel(), (6, 2))))
    torch.testing.assert_close(lift_norm(Stiefel(), p), torch.tensor(1e-3).double(), rtol=1e-5, atol=0)


@every_space
def test_sixteen_bits(space, shape):
    exact = weight(space, shape)
    p = nn.Parameter(exact.detach().bfloat16())
    p.grad = exact.grad.bfloat16()
    total = metrize.clip_lift_norm_([p], 1.0, space=space)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total.double(), lift_norm(space, exact), rtol=2e-2, atol=0)
    assert p.grad.dtype == torch.bfloat16
    torch.testing.assert_close(metrize.clip_lift_norm_([p], 1.0, space=space).item(), 1.0, rtol=1e-2, atol=0)
    torch.testing.assert_close(p.detach().double(), exact.detach(), rtol=1e-2, atol=1e-2)  # weights are only read


def test_a_gradient_across_the_manifold_is_free():
    p = weight(Stiefel(), (7, 3))
    p.grad = p.detach() @ torch.diag(torch.tensor([1e3, 2.0, 3.0])).double()
    before = p.grad.clone()
    assert metrize.clip_lift_norm_(p, 1e-6, space=Stiefel()) < 1e-9
    torch.testing.assert_close(p.grad, before, rtol=1e-3, atol=0)


def test_the_clipped_gradient_makes_a_step_no_longer_than_asked_for():
    p = weight(Stiefel(), (8, 3), scale=1e4)
    start = p.detach().clone()
    metrize.clip_lift_norm_(p, 0.1, space=Stiefel())
    metrize.SGD([p], lr=1.0, space=Stiefel()).step()
    assert (p.detach() - start).norm() < 0.1 * math.sqrt(2)  # a turn of the columns is counted half


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 1])
def test_what_is_not_finite_is_left_to_the_optimizer(bad, at):
    members = [(space, weight(space, shape)) for space, shape in (SPACES["stiefel"], SPACES["vector"])]
    members[at][1].grad[0, 0] = bad
    before = [p.grad.clone() for _, p in members]
    model = module_with(*members)
    assert not metrize.clip_lift_norm_(model, 1.0).isfinite()
    with pytest.raises(RuntimeError, match="no gradient was changed"):
        metrize.clip_lift_norm_(model, 1.0, error_if_nonfinite=True)
    for (_, p), grad in zip(members, before, strict=True):
        assert torch.equal(p.grad.nan_to_num(), grad.nan_to_num())


@pytest.mark.parametrize("bad", [-1.0, math.nan])
def test_a_bound_that_is_none_is_refused(bad):
    p = weight(Vector(), (3,))
    before = p.grad.clone()
    with pytest.raises(ValueError, match="max_norm="):
        metrize.clip_lift_norm_([p], bad)
    assert torch.equal(p.grad, before)


def test_nothing_is_changed_when_one_parameter_is_refused():
    good, bad = weight(Stiefel(), (6, 2)), nn.Parameter(torch.ones(3))
    bad.grad = torch.ones(3)
    before = good.grad.clone()
    with pytest.raises(SpaceError, match="'last': Stiefel holds matrices"):
        metrize.clip_lift_norm_([("first", good), ("last", bad)], 1e-3, space=Stiefel())
    bad.grad = torch.ones(3).to_sparse()
    with pytest.raises(TypeError, match="'last' has a sparse gradient"):
        metrize.clip_lift_norm_([("first", good), ("last", bad)], 1e-3)
    assert torch.equal(good.grad, before)


def test_zero_and_nothing():
    p = weight(Stiefel(), (6, 2))
    p.grad.zero_()
    assert metrize.clip_lift_norm_(p, 0.0, space=Stiefel()) == 0
    assert not p.grad.any()
    assert metrize.clip_lift_norm_([nn.Parameter(torch.ones(2))], 1.0) == 0
    assert metrize.clip_lift_norm_([], 1.0) == 0
    empty = nn.Parameter(torch.zeros(0, 6, 2))
    empty.grad = torch.zeros(0, 6, 2)
    assert metrize.clip_lift_norm_(empty, 1.0, space=Stiefel()) == 0
