"""Launches, waits and bytes of steps on the shapes of models that people train; nothing is computed, on meta."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from counted import FEW, SHAPES, on_true_shapes, true_shapes
from pretended import Device
from subjects import gpt2, llama, on_meta, tiny
from torch import nn

import metrize

MOST = {"AdamW": 25, "SGD": 25, "AMSGrad": 25, "AdaGrad": 25, "SignSGD": 120, "Signum": 120, "Lion": 120, "AdamNC": 120}
MOST |= {"SM3": 300, "Muon": 400, "GaLore": 400, "APOLLO": 400}
"""Launches of a step of GPT-2 small, of 148 tensors."""


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in SHAPES]
)
def test_counts_are_those_that_were_reviewed(name: str) -> None:
    """Where one changes on purpose, write the file again: ``python tests/device/counted.py``."""
    assert on_true_shapes(name) == true_shapes()[name]


def test_every_optimizer_but_those_of_roots_is_counted() -> None:
    assert set(true_shapes()) == set(metrize.catalogue()) - {"Shampoo", "DistributedShampoo"}


@pytest.mark.parametrize("name", MOST)
def test_a_step_of_many_tensors_is_few_launches(name: str) -> None:
    assert true_shapes()[name]["launches"] <= MOST[name]


def counted(build: Callable[[], nn.Module], name: str, **options: Any) -> Device:
    return on_meta(build, metrize.catalogue()[name], **options)


@pytest.mark.parametrize("name", ["AdamW", "Lion"])
def test_two_thousand_small_tensors_are_few_launches(name: str) -> None:
    assert counted(tiny, name).launches <= 150


@pytest.mark.parametrize("rounding", [metrize.Nearest(), metrize.Stochastic(), metrize.Compensated()], ids=str)
def test_weights_in_16_bits_wait_no_more(rounding: metrize.Rounding) -> None:
    make = functools.partial(metrize.AdamW, rounding=rounding)
    assert sum(on_meta(functools.partial(gpt2, 1), make, dtype=torch.bfloat16).waits.values()) == 1


def test_weights_in_16_bits_are_stepped_in_chunks_of_many() -> None:
    assert counted(functools.partial(llama, 16), "AdamW", dtype=torch.bfloat16).launches <= 400


def test_two_kinds_of_gradients_are_one_wait() -> None:
    def mixed() -> nn.Module:
        return nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8, dtype=torch.bfloat16)])

    assert sum(counted(mixed, "Lion").waits.values()) == 1
