"""The eigenbasis of coordinates on a manifold, and what it does when the space turns its own axes."""

import math

import pytest
import torch

import metrize
from metrize import Grassmann, Orthogonal, Product, Recipe, Sphere, Stiefel, SymplecticStiefel, Vector, rules
from metrize.frames import Eigenbasis, Identity
from metrize.frames.eigenbasis_turn import left_turned
from metrize.moments import Dense
from metrize.named.soap import SOAP


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


ONE_SIDED = {"one_sided": True, "moments": Dense("bfloat16")}
SPACES = {
    "tall": ((9, 4), Stiefel()),
    "wide": ((4, 9), Stiefel()),
    "square": ((5, 5), Stiefel()),
    "unit column": ((9, 1), Stiefel()),
    "batch": ((2, 3, 8, 3), Stiefel()),
    "fused": ((12, 9), Stiefel(blocks=4)),
    "transported": ((9, 4), Stiefel(section="transported")),
    "grassmann": ((9, 3), Grassmann()),
    "orthogonal": ((5, 5), Orthogonal()),
    "sphere": ((6, 4), Sphere()),
    "spheres": ((6, 4), Sphere(axis=1)),
    "symplectic": ((8, 4), SymplecticStiefel()),
}


@pytest.mark.parametrize(
    "options",
    [{}, *(pytest.param(more, marks=pytest.mark.slow) for more in (ONE_SIDED, {"faithful": True}))],
    ids=str,
)
@pytest.mark.parametrize("name", SPACES)
def test_soap_descends_and_stays_on_every_space(name, options):
    shape, space = SPACES[name]
    p = torch.nn.Parameter(space.random_(torch.empty(shape, dtype=torch.float64), generator(1)))
    target = space.random_(torch.empty(shape, dtype=torch.float64), generator(2))
    if name == "grassmann":

        def loss():
            return (p @ p.mT - target @ target.mT).square().sum() / 2

    else:

        def loss():
            return (p - target).square().sum()

    optimizer = SOAP([p], lr=0.02, weight_decay=0.0, space=space, precondition_frequency=3, **options)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        losses.append(loss())
        losses[-1].backward()
        optimizer.step()
        assert space.error_of(p) < 1e-6 or not math.isfinite(space.tolerance(p.shape, p.dtype))
    assert losses[-1] < 0.5 * losses[0] or name in ("square", "orthogonal")  # which have two parts, apart
    assert losses[-1] < losses[0]


def test_a_space_of_several_kinds_of_coordinates_has_no_basis_of_them_all():
    p = torch.nn.Parameter(torch.eye(9, 4))
    with pytest.raises(metrize.SpaceError, match=r"'layer.weight'.*leave out frame"):
        SOAP([("layer.weight", p)], space=Product(Stiefel(), 6, Vector()))


def hovering(frame, rule, shape=(5, 2), count=30, steps=120, **hyper):
    """Many Procrustes problems on whose way signs of the section change."""
    space, draw = Stiefel(), generator()
    p = torch.nn.Parameter(space.project_(torch.randn(count, *shape, generator=draw, dtype=torch.float64)))
    target = torch.randn(count, *shape, generator=draw, dtype=torch.float64) * math.sqrt(20 / shape[0])
    optimizer = metrize.Optimizer([p], Recipe(space=space, frame=frame, rule=rule), lr=0.02, **hyper)
    for _ in range(steps):
        p.grad = 2 * (p.detach() - target)
        optimizer.step()
    best = space.project_(target.clone())
    gaps = ((p.detach() - target).square() - (best - target).square()).sum((-2, -1))
    return p.detach(), gaps


def counting(monkeypatch):
    calls = []
    real = Eigenbasis.turned

    def turned(self, *arguments):
        calls.append(1)
        real(self, *arguments)

    monkeypatch.setattr(Eigenbasis, "turned", turned)
    return calls


