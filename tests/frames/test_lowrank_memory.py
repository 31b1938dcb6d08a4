"""Bytes of state of low-rank methods on published models, from shapes alone."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable

import pytest
import torch
from tests.frames.lowrank import GOLDEN

from metrize import Dense, Recipe, frames, rules
from metrize.frames import Frame
from metrize.moments import Factored, Moments, Quantized, RandomProjection, Split
from metrize.spaces import Vector
from metrize.step.assignment import assignment_of, on_host

MIB = 2**20
VOCABULARY = 32000
LLAMA = {
    "60M": (512, 1376, 8),
    "130M": (768, 2048, 12),
    "350M": (1024, 2736, 24),
    "1B": (2048, 5461, 24),
    "7B": (4096, 11008, 32),
}
RANKS = {"60M": 128, "130M": 256, "350M": 256, "1B": 512, "7B": 1024}
FACTORED = Split(Dense(), Factored(dims="last"))
NARROW = Dense("bfloat16")
CODES = Quantized(smallest=0)  # whose scales the published figures leave out

Shapes = dict[tuple[int, ...], int]


def llama(size: str) -> Shapes:
    """The shapes of a LLaMA with untied embeddings, and how often each occurs."""
    width, hidden, layers = LLAMA[size]
    attention, gates = {(width, width): 4 * layers}, {(hidden, width): 2 * layers, (width, hidden): layers}
    return {(VOCABULARY, width): 2, **attention, **gates, (width,): 2 * layers + 1}


def diffusion(model: str) -> Shapes:
    content = json.loads((GOLDEN / "model_shapes.json").read_text())
    return {tuple(shape): count for shape, count in content[model]}


def is_hidden(shape: tuple[int, ...]) -> bool:
    """Whether it is a matrix of an attention or an MLP."""
    return len(shape) == 2 and VOCABULARY not in shape


def everything(shape: tuple[int, ...]) -> bool:
    return True


@functools.cache
def kept_bytes(recipe: Recipe, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes of bases and averages of one tensor, without scales of codes."""
    like = torch.empty(shape, dtype=dtype, device="meta")
    kept = assignment_of(recipe, Vector(), like, {**recipe.hyper(), "lr": 1.0}).spec
    held = {key: value for key, value in kept.items() if not on_host(key) and not key.endswith(".scale")}
    return sum(math.prod(size) * kind.itemsize for size, kind in held.values())


def mib(
    shapes: Shapes,
    frame: Frame,
    moments: Moments,
    projected: Callable[[tuple[int, ...]], bool] = everything,
    dtype: torch.dtype = torch.float32,
) -> float:
    """MiB of bases and averages."""
    plain = FACTORED if isinstance(moments, Split | RandomProjection) else moments
    total = 0
    for shape, count in shapes.items():
        frame_here, moments_here = (frame, moments) if projected(shape) else (frames.Identity(), plain)
        recipe = Recipe(frame=frame_here, moments=moments_here, rule=rules.Adam())
        total += count * kept_bytes(recipe, shape, dtype)
    return total / MIB


def test_the_models_are_the_published_ones():
    sizes = {
        model: sum(math.prod(s) * n for s, n in diffusion(model).items())
        for model in ("ddpm-cifar10", "ddpm-celebahq", "controlnet-sdxl")
    }
    assert sizes == {"ddpm-cifar10": 35_746_307, "ddpm-celebahq": 113_673_219, "controlnet-sdxl": 1_251_014_160}
    assert sum(math.prod(s) * n for s, n in llama("7B").items()) == 6_738_415_616


@pytest.mark.parametrize(
    ("model", "ratio", "published"), [("ddpm-cifar10", 1.5, 213.986), ("ddpm-celebahq", 2.0, 522.770)]
)
def test_coap_on_diffusion_models(model, ratio, published):
    frame = frames.COAP(ratio=ratio, conv_ratio=ratio)
    assert round(mib(diffusion(model), frame, Dense()), 3) == published


