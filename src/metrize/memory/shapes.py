"""Shapes of public models, from their configurations: what a memory report needs to know of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator

Shape = tuple[int, ...]


def _norm(width: int) -> list[Shape]:
    return [(width,), (width,)]


def _linear(outputs: int, inputs: int, bias: bool = True) -> list[Shape]:
    return [(outputs, inputs), *([(outputs,)] if bias else [])]


def _conv(outputs: int, inputs: int, kernel: int) -> list[Shape]:
    """A convolution without bias, and its batch normalisation."""
    return [(outputs, inputs, kernel, kernel), *_norm(outputs)]


def resnet(blocks: tuple[int, ...], bottleneck: bool, classes: int = 1000) -> list[Shape]:
    """ResNet (arXiv:1512.03385) with its usual widths."""
    shapes, inputs, expansion = _conv(64, 3, 7), 64, 4 if bottleneck else 1
    for width, count in zip((64, 128, 256, 512), blocks, strict=True):
        for block in range(count):
            shapes += _conv(width, inputs, 1 if bottleneck else 3) + _conv(width, width, 3)
            shapes += _conv(4 * width, width, 1) if bottleneck else []
            if block == 0 and inputs != expansion * width:
                shapes += _conv(expansion * width, inputs, 1)
            inputs = expansion * width
    return shapes + _linear(classes, inputs)


def mobilenet_v2(classes: int = 1000) -> list[Shape]:
    """MobileNetV2 (arXiv:1801.04381)."""
    stages = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
    shapes, inputs = _conv(32, 3, 3), 32
    for expansion, outputs, count in stages:
        for _ in range(count):
            hidden = expansion * inputs
            shapes += (_conv(hidden, inputs, 1) if expansion > 1 else []) + _conv(hidden, 1, 3)
            shapes += _conv(outputs, hidden, 1)
            inputs = outputs
    return shapes + _conv(1280, inputs, 1) + _linear(classes, 1280)


def yolo_v5(depth: float, width: float, classes: int = 80) -> list[Shape]:
    """YOLOv5, version 6, with its multiples of depth and width."""
    c = [round(width * size) for size in (64, 128, 256, 512, 1024)]
    n = [max(round(count * depth), 1) for count in (3, 6, 9)]

    def csp(inputs: int, outputs: int, count: int) -> Iterator[Shape]:
        half = outputs // 2
        yield from 2 * _conv(half, inputs, 1) + _conv(outputs, 2 * half, 1)
        yield from count * (_conv(half, half, 1) + _conv(half, half, 3))

    shapes = [*_conv(c[0], 3, 6), *_conv(c[1], c[0], 3), *csp(c[1], c[1], n[0]), *_conv(c[2], c[1], 3)]
    shapes += [*csp(c[2], c[2], n[1]), *_conv(c[3], c[2], 3), *csp(c[3], c[3], n[2]), *_conv(c[4], c[3], 3)]
    shapes += [*csp(c[4], c[4], n[0]), *_conv(c[4] // 2, c[4], 1), *_conv(c[4], 2 * c[4], 1)]
    shapes += [*_conv(c[3], c[4], 1), *csp(c[4], c[3], n[0]), *_conv(c[2], c[3], 1), *csp(c[3], c[2], n[0])]
    shapes += [*_conv(c[2], c[2], 3), *csp(c[3], c[3], n[0]), *_conv(c[3], c[3], 3), *csp(c[4], c[4], n[0])]
    anchors = 3 * (classes + 5)
    return shapes + [s for size in c[2:] for s in ((anchors, size, 1, 1), (anchors,))]


def vit(width: int, layers: int, patch: int = 16, size: int = 224, classes: int = 1000) -> list[Shape]:
    """Vision transformer (arXiv:2010.11929)."""
    tokens = (size // patch) ** 2 + 1
    shapes: list[Shape] = [(1, 1, width), (1, tokens, width), (width, 3, patch, patch), (width,)]
    return shapes + layers * _block(width, 4 * width, fused=True) + _norm(width) + _linear(classes, width)


def _block(width: int, hidden: int, fused: bool) -> list[Shape]:
    """Attention and a perceptron, each with its normalisation, all with biases."""
    attention = _linear(3 * width, width) if fused else 3 * _linear(width, width)
    perceptron = _linear(hidden, width) + _linear(width, hidden)
    return attention + _linear(width, width) + perceptron + 2 * _norm(width)


def translator(width: int, hidden: int, layers: int = 6, vocabulary: int = 32768) -> list[Shape]:
    """Encoder and decoder (arXiv:1706.03762) that share one embedding."""
    encoder = _block(width, hidden, fused=False)
    return [(vocabulary, width), *layers * encoder, *layers * (encoder + 4 * _linear(width, width) + _norm(width))]


def bert(width: int, layers: int, vocabulary: int = 30522) -> list[Shape]:
    """BERT (arXiv:1810.04805) with the heads of its pre-training."""
    shapes = [(vocabulary, width), (512, width), (2, width), *_norm(width)]
    shapes += layers * _block(width, 4 * width, fused=False) + _linear(width, width)
    return [*shapes, (vocabulary,), *_linear(width, width), *_norm(width), *_linear(2, width)]


def gpt2(width: int, layers: int, vocabulary: int = 50257) -> list[Shape]:
    """GPT-2, whose linear maps are stored inputs first."""
    blocks = [shape[::-1] for shape in layers * _block(width, 4 * width, fused=True)]
    return [(vocabulary, width), (1024, width), *blocks, *_norm(width)]


def t5(width: int, hidden: int, layers: int, heads: int, vocabulary: int = 32128) -> list[Shape]:
    """T5 (arXiv:1910.10683) with heads of 64, embedding and output tied."""
    attention = [*4 * [(width, width)], (width,)]
    perceptron = [(hidden, width), (width, hidden), (width,)]
    stacks = layers * (attention + perceptron) + layers * (2 * attention + perceptron)
    return [(vocabulary, width), *2 * [(32, heads)], *stacks, *2 * [(width,)]]


def llama(width: int, hidden: int, layers: int, vocabulary: int = 32000, groups: int = 1) -> list[Shape]:
    """LLaMA (arXiv:2302.13971, 2307.09288), embedding and output apart; `groups` queries share a key and a value."""
    keys = (width // groups, width)
    block = [(width, width), keys, keys, (width, width), *2 * [(hidden, width)], (width, hidden), *_norm(width)]
    return [(vocabulary, width), *layers * block, (width,), (vocabulary, width)]


KNOWN: dict[str, Callable[[], list[Shape]]] = {
    "ResNet-18": lambda: resnet((2, 2, 2, 2), bottleneck=False),
    "ResNet-50": lambda: resnet((3, 4, 6, 3), bottleneck=True),
    "MobileNetV2": mobilenet_v2,
    "YOLOv5s": lambda: yolo_v5(0.33, 0.5),
    "YOLOv5m": lambda: yolo_v5(0.67, 0.75),
    "ViT-S/16": lambda: vit(384, 12),
    "ViT-B/16": lambda: vit(768, 12),
    "ViT-L/16": lambda: vit(1024, 24),
    "Transformer-base": lambda: translator(512, 2048),
    "Transformer-big": lambda: translator(1024, 4096),
    "BERT-base": lambda: bert(768, 12),
    "BERT-large": lambda: bert(1024, 24),
    "GPT-2 small": lambda: gpt2(768, 12),
    "GPT-2 medium": lambda: gpt2(1024, 24),
    "GPT-2 XL": lambda: gpt2(1600, 48),
    "T5-small": lambda: t5(512, 2048, 6, 8),
    "T5-base": lambda: t5(768, 3072, 12, 12),
    "LLaMA-60M": lambda: llama(512, 1376, 8),
    "LLaMA-130M": lambda: llama(768, 2048, 12),
    "LLaMA-350M": lambda: llama(1024, 2736, 24),
    "LLaMA-1B": lambda: llama(2048, 5461, 24),
    "LLaMA-7B": lambda: llama(4096, 11008, 32),
    "LLaMA-70B": lambda: llama(8192, 28672, 80, groups=8),
}
"""Public models by name; parameters and tensors are counted as their reference implementations have them."""
