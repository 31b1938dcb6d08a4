"""Scikit-learn's handwritten digits: real images that come with a package, for runs of a minute."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from metrize.lab.data.images import Images
from metrize.lab.data.streams import stream

_HELD_OUT = 0.2


def load_digits() -> Images:
    """The 1,797 digits of 8x8 pixels (UCI, test part), in [0, 1], enlarged to 28x28 so that MNIST models fit.

    About a fifth of every class is held out, the same samples whatever the run's seed.

    Raises:
        ImportError: scikit-learn is missing.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError("the digits come with scikit-learn: pip install 'metrize[data]'") from error
    images, labels = (torch.from_numpy(array) for array in datasets.load_digits(return_X_y=True))
    images, labels = _enlarged(images.float().view(-1, 8, 8) / 16), labels.long()
    held_out = _held_out(labels)
    return Images(images[~held_out], labels[~held_out], (images[held_out], labels[held_out]))


def _enlarged(images: Tensor) -> Tensor:
    return F.interpolate(images[:, None], size=(28, 28), mode="bilinear", align_corners=False)[:, 0]


def _held_out(labels: Tensor) -> Tensor:
    """Mask of the held-out samples: the same share of every class."""
    mask = torch.zeros_like(labels, dtype=torch.bool)
    for digit in range(10):
        members = (labels == digit).nonzero()[:, 0]
        shuffled = members[torch.randperm(len(members), generator=stream(0, "digits", digit))]
        mask[shuffled[: round(_HELD_OUT * len(members))]] = True
    return mask
