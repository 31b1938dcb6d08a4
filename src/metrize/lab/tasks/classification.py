"""Tasks with right and wrong answers: images, text, and images read bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from metrize.lab.config import RunConfig
from metrize.lab.data import Data, load_digits, load_mnist, load_text
from metrize.lab.models import GPT, Model, Recurrent, VisionTransformer
from metrize.lab.tasks.base import Figure, Task, outputs_of

# The four curves of arXiv:2305.16901; the first trains the weights without constraint. Learning rates are the best of
# experiments/stiefel_transformer.py: the paper's 1e-3 is for its batch of 2048, and on digits it is too long for Adam.
PAPER = (
    "Adam lr=1e-4 betas=(0.9, 0.99)",
    "Adam lr=1e-4 betas=(0.9, 0.99) on Stiefel()",
    "SGD lr=1e-3 on Stiefel()",
    "SGD lr=1e-3 momentum=0.5 on Stiefel()",
)
FIGURES = {"accuracy": Figure("accuracy", "{:.2%}".format, max)}


@torch.no_grad()
def classify(model: Model, data: Data) -> dict[str, float]:
    """Loss and accuracy (share of right answers) on held-out samples, taken as one batch."""
    inputs, targets = data.held_out
    logits = outputs_of(model, inputs)
    right = logits.argmax(-1) == targets
    return {"loss": model.loss(logits, targets).item(), "accuracy": right.float().mean().item()}


def _load_mnist(config: RunConfig) -> Data:
    if config.data_root is None:
        raise ValueError("the mnist task reads its files from a folder: --data-root DIR")
    return load_mnist(Path(config.data_root))


def _load_text(config: RunConfig) -> Data:
    return load_text(Path(config.text_file) if config.text_file else None, config.model.get("context", 128))


_COMMON: dict[str, Any] = {"figures": FIGURES, "evaluate": classify}

DIGITS = Task(
    "vision transformer on scikit-learn's digits", VisionTransformer, lambda _: load_digits(), methods=PAPER, **_COMMON
)
MNIST = Task("the same on MNIST", VisionTransformer, _load_mnist, methods=PAPER, **_COMMON)
TEXT = Task("causal transformer on bytes", GPT, _load_text, methods=PAPER, **_COMMON)
SEQUENCE = Task(
    "recurrent network that reads digits pixel by pixel",
    Recurrent,
    lambda _: load_digits(8),
    space="Orthogonal()",
    methods=("Adam lr=1e-3 on Orthogonal()", "Adam lr=1e-3 on none", "SGD lr=1e-3 momentum=0.9 on Orthogonal()"),
    **_COMMON,
)
