"""To and from torch's `orthogonal` parametrization and geoopt: same values, and training goes on."""

import copy
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import metrize
from metrize import Grassmann, Orthogonal, SpaceError, Sphere, Stiefel, Vector

SHAPES = {"tall": (5, 9), "wide": (9, 5), "square": (6, 6)}  # inputs and outputs of a layer
MAPS = ["matrix_exp", "cayley", "householder"]
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@pytest.fixture
def geoopt():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it compiles functions in a way that torch has since given up
        return pytest.importorskip("geoopt")


def fit(model, kind, steps=8, **options):
    """Loss before and after a few steps."""
    optimizer = kind(model.parameters(), **options)
    first = model[0].weight.shape[-1]
    draw = torch.Generator().manual_seed(3)
    inputs = torch.randn(64, first, generator=draw)
    losses = []
    for _ in range(steps):
        out = model(inputs)
        loss = (out - 0.5 * inputs.flip(1)[:, :1]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def net(shape, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(*shape), nn.Linear(shape[1], 2))


@shapes
@pytest.mark.parametrize("orthogonal_map", MAPS)
def test_a_parametrized_weight_becomes_a_plain_one_and_trains(shape, orthogonal_map):
    model = net(shape)
    parametrizations.orthogonal(model[0], "weight", orthogonal_map)
    fit(model, torch.optim.Adam, lr=0.02)
    before, bias = model[0].weight.detach().clone(), model[0].bias
    assert metrize.from_parametrization(model) is model
    assert torch.equal(model[0].weight, before)
    assert model[0].weight.is_contiguous()
    assert type(model[0]) is nn.Linear
    assert not parametrize.is_parametrized(model)
    assert metrize.spaces_of(model) == {"0.weight": Orthogonal() if shape == (6, 6) else Stiefel()}
    assert model[0].bias is bias
    losses = fit(model, metrize.Adam, lr=0.02)
    assert losses[-1] < losses[0]
    assert metrize.error_on_space(model)["0.weight"] < 1e-5


@shapes
@pytest.mark.parametrize("orthogonal_map", [None, *MAPS])
def test_a_plain_weight_becomes_a_parametrized_one_and_trains(shape, orthogonal_map):
    model = net(shape)
    metrize.constrain(model[0], "weight", Stiefel())
    fit(model, metrize.Adam, lr=0.02)
    before, drawn = model[0].weight.detach().clone(), torch.get_rng_state()
    assert metrize.to_parametrization(model, orthogonal_map=orthogonal_map) is model
    assert torch.equal(torch.get_rng_state(), drawn)
    assert metrize.spaces_of(model) == {}
    torch.testing.assert_close(model[0].weight.detach(), before, rtol=0, atol=1e-6)
    losses = fit(model, torch.optim.Adam, lr=0.02)
    assert losses[-1] < losses[0]
    assert Stiefel().error_of(model[0].weight) < 1e-5
    fit(model, metrize.Adam, lr=0.02)  # what torch averages is free
    metrize.from_parametrization(model, space=Stiefel(section="transported"))
    assert metrize.spaces_of(model) == {"0.weight": Stiefel(section="transported")}


def test_rotations_stay_rotations():
    model = net((6, 6))
    metrize.constrain(model[0], "weight", Orthogonal(special=True))
    for orthogonal_map in MAPS:
        metrize.to_parametrization(model, orthogonal_map=orthogonal_map)
        fit(model, torch.optim.Adam, lr=0.05)
        metrize.from_parametrization(model, space=Orthogonal(special=True))
    assert torch.linalg.det(model[0].weight) > 0


def test_one_weight_by_name():
    model = nn.Sequential(*(parametrizations.orthogonal(nn.Linear(4, 6)) for _ in range(2)))
    with pytest.raises(AttributeError, match=r"no weight 'weight' that torch's `orthogonal` computes; there is '0"):
        metrize.from_parametrization(model, "weight")
    metrize.from_parametrization(model, "1.weight")
    assert metrize.spaces_of(model) == {"1.weight": Stiefel()}
    assert parametrize.is_parametrized(model[0])
    metrize.from_parametrization(model)
    with pytest.raises(AttributeError, match=r"no weight '0' that is constrained; there is '0.weight', '1.weight'"):
        metrize.to_parametrization(model, "0")
    metrize.to_parametrization(model, "0.weight")
    assert metrize.spaces_of(model) == {"1.weight": Stiefel()}
    assert metrize.from_parametrization(nn.Linear(2, 2)).weight.shape == (2, 2)  # nothing to do


def test_a_batch_of_matrices_without_trivialization():
    module = nn.Module()
    module.stack = nn.Parameter(torch.randn(3, 2, 7, generator=torch.Generator().manual_seed(0)), requires_grad=False)
    parametrizations.orthogonal(module, "stack", "householder", use_trivialization=False)
    before = module.stack.clone()
    metrize.from_parametrization(module)
    assert torch.equal(module.stack, before)
    assert not module.stack.requires_grad
    metrize.to_parametrization(module)
    torch.testing.assert_close(module.stack, before, rtol=0, atol=1e-6)
    assert not module.parametrizations.stack.original.requires_grad


def test_originals_that_are_shared_are_left_alone():
    layers = [parametrizations.orthogonal(nn.Linear(4, 6)) for _ in range(2)]
    layers[1].parametrizations.weight.original = layers[0].parametrizations.weight.original
    model = nn.Sequential(*layers)
    before = [layer.weight.detach().clone() for layer in layers]
    metrize.from_parametrization(model, "0.weight")
    for layer, value in zip(layers, before, strict=True):
        assert torch.equal(layer.weight, value)


def test_an_optimizer_built_before_moves_nothing():
    model = net((5, 9))
    parametrizations.orthogonal(model[0])
    old = torch.optim.Adam(model.parameters(), lr=0.1)
    metrize.from_parametrization(model)
    model(torch.ones(2, 5)).sum().backward()
    before = model[0].weight.detach().clone()
    old.step()
    assert torch.equal(model[0].weight, before)
    old = metrize.Adam(model, lr=0.1)
    old.step()
    metrize.to_parametrization(model)
    original = model[0].parametrizations.weight.original.detach().clone()
    model(torch.ones(2, 5)).sum().backward()
    old.step()
    assert torch.equal(model[0].parametrizations.weight.original, original)


def refused(error, match, convert, model):
    """Nothing is changed then."""
    state, spaces = copy.deepcopy(model.state_dict()), metrize.spaces_of(model)
    with pytest.raises(error, match=match):
        convert(model)
    assert metrize.spaces_of(model) == spaces
    assert model.state_dict().keys() == state.keys()
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])


