"""A low-rank optimizer that projects nothing says so, once, with sizes and the way out."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import metrize

LOW_RANK = ["GaLore", "APOLLO", "Flora"]


def model(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))


@pytest.mark.parametrize("name", LOW_RANK)
def test_it_is_said_with_sizes_once(name: str) -> None:
    optimizer = metrize.catalogue()[name](model(8))
    with pytest.warns(UserWarning, match=r"\(rank=\d+\) projects none of 4 .*side is 8;"):
        optimizer.init_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
        optimizer.init_state()


@pytest.mark.parametrize("name", [*LOW_RANK, "COAP"])
def test_nothing_is_said_where_one_tensor_has_a_basis(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrize.catalogue()[name](model(8), rank=2).init_state()


def test_soap_whose_dimensions_are_all_too_long_says_so() -> None:
    optimizer = metrize.SOAP(nn.Linear(8, 8), max_precond_dim=4)
    with pytest.warns(UserWarning, match="Eigenbasis.* projects none of 2 parameters"):
        optimizer.init_state()


def test_plain_optimizers_have_nothing_to_say() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for cls in (metrize.AdamW, metrize.Adam8bit, metrize.Muon, metrize.SMMF):
            cls(model(8)).init_state()


def test_known_models_are_answered_for_every_optimizer() -> None:
    for name in ("GPT-2 small", "ResNet-18", "ViT-S/16", "LLaMA-60M", "T5-small", "BERT-base"):
        shapes = metrize.memory.KNOWN[name]()
        whole = metrize.predict(shapes, metrize.AdamW)
        for method in ("Muon", "COAPMuon", "FreeMuon", "Scion", "Adalayer", "AdamMini"):
            told = metrize.predict(metrize.memory.KNOWN[name](), metrize.catalogue()[method])
            assert told.parameters == whole.parameters
            if method == "Muon":
                assert whole.state / 2 <= told.state < whole.state


def test_muon_of_gpt2_keeps_momentum_alone_for_the_matrices_of_layers() -> None:
    told = metrize.predict(metrize.memory.KNOWN["GPT-2 small"](), metrize.Muon)
    layers = 12 * 12 * 768**2  # numbers of the matrices of twelve layers
    others = 124_439_808 - layers
    assert told.state == 4 * layers + 8 * others + 4 * 148
    assert torch.float32.itemsize == 4