def test_coap_with_adafactor_inside_on_a_controlnet():
    shapes = diffusion("controlnet-sdxl")
    got = mib(shapes, frames.COAP(ratio=2.0, conv_ratio=2.0), FACTORED)
    root_mean_squares = 4 * sum(shapes.values()) / MIB  # which the published code keeps beside the averages
    assert round(got + root_mean_squares, 3) == 3704.907


@pytest.mark.parametrize(
    ("size", "moments", "published"), [("1B", NARROW, 1988.336), ("7B", CODES, 5380.508)], ids=["bf16", "8-bit"]
)
def test_coap_on_llama(size, moments, published):
    frame = frames.COAP(rank=RANKS[size], dtype="bfloat16")
    got = mib(llama(size), frame, moments, is_hidden, torch.bfloat16)
    assert round(got, 3) == published


TABLE = {  # AdamW bf16; GaLore, COAP and APOLLO bf16; GaLore and COAP 8-bit with a basis in bf16; APOLLO-Mini; Flora
    "60M": (221.5, 156.2, 81.58, 125.3, 149.7),
    "130M": (511.6, 327.1, 179.3, 188.1, 296.6),
    "350M": (1403.7, 622.6, 353.3, 251.6, 540.8),
    "1B": (5108.2, 1988.3, 1162.2, 503.3, 1656.5),
    "7B": (25705.0, 8969.0, 5380.5, 1008.8, 7187.8),
}
BYTES = {  # GaLore bf16, GaLore 8-bit, APOLLO bf16, APOLLO-Mini bf16
    "60M": (163_743_744, 85_541_888, 163_743_968, 131_362_016),
    "130M": (342_961_152, 187_995_648, 342_961_488, 197_256_528),
    "350M": (652_808_192, 370_444_288, 652_808_864, 263_870_624),
    "1B": (2_084_921_344, 1_218_621_440, 2_084_922_016, 527_737_408),
    "7B": (9_404_694_528, 5_641_871_360, 9_404_695_424, 1_057_801_088),
}


@pytest.mark.parametrize(
    ("size", "halved", "quartered"),
    [
        ("60M", 262_737_920, 131_403_776),
        ("130M", 637_949_952, 319_051_776),
        ("350M", 1_828_593_664, 914_497_536),
        ("1B", 6_782_795_776, 3_391_799_296),
        ("7B", 34_538_029_056, 17_270_079_488),
    ],
)
def test_coap_with_a_ratio_for_every_matrix(size, halved, quartered):
    for ratio, expected in ((2.0, halved), (4.0, quartered)):
        assert mib(llama(size), frames.COAP(ratio=ratio), Dense()) * MIB == expected


@pytest.mark.parametrize("size", LLAMA)
def test_llama(size):
    rank, shapes = RANKS[size], llama(size)
    of = functools.partial(mib, shapes, moments=NARROW, projected=is_hidden, dtype=torch.bfloat16)
    galore = of(frames.GaLore(rank=rank, dtype="bfloat16"))
    assert of(frames.COAP(rank=rank, dtype="bfloat16")) == galore
    eight = of(frames.GaLore(rank=rank, dtype="bfloat16"), moments=CODES)
    apollo = of(frames.APOLLO(rank=rank, dtype="bfloat16"))
    mini = of(frames.APOLLO(rank=1, granularity="tensor", scale=128.0, dtype="bfloat16"))
    flora = mib(shapes, frames.Identity(), RandomProjection(rank), is_hidden)
    adamw = of(frames.Identity())
    assert tuple(round(x * MIB) for x in (galore, eight, apollo, mini)) == BYTES[size]
    assert apollo == pytest.approx(galore, rel=1e-5)  # beside it, one norm for each matrix
    for got, published in zip((adamw, galore, eight, mini, flora), TABLE[size], strict=True):
        assert float(f"{got:.1f}") == pytest.approx(published, abs=0.051)