def constrained(space, shape=(5, 9), dtype=torch.float32):
    model = nn.Sequential(nn.Linear(5, 9), nn.Linear(*shape, dtype=dtype))
    metrize.constrain(model[0], "weight", Stiefel())
    metrize.constrain(model[1], "weight", space)
    return model


@pytest.mark.parametrize("space", [Grassmann(), Sphere(axis=0), Stiefel(blocks=3)], ids=str)
def test_what_torch_cannot_express_is_refused(space):
    refused(SpaceError, r"'1.weight': torch's `orthogonal` knows", metrize.to_parametrization, constrained(space))


def test_other_weights_that_cannot_be_converted_are_refused():
    half = constrained(Stiefel(), dtype=torch.bfloat16)
    refused(SpaceError, r"'1.weight'.*bfloat16", metrize.to_parametrization, half)
    tied = constrained(Stiefel())
    tied[1].weight = tied[0].weight
    refused(SpaceError, r"tied \(0.weight, 1.weight\)", metrize.to_parametrization, tied)
    refused(ValueError, "orthogonal_map='exp'", lambda m: metrize.to_parametrization(m, orthogonal_map="exp"), tied)
    chain = nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 6)), parametrizations.orthogonal(nn.Linear(4, 6)))
    parametrizations.spectral_norm(chain[1])
    refused(SpaceError, r"'1.weight'.*_Orthogonal, _SpectralNorm", metrize.from_parametrization, chain)
    chain = nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 6)), parametrizations.orthogonal(nn.Linear(4, 6)))
    refused(
        SpaceError, r"'0.weight'.*rows=", lambda m: metrize.from_parametrization(m, space=Stiefel(rows=True)), chain
    )


def manifold_net(geoopt, seed=0):
    draw = torch.Generator().manual_seed(seed)
    model = nn.Module()
    kinds = {
        "tall": (geoopt.CanonicalStiefel(), (7, 3)),
        "batch": (geoopt.EuclideanStiefel(), (2, 7, 3)),
        "square": (geoopt.EuclideanStiefelExact(), (4, 4)),
        "vector": (geoopt.Sphere(), (5,)),
        "rows": (geoopt.SphereExact(), (3, 5)),
        "free": (geoopt.Euclidean(), (3, 5)),
    }
    for name, (manifold, shape) in kinds.items():
        value = manifold.projx(torch.randn(shape, generator=draw))
        setattr(model, name, geoopt.ManifoldParameter(value, manifold))
    return model


