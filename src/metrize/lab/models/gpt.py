"""A small byte-level language model of today's parts: RMSNorm, rotary positions, SwiGLU, fused QKV."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metrize.lab.models.base import Model, Weight, linear

_STD = 0.02
_ROTARY_BASE = 10_000.0


class GPT(Model):
    """A causal transformer over bytes.

    Args:
        vocab: symbols; 256 for bytes.
        width: numbers of a token, a multiple of twice the heads.
        layers: blocks.
        heads: attention heads.
        context: longest sequence.
        tied: the output layer is the transposed embedding.
        generator: draws the initial weights (normal, 0.02; layers that end a branch are scaled by 1/sqrt(2*layers)).

    Raises:
        ValueError: the heads do not share the width evenly.
    """

    cosines: Tensor
    sines: Tensor

    def __init__(
        self,
        vocab: int = 256,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        context: int = 128,
        tied: bool = True,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f"width {width} must be a multiple of twice the {heads} heads")
        self.embedding = nn.Embedding(vocab, width, _weight=torch.empty(vocab, width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.head = linear(width, vocab)
        self._draw(generator, branch_std=_STD / (2 * layers) ** 0.5)
        if tied:
            self.head.weight = self.embedding.weight
        cosines, sines = _rotations(context, width // heads)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``[batch, length, vocab]`` of the next token after each of ``[batch, length]`` tokens, int64."""
        x = self.embedding(tokens)
        rotation = self.cosines[: tokens.shape[1]], self.sines[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, rotation)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in nats a token of logits ``[..., vocab]`` against targets ``[...]``."""
        return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())

    def constrained(self) -> list[Weight]:
        """The attention weights ``[3*width, width]``: the heads' queries, then their keys, then their values."""
        blocks = (module for module in self.modules() if isinstance(module, _Block))
        return [Weight(block.qkv, "weight", 3 * block.heads) for block in blocks]

    @torch.no_grad()
    def _draw(self, generator: torch.Generator, branch_std: float) -> None:
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                ends_branch = name.endswith(("out.weight", "down.weight"))
                weight.normal_(0.0, branch_std if ends_branch else _STD, generator=generator)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        hidden = 8 * round(width / 3)  # two thirds of the usual 4*width, since a gated layer has three matrices
        self.attention_norm = nn.RMSNorm(width)
        self.qkv = linear(width, 3 * width)
        self.out = linear(width, width)
        self.feed_norm = nn.RMSNorm(width)
        self.gate_up = linear(width, 2 * hidden)
        self.down = linear(hidden, width)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self._attention(self.attention_norm(x), rotation)
        gate, up = self.gate_up(self.feed_norm(x)).chunk(2, dim=-1)
        fed: Tensor = self.down(F.silu(gate) * up)
        return x + fed

    def _attention(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        batch, length, width = x.shape
        parts = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        query, key = _rotate(query, *rotation), _rotate(key, *rotation)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        attended: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return attended


def _rotations(context: int, size: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``[context, size/2]`` of the rotary embedding (arXiv:2104.09864)."""
    frequencies = _ROTARY_BASE ** (-torch.arange(0, size, 2) / size)
    angles = torch.arange(context)[:, None] * frequencies
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)
