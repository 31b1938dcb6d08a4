"""A large batch goes through a step piece by piece, and nobody can tell."""

import pytest
import torch

import metrize
from metrize import Grassmann, Orthogonal, Stiefel
from metrize.spaces import orthonormal

CASES = [
    (Stiefel(), (7, 9, 3)),
    (Stiefel(section="transported"), (7, 9, 3)),
    (Stiefel(retraction="geodesic"), (2, 5, 9, 3)),
    (Stiefel(blocks=5), (15, 9)),
    (Grassmann(), (7, 9, 3)),
    (Grassmann(blocks=5), (2, 15, 9)),
    (Grassmann(section="transported"), (2, 5, 9, 3)),
    (Orthogonal(), (7, 4, 4)),
]


def train(space, shape, count):
    draw = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(space.random_(torch.empty(shape), draw)) for _ in range(count)]
    optimizer = metrize.Adam(params, lr=0.3, space=space)  # far enough for signs of the section to change
    for _ in range(6):
        for p in params:
            p.grad = torch.randn(shape, generator=draw)
        optimizer.step()
    return [p.detach() for p in params] + [value for p in params for value in optimizer.state[p].values()]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("space", "shape"), CASES, ids=str)
def test_pieces_are_trained_as_the_whole(monkeypatch, space, shape, count):
    whole = train(space, shape, count)
    monkeypatch.setattr(orthonormal, "_PIECE", 60)
    for piece, expected in zip(train(space, shape, count), whole, strict=True):
        torch.testing.assert_close(piece, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 10, 5), (1, 7, 9, 3), (5, 2, 9, 3), (3, 100, 2), (2, 2, 2), (0, 4, 2)])
def test_pieces_cover_a_batch_once(monkeypatch, shape):
    monkeypatch.setattr(orthonormal, "_PIECE", 60)
    count = torch.zeros(shape)
    for at in orthonormal.pieces(count):
        count[at] += 1
    assert (count == 1).all()
    assert len(list(orthonormal.pieces(count))) > (count.numel() > 60 and shape[0] > 1)
