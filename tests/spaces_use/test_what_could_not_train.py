"""Points that could not move, tensors to which no one point is nearest, and kernels read one by one."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import metrize
from metrize import (
    Grassmann,
    Lorentz,
    Orthogonal,
    PoincareBall,
    Product,
    Space,
    SpaceError,
    Sphere,
    Stiefel,
    SymplecticGrassmann,
    SymplecticStiefel,
    Vector,
)

SPACES = [
    *(
        Stiefel(),
        Stiefel(rows=True),
        Stiefel(blocks=2),
        Stiefel(section="transported"),
        Grassmann(),
        Grassmann(blocks=2),
    ),
    *(Orthogonal(), Orthogonal(special=True), Orthogonal(blocks=2), Sphere(), Sphere(axis=-1), Sphere(axis=0)),
    *(SymplecticStiefel(), SymplecticStiefel(form="full"), SymplecticGrassmann(), SymplecticGrassmann(form="full")),
    *(Lorentz(), Lorentz(axis=0, section="transported"), PoincareBall(), PoincareBall(axis=0)),
    *(Product(Stiefel(), 1), Product(Stiefel(), 1, Stiefel()), Product(Vector(), 1, Sphere(axis=-1))),
]
every_space = pytest.mark.parametrize("space", SPACES, ids=str)
SHAPES = [shape for order in range(4) for shape in itertools.product((0, 1, 2, 4), repeat=order)]


def test_every_kind_of_space_is_here() -> None:
    kinds = {
        cls
        for cls in metrize.part.Part.known.values()
        if issubclass(cls, Space) and cls.__module__.startswith("metrize")
    }
    assert kinds <= {type(space) for space in SPACES} | {Space, Vector}


def holder(weight: Tensor) -> nn.Module:
    module = nn.Module()
    module.weight = nn.Parameter(weight.clone())
    return module


def drawn(space: Space, shape: tuple[int, ...]) -> Tensor | None:
    try:
        return space.random_(torch.empty(shape), torch.Generator().manual_seed(0))
    except SpaceError:
        return None


@every_space
def test_a_weight_that_is_taken_can_move(space: Space) -> None:
    """Over all tiny shapes: refused when declared and when the optimizer is built, or every point moves."""
    held = 0
    for shape in SHAPES:
        point = drawn(space, shape)
        if point is None:
            with pytest.raises(SpaceError, match=r"Module\.weight"):
                metrize.constrain(holder(torch.ones(shape)), "weight", space)
            with pytest.raises(SpaceError, match="'w'"):
                metrize.Adam([("w", nn.Parameter(torch.ones(shape)))], space=space)
            continue
        module = metrize.constrain(holder(point), "weight", space)
        held, start = held + 1, module.weight.detach().clone()
        optimizer = metrize.SGD(module, lr=0.1)
        for seed in range(3):
            module.weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            optimizer.step()
        points, before = (space.points(x.detach().unsqueeze(0)) for x in (module.weight, start))
        if not start.numel():
            continue
        moved = (points != before).flatten(1 + len(space.batch_shape(torch.Size(shape)))).any(-1)
        assert moved.all(), shape
    assert held


@pytest.mark.parametrize(
    ("space", "shape"),
    [
        (Stiefel(), (1, 1)),
        (Stiefel(), (8, 8, 1, 1)),
        (Stiefel(blocks=3), (3, 1)),
        (Orthogonal(), (2, 1, 1)),
        (Grassmann(), (3, 3)),
        (Sphere(axis=-1), (4, 1)),
        (SymplecticStiefel(), (2, 2)),
        (SymplecticGrassmann(form="full"), (4, 4)),
        (Product(Stiefel(), 4, Stiefel()), (5, 1)),
        (Product(Vector(), 4, Sphere(axis=-1)), (5, 1)),
    ],
    ids=str,
)
def test_points_that_lie_apart_are_refused(space: Space, shape: tuple[int, ...]) -> None:
    for use in (lambda w: metrize.constrain(holder(w), "weight", space), space.project_):
        with pytest.raises(SpaceError, match=r"nothing could be trained|two at least|single point"):
            use(torch.ones(shape))


def test_tensors_without_entries_stay_legal_where_everything_is() -> None:
    metrize.AdamW([nn.Parameter(torch.ones(0, 3))])
    metrize.constrain(holder(torch.ones(0, 3)), "weight", Vector())
    metrize.constrain(
        holder(torch.ones(0, 4, 3)), "weight", Stiefel()
    )  # no points, of a space in which they could move


WRONG = {
    "zeros": torch.zeros(2, 4, 2),
    "one matrix of zeros": torch.stack([torch.eye(4, 2), torch.zeros(4, 2)]),
    "rank one": torch.ones(2, 4, 2),
    "an outer product": torch.arange(1.0, 9).double().view(2, 4, 1) * torch.tensor([0.1, 0.3]).double(),
    "NaN": torch.full((2, 4, 2), torch.nan),
    "infinite": torch.full((2, 4, 2), torch.inf),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@every_space
def test_a_weight_is_not_replaced_by_an_arbitrary_point(space: Space, wrong: str, dtype: torch.dtype) -> None:
    """What is near to no point or to many is refused and left as it was; else `constrain` and `project_` agree."""
    weight = WRONG[wrong].to(dtype, copy=True)
    if isinstance(space, SymplecticStiefel | SymplecticGrassmann):
        weight = weight.repeat(1, 2, 2)
    elif isinstance(space, Orthogonal):
        weight = weight[:, :2] if space.blocks == 1 else weight
    elif isinstance(space, Stiefel | Grassmann):
        weight = weight.mT if space.rows else weight.repeat(1, space.blocks, 1)
    if isinstance(space, Lorentz | PoincareBall) and wrong not in ("NaN", "infinite"):
        pytest.skip("to every tensor one point is nearest")
    few = wrong not in ("zeros", "NaN", "infinite")
    if few and isinstance(space, Sphere | Product):
        pytest.skip("vectors have a direction where they are not zero")
    if wrong == "an outer product" and dtype == torch.bfloat16:
        pytest.skip("its rounding has full rank")
    if few and space == Orthogonal(special=True) and wrong != "one matrix of zeros":
        pytest.skip("the determinant decides about the last direction")
    for use in (lambda m: metrize.constrain(m, "weight", space), lambda m: space.project_(m.weight)):
        module = holder(weight)
        with pytest.raises(SpaceError, match=r"no one point of .* is nearest|not finite"):
            use(module)
        assert torch.equal(module.weight.nan_to_num(0, 1, 1), weight.nan_to_num(0, 1, 1))
    if wrong == "zeros":  # the remedy that is named
        metrize.constrain(holder(space.random_(weight, torch.Generator())), "weight", space)


@pytest.mark.parametrize("size", [1, 2, 8, 64, 300])
def test_fresh_weights_have_a_nearest_point(size: int) -> None:
    torch.manual_seed(size)
    layers = [
        nn.Linear(size, 2 * size),
        nn.Linear(size + 1, size + 1),
        nn.Embedding(2 * size, size),
        nn.Bilinear(3, 3, 4),
    ]
    for layer, space in itertools.product(layers, (Stiefel(), Sphere())):
        for dtype in (torch.float32, torch.bfloat16):
            fresh = type(layer)(*layer.weight.shape[::-1]) if isinstance(layer, nn.Linear) else layer
            metrize.constrain(fresh.to(dtype), "weight", space)
            metrize.constrain(fresh, "weight", None)


@pytest.mark.parametrize("start", [torch.zeros(3, 3), torch.ones(3, 3)], ids=["zero", "rank one"])
def test_a_rotation_may_miss_one_direction_and_no_more(start: Tensor) -> None:
    with pytest.raises(SpaceError, match="no one point"):
        Orthogonal(special=True).project_(start.clone())
    missing = torch.diag(torch.tensor([2.0, 3.0, 0.0]))
    torch.testing.assert_close(Orthogonal(special=True).project_(missing), torch.eye(3))
    torch.testing.assert_close(Orthogonal(special=True).project_(-torch.eye(3)).det(), torch.ones(()))


@pytest.mark.parametrize(
    "layer", [nn.Conv1d(4, 8, 3), nn.Conv2d(4, 8, 3), nn.ConvTranspose2d(4, 8, 3), nn.Conv3d(4, 8, 3)]
)
def test_kernels_that_are_read_one_by_one_are_told(layer: nn.Module) -> None:
    name = type(layer).__name__
    with pytest.warns(
        UserWarning, match=rf"Stiefel\(\) reads {name}.weight .* one by one.*Sphere\(axis=\(1, 2, \.\.\.\)\)"
    ):
        metrize.constrain(layer, "weight", Stiefel())


def test_other_readings_of_a_kernel_are_not_warned_of() -> None:
    conv = metrize.constrain(nn.Conv2d(4, 8, 3), "weight", Sphere(axis=(1, 2, 3)))
    assert metrize.error_on_space(conv)["weight"] < 1e-5
    metrize.constrain(nn.Conv2d(4, 8, 3), "weight", Vector())
    metrize.constrain(holder(torch.randn(4, 6, 3)), "weight", Stiefel())  # a bank of matrices
