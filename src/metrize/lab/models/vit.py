"""The vision transformer of "Adam on homogeneous spaces" (arXiv:2305.16901): no norm, no positions, no dropout."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metrize.lab.models.base import Model, Weight, glorot_, linear

_SIDE = 28


def relative_error(logits: Tensor, labels: Tensor) -> Tensor:
    """``||softmax(logits) - onehot||_F / ||onehot||_F`` over the batch; always one and the same class scores 1.342.

    Args:
        logits: ``[batch, classes]``.
        labels: ``[batch]``, int64.
    """
    targets = F.one_hot(labels, logits.shape[-1]).to(logits.dtype)
    distance: Tensor = torch.linalg.vector_norm(logits.softmax(-1) - targets)
    return distance / math.sqrt(len(labels))


_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relative": relative_error,
    "cross-entropy": F.cross_entropy,
}


class VisionTransformer(Model):
    """16 blocks of attention and a tanh layer on the 7x7 patches of a 28x28 image (arXiv:2305.16901, 154,938 numbers).

    Args:
        layers: blocks.
        heads: attention heads; they share the width, which is the number of pixels of a patch.
        skip: add the input of each attention to its output; the paper trains without.
        patch: side of a patch in pixels.
        classes: outputs.
        loss: ``relative`` (the paper's) or ``cross-entropy``.
        generator: draws the initial weights (Glorot uniform; biases are 0).

    Raises:
        ValueError: the patches do not tile the image, the heads do not share the width, or the loss is unknown.
    """

    def __init__(
        self,
        layers: int = 16,
        heads: int = 7,
        skip: bool = False,
        patch: int = 7,
        classes: int = 10,
        loss: str = "relative",
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        width = patch * patch
        if _SIDE % patch or width % heads:
            raise ValueError(f"patch {patch} must divide {_SIDE}, and heads {heads} must divide its {width} pixels")
        if loss not in _LOSSES:
            raise ValueError(f"unknown loss {loss!r}; known: {', '.join(_LOSSES)}")
        self.patch, self._loss = patch, loss
        self.blocks = nn.Sequential(*(_Block(width, heads, skip) for _ in range(layers)))
        self.classifier = linear(width, classes)
        self._draw(generator)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[batch, classes]`` of images ``[batch, 28, 28]``, read from the last patch (bottom right)."""
        tokens = self.blocks(_patches(images, self.patch))
        return F.linear(tokens[:, -1], self.classifier.weight)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The chosen loss of logits ``[batch, classes]`` against labels ``[batch]``."""
        return _LOSSES[self._loss](outputs, targets)

    def constrained(self) -> list[Weight]:
        """The attention weights ``[3*width, width]``: the heads' queries, then their keys, then their values."""
        blocks = (module for module in self.modules() if isinstance(module, _Block))
        return [Weight(block.qkv, "weight", 3 * block.heads) for block in blocks]

    @torch.no_grad()
    def _draw(self, generator: torch.Generator) -> None:
        for block in self.modules():
            if isinstance(block, _Block):
                for matrix in block.qkv.weight.chunk(3 * block.heads):
                    glorot_(matrix, generator)
                glorot_(block.feed.weight, generator)
                nn.init.zeros_(block.feed.bias)
        glorot_(self.classifier.weight, generator)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, skip: bool) -> None:
        super().__init__()
        self.heads, self.skip = heads, skip
        self.qkv = linear(width, 3 * width)
        self.feed = linear(width, width, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        attended = self._attention(x)
        x = x + attended if self.skip else attended
        fed: Tensor = self.feed(x)
        return x + fed.tanh()

    def _attention(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        parts = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        # Scaled by the width, not by the head's, as in the paper. The paper writes the softmax over the queries of
        # each key, which is this with the two names exchanged. For heads of 7 numbers on 16 tokens these plain
        # products are faster on CPU than scaled_dot_product_attention.
        weights = (query / math.sqrt(width) @ key.mT).softmax(-1)
        mixed: Tensor = weights @ value
        return mixed.transpose(1, 2).flatten(2)


def _patches(images: Tensor, patch: int) -> Tensor:
    """``[batch, patches, patch*patch]``, row by row, and each patch row by row."""
    count = _SIDE // patch
    tiles = images.view(-1, count, patch, count, patch).transpose(2, 3)
    return tiles.reshape(-1, count * count, patch * patch)