@pytest.mark.parametrize("limit", [10, 2], ids=["turns the basis", "turns the averages"])
def test_momentum_does_not_notice_the_basis_where_axes_turn(monkeypatch, limit):
    turns = counting(monkeypatch)
    plain, _ = hovering(Identity(), rules.Momentum(), momentum=0.9)
    turned, _ = hovering(Eigenbasis(period=3, max_precond_dim=limit), rules.Momentum(), momentum=0.9)
    assert len(turns) >= 5
    torch.testing.assert_close(plain, turned, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"one_sided": True}, {"refresh": "qr", "period": 2}], ids=str)
def test_soap_reaches_the_optimum_where_axes_turn(monkeypatch, options):
    turns = counting(monkeypatch)
    rule = SOAP.recipe().rule
    _, gaps = hovering(Eigenbasis(**options), rule, steps=200, betas=(0.9, 0.95))
    assert len(turns) >= 5
    assert gaps.max() < 0.05


def test_a_turn_of_the_axes_turns_the_basis_and_no_average():
    frame = Eigenbasis()
    q, other = (torch.linalg.qr(drawn(2, n, n, seed=n))[0] for n in (5, 3))
    values = torch.rand(2, 5, generator=generator(), dtype=torch.float64)
    state = {
        "factor_0": q * values.unsqueeze(1) @ q.mT,
        "basis_0": q.clone(),
        "factor_1": other @ other.mT,
        "basis_1": other.clone(),
        "failures": torch.zeros(2, dtype=torch.int64),
    }
    t = torch.linalg.qr(drawn(2, 5, 5, seed=9))[0]

    def never(*_):
        pytest.fail("an average was turned")

    frame.turned(lambda x: t @ x, torch.Size((5, 3)), state, never)
    torch.testing.assert_close(state["basis_0"], t @ q)
    torch.testing.assert_close(state["basis_1"], other)
    torch.testing.assert_close(state["basis_0"].mT @ state["factor_0"] @ state["basis_0"], torch.diag_embed(values))
    g = drawn(2, 5, 3)
    after = frame.enter(t @ g, state | {"step": torch.full((2,), 5.0)})
    torch.testing.assert_close(after, q.mT @ g @ other)


@pytest.mark.parametrize(
    "turn",
    [
        lambda x: x @ torch.linalg.qr(drawn(3, 3))[0],  # columns
        lambda x: 2 * x,  # no isometry
        lambda x: x - x.flatten(1).sum(1).reshape(-1, 1, 1) * 2 / 15,  # a reflection of the whole
        lambda x: torch.linalg.qr(drawn(5, 5))[0] @ x * torch.tensor([1.0, -1.0, 1.0]),
    ],
)
def test_what_is_no_rotation_of_the_rows_turns_the_averages(turn):
    q = torch.linalg.qr(drawn(1, 5, 5))[0]
    assert left_turned(turn, q, torch.Size((5, 3))) is None
    other = torch.linalg.qr(drawn(1, 3, 3, seed=4))[0]
    state = {"factor_0": q @ q.mT, "basis_0": q.clone(), "factor_1": other @ other.mT, "basis_1": other.clone()}
    told = {}
    Eigenbasis().turned(turn, torch.Size((5, 3)), state, lambda kind, change: told.setdefault(kind, change))
    assert set(told) == {"linear"}
    g = drawn(1, 5, 3, seed=7)
    torch.testing.assert_close(told["linear"](q.mT @ g @ other), q.mT @ turn(g) @ other)
    assert torch.equal(state["basis_0"], q)


def test_the_first_coordinates_of_a_skew_block_stay_skew():
    p = torch.nn.Parameter(Stiefel().random_(torch.empty(7, 3, dtype=torch.float64), generator()))
    optimizer = SOAP([p], space=Stiefel(), weight_decay=0.0)
    for seed in range(12):
        p.grad = drawn(7, 3, seed=seed)
        optimizer.step()
    block = optimizer.state[p]["exp_avg"][:3]
    torch.testing.assert_close(block, -block.mT)
    assert optimizer.state[p]["basis_0"].shape == (4, 4)
