"""One space of each kind with a shape it holds, and the formulas of textbooks to judge them by."""

import torch

from metrize import (
    Grassmann,
    Lorentz,
    Orthogonal,
    PoincareBall,
    Product,
    Sphere,
    Stiefel,
    SymplecticGrassmann,
    SymplecticStiefel,
    Vector,
)
from metrize.linalg.symplectic import adjoint
from metrize.spaces.orthonormal import Orthonormal
from metrize.spaces.symplectic import Symplectic

CASES = {
    "stiefel": (Stiefel(), (8, 3)),
    "stiefel wide fused": (Stiefel(blocks=2), (6, 8)),
    "stiefel transported": (Stiefel(section="transported"), (8, 3)),
    "grassmann": (Grassmann(), (8, 3)),
    "grassmann wide fused": (Grassmann(blocks=2), (6, 8)),
    "grassmann transported": (Grassmann(section="transported"), (2, 8, 3)),
    "grassmann redrawn": (Grassmann(section="redrawn"), (8, 3)),
    "grassmann lines": (Grassmann(), (8, 1)),
    "orthogonal": (Orthogonal(), (5, 5)),
    "orthogonal rows": (Orthogonal(rows=True), (2, 5, 5)),
    "rotations": (Orthogonal(special=True, blocks=2), (8, 4)),
    "sphere": (Sphere(), (7,)),
    "sphere of a matrix": (Sphere(radius=0.5), (3, 4)),
    "rows on spheres": (Sphere(axis=-1), (4, 6)),
    "columns on spheres": (Sphere(axis=0, radius=3.0), (6, 4)),
    "filters on spheres": (Sphere(axis=(1, 2, 3)), (4, 2, 3, 3)),
    "product": (Product(Stiefel(), 14, Vector()), (21, 5)),
    "product of three": (
        Product(Stiefel(blocks=2), 6, Product(Sphere(axis=-1), 2, Grassmann(section="transported"))),
        (11, 8),
    ),
    "product by columns": (Product(Orthogonal(), 4, Sphere(axis=0), axis=1), (4, 7)),
    "symplectic": (SymplecticStiefel(), (8, 4)),
    "symplectic wide": (SymplecticStiefel(), (2, 4, 6)),
    "symplectic square": (SymplecticStiefel(), (6, 6)),
    "symplectic grassmann": (SymplecticGrassmann(), (8, 4)),
    "symplectic full": (SymplecticStiefel(form="full"), (8, 4)),
    "symplectic full wide": (SymplecticStiefel(form="full"), (2, 4, 6)),
    "symplectic full square": (SymplecticStiefel(form="full"), (4, 4)),
    "symplectic full lift": (SymplecticStiefel(form="full", coordinates="lift"), (8, 4)),
    "symplectic grassmann full": (SymplecticGrassmann(form="full"), (8, 4)),
    "symplectic grassmann full lift": (SymplecticGrassmann(form="full", coordinates="lift"), (2, 8, 2)),
    "lorentz": (Lorentz(), (5,)),
    "lorentz rows": (Lorentz(curvature=-2.0), (4, 3)),
    "lorentz columns transported": (Lorentz(curvature=-0.5, axis=0, section="transported"), (4, 3)),
    "ball": (PoincareBall(), (4,)),
    "ball rows": (PoincareBall(curvature=-2.0), (2, 3, 2)),
    "ball columns transported": (PoincareBall(curvature=-0.5, axis=0, section="transported"), (4, 3)),
    "product with a plane": (Product(Stiefel(), 5, PoincareBall()), (9, 2)),
    "vector": (Vector(), (4, 3)),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def random_point(space, shape, seed=0, dtype=torch.float64):
    return space.random_(torch.empty(shape, dtype=dtype), generator(seed))


def full(space):
    """Whether a space holds every symplectic matrix, and so is neither compact nor a Riemannian homogeneous one."""
    return isinstance(space, Symplectic) and space.form == "full"


def orthonormal(space):
    """Whether points are matrices with orthonormal columns, of any kind, or vectors of one length."""
    return isinstance(space, Orthonormal | Sphere | Symplectic)


def unbounded(space):
    """Whether a factor has no bounds, as a vector space has none."""
    if isinstance(space, Product):
        return unbounded(space.first) or unbounded(space.rest)
    return full(space) or not orthonormal(space)


def some_point(space, shape, seed=0):
    """A point like any other: a random one, and where those are special, one that a few steps led to."""
    y = random_point(space, shape, seed)
    for k in range(4 if full(space) else 0):
        coords = lifted(space, y, gaussian(shape, 1000 * seed + k))
        y = moved(space, y, 0.3 * coords / coords.norm())
    return y


def start(space, tensor):
    """Points of one parameter with their state, as the optimizer would hold them."""
    stack = tensor.detach().clone().unsqueeze(0)
    state = {"step": torch.ones(1)}
    for key, (shape, dtype) in space.state_spec(tensor.shape, tensor.dtype).items():
        state[key] = torch.zeros(1, *shape, dtype=dtype)
    points = space.points(stack)
    space.init_state(points, state)
    return points, state


def lifted(space, tensor, grad):
    """Coordinates of a gradient at a point."""
    points, state = start(space, tensor)
    return space.lift(points, space.points(grad.unsqueeze(0)), space.section_at(points, state))


def moved(space, tensor, coords):
    """The point at the end of a step."""
    points, state = start(space, tensor)
    space.move_(points, coords, space.section_at(points, state), state)
    return tensor_of(space, points, tensor)


def tensor_of(space, points, like):
    """Points back in the shape of the parameter."""
    stack = torch.empty_like(like).unsqueeze(0)
    space.points(stack).copy_(points)
    return stack[0]


def inner(space, x, y):
    """The metric, polarised and summed over the points of a parameter."""
    return ((space.sq_norm(x + y) - space.sq_norm(x - y)) / 4).sum()


def push(space, tensor, coords, h=1e-3):
    """The tangent at a point with these coordinates, by a difference of eighth order."""
    weights = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}
    ends = {k: moved(space, tensor, coords * (k * h)) - moved(space, tensor, coords * (-k * h)) for k in weights}
    return sum(w * ends[k] for k, w in weights.items()) / h


def pieces(space, tensor):
    """The factors of a product, each with its part of a tensor; else the one there is."""
    if not isinstance(space, Product):
        return [(space, tensor)]
    first, rest = tensor.tensor_split([space.size], space.axis)
    return [*pieces(space.first, first), *pieces(space.rest, rest)]


def matrices(space, tensor):
    """A weight (or a tangent) as ``[..., N, n]``, on a sphere of radius one if it lives on a sphere."""
    points = space.points(tensor.unsqueeze(0))
    if isinstance(space, Sphere):
        return points.flatten(len(space.batch_shape(tensor.shape)) + 1).unsqueeze(-1) / space.radius
    return points


def retracting(space, retraction):
    """The same space with another retraction."""
    if isinstance(space, Product):
        return space.replace(first=retracting(space.first, retraction), rest=retracting(space.rest, retraction))
    return space.replace(retraction=retraction) if isinstance(space, Orthonormal | Sphere) else space


def exponential(space, y, tangent):
    """``exp(Omega) Y`` in the full group, Omega the matrix of its Lie algebra that has this tangent at Y."""
    across = adjoint if isinstance(space, Symplectic) else lambda x: x.mT
    half = torch.eye(y.shape[-2], dtype=y.dtype) - y @ across(y) / 2
    omega = half @ tangent @ across(y)
    return torch.matrix_exp(omega - across(omega)) @ y
