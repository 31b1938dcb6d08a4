"""Scikit-learn's handwritten digits: real images that come with a package, for runs of a minute."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from metrize.lab.data.samples import Samples
from metrize.lab.data.streams import stream

_HELD_OUT = 0.2
_SIDE = 8


def load_digits(side: int = 28) -> Samples:
    """The 1,797 digits of 8x8 pixels (UCI, test part), in [0, 1], enlarged to 28x28 so that MNIST models fit.

    About a fifth of every class is held out, the same samples whatever the run's seed.

    Args:
        side: pixels of a side; 8 leaves the images as they are.

    Raises:
        ImportError: scikit-learn is missing.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError("the digits come with scikit-learn: pip install 'metrize[data]'") from error
    images, labels = (torch.from_numpy(array) for array in datasets.load_digits(return_X_y=True))
    images, labels = _enlarged(images.float().view(-1, _SIDE, _SIDE) / 16, side), labels.long()
    held_out = _held_out(labels)
    return Samples(images[~held_out], labels[~held_out], (images[held_out], labels[held_out]))


def _enlarged(images: Tensor, side: int) -> Tensor:
    if side == _SIDE:
        return images
    return F.interpolate(images[:, None], size=(side, side), mode="bilinear", align_corners=False)[:, 0]


def _held_out(labels: Tensor) -> Tensor:
    """Mask of the held-out samples: the same share of every class."""
    mask = torch.zeros_like(labels, dtype=torch.bool)
    for digit in range(10):
        members = (labels == digit).nonzero()[:, 0]
        shuffled = members[torch.randperm(len(members), generator=stream(0, "digits", digit))]
        mask[shuffled[: round(_HELD_OUT * len(members))]] = True
    return mask
