"""The principal subspace of the digits: a problem whose answer is known."""

from __future__ import annotations

import torch
from torch import Tensor

from metrize.lab.config import RunConfig
from metrize.lab.data import Samples, load_digits
from metrize.lab.models import Subspace
from metrize.lab.tasks.base import Figure, Task, outputs_of


def _load(config: RunConfig) -> Samples:
    """The digits as vectors of 64 pixels, less the mean of the training part."""
    digits = load_digits(8)
    train, held_out = digits.inputs.flatten(1), digits.held_out[0].flatten(1)
    train, held_out = train - train.mean(0), held_out - train.mean(0)
    return Samples(train, train, (held_out, held_out))


@torch.no_grad()
def excess(basis: Tensor, samples: Tensor) -> float:
    """``f(Y) / f* - 1`` for ``f(Y) = ||X - X Y Y^T||_F^2``, where the optimum f* is known from the singular values.

    Args:
        basis: Y, ``[size, dimension]``.
        samples: X, ``[n, size]``.
    """
    # in double precision: near the optimum, this is a small difference
    y, x = basis.double(), samples.double()
    optimum = torch.linalg.svdvals(x)[y.shape[-1] :].square().sum()
    return ((x - x @ y @ y.mT).square().sum() / optimum - 1).item()


def _evaluate(model: Subspace, data: Samples) -> dict[str, float]:
    inputs, targets = data.held_out
    loss = model.loss(outputs_of(model, inputs), targets).item()
    return {"loss": loss, "excess": excess(model.basis, data.inputs)}


SUBSPACE = Task(
    "principal subspace of scikit-learn's digits",
    Subspace,
    _load,
    figures={"excess": Figure("excess over the SVD", "{:.1e}".format)},
    evaluate=_evaluate,
    space="Grassmann()",
    methods=("Adam lr=1e-2 on Grassmann()", "SGD lr=1e-2 momentum=0.9 on Grassmann()", "Adam lr=3e-3 on none"),
)
