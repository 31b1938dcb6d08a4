"""A step of several large points returns, whatever was said about threads."""

import subprocess
import sys
import textwrap

import pytest
import torch

from metrize.spaces.solves import lu_factor, solve

STEP = """
    import torch
    torch.set_num_threads(2)
    import metrize
    y = torch.nn.Parameter(torch.linalg.qr(torch.randn(2, 260, 200))[0].contiguous())
    y.grad = torch.randn_like(y)
    space = metrize.Stiefel()
    metrize.Adam([y], space=space).step()
    assert space.error_of(y) < 1e-5
"""


def test_a_batch_of_large_points_with_two_threads():
    """It never came back: batched LU decompositions in oneMKL with more than one thread."""
    subprocess.run([sys.executable, "-c", textwrap.dedent(STEP)], check=True, timeout=60)


@pytest.mark.parametrize("shape", [(5, 5), (3, 5, 5), (130, 130), (2, 3, 130, 130)])
def test_solves(shape):
    draw = torch.Generator().manual_seed(0)
    k = torch.randn(shape, generator=draw, dtype=torch.float64) + 20 * torch.eye(shape[-1])
    right = torch.randn(*shape[:-1], 4, generator=draw, dtype=torch.float64)
    torch.testing.assert_close(k @ solve(k, right), right)
    for ours, expected in zip(lu_factor(k), torch.linalg.lu_factor(k), strict=True):
        torch.testing.assert_close(ours, expected)


def test_a_singular_matrix_is_no_exception():
    assert not solve(torch.zeros(2, 3, 3), torch.ones(2, 3, 1)).isfinite().any()
