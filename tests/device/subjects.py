"""Models whose steps are counted, and the step that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pretended import Device
from torch import Tensor, nn


def small() -> nn.Module:
    """Two shapes with several members, a convolution, vectors and a number; a few thousand numbers."""
    torch.manual_seed(0)
    sizes = {"a": (24, 32), "b": (24, 32), "c": (32, 24), "wide": (40, 130)}
    layers: dict[str, nn.Module] = {key: nn.Linear(*size) for key, size in sizes.items()}
    return nn.ModuleDict(layers | {"conv": nn.Conv2d(4, 8, 3), "norm": nn.LayerNorm(64)})


def gpt2(layers: int = 12) -> nn.Module:
    """The tensors of GPT-2 small: 148 with 12 layers."""
    width = 768
    model = nn.Module()
    model.wte, model.wpe = nn.Embedding(50257, width), nn.Embedding(1024, width)
    model.h = nn.ModuleList(_block(width) for _ in range(layers))
    model.ln_f = nn.LayerNorm(width)
    return model


def _block(width: int) -> nn.Module:
    block = nn.Module()
    block.ln_1, block.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
    block.attn, block.mlp = nn.Module(), nn.Module()
    block.attn.c_attn, block.attn.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
    block.mlp.c_fc, block.mlp.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
    return block


def llama(layers: int = 1) -> nn.Module:
    """The tensors of a Llama of 1B, which has 16 layers."""
    width, hidden, keys = 2048, 8192, 512
    sizes = {"q_proj": width, "k_proj": keys, "v_proj": keys, "o_proj": width, "gate_proj": hidden, "up_proj": hidden}
    model = nn.Module()
    model.embed_tokens, model.layers = nn.Embedding(32000, width), nn.ModuleList()
    for _ in range(layers):
        each: dict[str, nn.Module] = {name: nn.Linear(width, size, False) for name, size in sizes.items()}
        each["down_proj"] = nn.Linear(hidden, width, False)
        each |= {"input_layernorm": nn.RMSNorm(width), "post_attention_layernorm": nn.RMSNorm(width)}
        model.layers.append(nn.ModuleDict(each))
    model.norm, model.lm_head = nn.RMSNorm(width), nn.Linear(width, 32000, False)
    return model


def tiny(tensors: int = 2000) -> nn.Module:
    """Many small tensors, half of them vectors."""
    return nn.Sequential(*(nn.Linear(8, 8) for _ in range(tensors // 2)))


def on_meta(build: Callable[[], nn.Module], optimizer: Callable[[nn.Module], Any], **options: Any) -> Device:
    """The counts of a steady step (the third) of an optimizer on true shapes.

    Args:
        build: makes the model.
        optimizer: makes the optimizer of a model.
        options: of `Device.put_model`.
    """
    with Device(meta=True) as device:
        with torch.device("meta"):
            model = build()
        device.put_model(model, **options)
        device.optimizer = optimizer(model)  # type: ignore[attr-defined]
        for p in model.parameters():
            p.grad = device.put(torch.empty(p.shape, dtype=p.dtype, device="meta"))
        for _ in range(3):
            device.reset()
            device.optimizer.step()  # type: ignore[attr-defined]
    return device


def gradients(model: nn.Module, steps: int) -> list[list[Tensor]]:
    """The same in every run."""
    generator = torch.Generator().manual_seed(1)
    shapes = [p.shape for p in model.parameters()]
    return [[torch.randn(shape, generator=generator) * 0.01 for shape in shapes] for _ in range(steps)]