def pull(model, kind, **options):
    """Train every weight toward ones."""
    optimizer = kind(model.parameters(), lr=0.05, **options)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = sum((p - 1).square().mean() for p in model.parameters())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_geoopt_there_and_back(geoopt):
    model = manifold_net(geoopt)
    pull(model, geoopt.optim.RiemannianAdam)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert metrize.from_geoopt(model) is model
    assert metrize.spaces_of(model) == {
        "tall": Stiefel(),
        "batch": Stiefel(),
        "square": Orthogonal(),
        "vector": Sphere(axis=-1),
        "rows": Sphere(axis=-1),
    }
    for name, p in model.named_parameters():
        assert type(p) is nn.Parameter
        assert torch.equal(p, before[name].as_subclass(torch.Tensor))
    pull(model, metrize.Adam)
    assert max(metrize.error_on_space(model).values()) < 1e-5
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert metrize.to_geoopt(model) is model
    assert metrize.spaces_of(model) == {}
    manifolds = {name: type(p.manifold).__name__ for name, p in model.named_parameters() if name != "free"}
    stiefel, sphere = "CanonicalStiefel", "Sphere"
    assert list(manifolds.values()) == [stiefel, stiefel, stiefel, sphere, sphere]
    for name, p in model.named_parameters():
        assert torch.equal(p.detach().as_subclass(torch.Tensor), before[name])
    pull(model, geoopt.optim.RiemannianAdam)


def test_ties_are_kept_with_geoopt(geoopt):
    p = geoopt.ManifoldParameter(torch.eye(6, 2), geoopt.Stiefel(), requires_grad=False)
    model = nn.Sequential(nn.Linear(2, 6), nn.Linear(2, 6))
    model[0].weight = model[1].weight = p
    metrize.from_geoopt(model, "1.weight")
    assert model[0].weight is model[1].weight
    assert not model[0].weight.requires_grad
    assert metrize.spaces_of(model) == {"0.weight": Stiefel(), "1.weight": Stiefel()}
    metrize.to_geoopt(model, "0.weight")
    assert model[0].weight is model[1].weight
    assert isinstance(model[0].weight, geoopt.ManifoldParameter)
    assert metrize.spaces_of(model) == {}


@pytest.mark.parametrize(("kind", "option"), [("PoincareBall", {"c": 0.5}), ("Lorentz", {"k": 2.0})])
def test_hyperbolic_space_there_and_back(geoopt, kind, option):
    manifold = getattr(geoopt, kind)(**option)
    value = manifold.projx(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)) / 2)
    model = nn.Module()
    model.table = geoopt.ManifoldParameter(value, manifold)
    metrize.from_geoopt(model)
    (space,) = metrize.spaces_of(model).values()
    assert type(space).__name__ == kind
    assert space.curvature == pytest.approx(-0.5)
    torch.testing.assert_close(model.table.detach(), value.as_subclass(torch.Tensor))
    y, z = model.table.detach()[:2]
    theirs = manifold.dist(value[0], value[1]).as_subclass(torch.Tensor)
    torch.testing.assert_close(space.dist(y, z), theirs.detach(), rtol=1e-3, atol=1e-4)
    before = model.table.detach().clone()
    metrize.to_geoopt(model)
    assert type(model.table.manifold).__name__ == kind
    assert torch.equal(model.table.detach().as_subclass(torch.Tensor), before)


def test_what_geoopt_has_and_we_have_not_is_refused(geoopt):
    for manifold, value in [
        (geoopt.BirkhoffPolytope(), torch.full((3, 3), 1 / 3)),
        (geoopt.Stereographic(), torch.zeros(3)),
        (geoopt.Sphere(intersection=torch.eye(4, 2)), torch.eye(4)[0]),
    ]:
        model = manifold_net(geoopt)
        model.odd = geoopt.ManifoldParameter(value, manifold)
        with pytest.raises(SpaceError, match="'odd': on geoopt's"):
            metrize.from_geoopt(model)
        assert isinstance(model.tall, geoopt.ManifoldParameter)


@pytest.mark.parametrize(
    ("space", "shape"),
    [
        (Grassmann(), (5, 9)),
        (Stiefel(), (9, 5)),
        (Stiefel(blocks=3), (2, 9)),
        (Sphere(axis=0), (5, 5)),
        (Sphere(), (5, 9)),
        (metrize.PoincareBall(axis=0), (5, 9)),
    ],
    ids=str,
)
def test_what_geoopt_has_not_is_refused(geoopt, space, shape):
    refused(SpaceError, "'1.weight': geoopt has no counterpart", metrize.to_geoopt, constrained(space, shape))


def test_a_declared_vector_space_is_euclidean(geoopt):
    model = constrained(Vector())
    metrize.to_geoopt(model)
    assert isinstance(model[1].weight.manifold, geoopt.Euclidean)


@pytest.mark.parametrize("convert", [metrize.from_geoopt, metrize.to_geoopt])
def test_geoopt_is_asked_for_only_where_it_is_needed(monkeypatch, convert):
    monkeypatch.setitem(sys.modules, "geoopt", None)
    with pytest.raises(ImportError, match="pip install geoopt"):
        convert(nn.Linear(2, 3))
