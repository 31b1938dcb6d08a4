"""`metrize.create` makes what a configuration names, and says what is near otherwise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import metrize
from metrize.calls import names_of


@pytest.mark.parametrize("name", metrize.catalogue())
@pytest.mark.parametrize("spelt", [str, str.lower, str.upper])
def test_the_catalogue_in_any_case(name: str, spelt) -> None:
    optimizer = metrize.create(spelt(name), nn.Linear(4, 3), lr=0.125)
    assert type(optimizer) is metrize.catalogue()[name]
    assert optimizer.defaults["lr"] == 0.125


@pytest.mark.parametrize("name", metrize.catalogue())
def test_an_unknown_option_is_named_with_those_that_are_known(name: str) -> None:
    kind = metrize.catalogue()[name]
    with pytest.raises(
        TypeError, match=rf"{name} takes no 'weight_decya' \(did you mean 'weight_decay'\?\); known: lr,"
    ):
        metrize.create(name, nn.Linear(4, 3), weight_decya=0.1)
    assert {"lr", "weight_decay", "skip_nonfinite"} <= set(names_of(kind))
    assert not {"self", "params", "options"} & set(names_of(kind))


def test_an_option_that_is_known_and_wrong_keeps_its_own_message() -> None:
    with pytest.raises(ValueError, match="lr=-1"):
        metrize.create("adam", nn.Linear(4, 3), lr=-1)


def test_a_recipe() -> None:
    recipe = metrize.Recipe(frame=metrize.frames.Eigenbasis(), moments=metrize.Quantized())
    for text in (str(recipe), repr(recipe)):
        optimizer = metrize.create(text, nn.Linear(4, 3), lr=0.5)
        assert isinstance(optimizer, metrize.Optimizer)
        assert optimizer.recipes() == [recipe]
    with pytest.raises(ValueError, match="did you mean 'Lion'"):
        metrize.create("Recipe(rule=Lyon())", nn.Linear(4, 3))
    with pytest.raises(ValueError, match="not a recipe"):
        metrize.create("Lion()", nn.Linear(4, 3))
    with pytest.raises(TypeError, match="takes no 'beta'"):
        metrize.create("Recipe()", nn.Linear(4, 3), beta=0.5)


@pytest.mark.parametrize("path", ["metrize.named.soap.SOAP", "metrize.named.soap:SOAP", "metrize.SOAP"])
def test_a_class_by_its_place(path: str) -> None:
    assert type(metrize.create(path, nn.Linear(4, 3))) is metrize.SOAP


def test_a_class_of_others() -> None:
    assert type(metrize.create("torch.optim.SGD", nn.Linear(4, 3).parameters(), lr=0.1)) is torch.optim.SGD


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("Soapp", ValueError, "did you mean 'SOAP'"),
        ("", ValueError, "known: Adam,"),
        ("no.such.Class", ValueError, "cannot find the optimizer 'no.such.Class'"),
        ("torch.optim:Nothing", ValueError, "cannot find"),
        (".", ValueError, "cannot find"),
        ("soap:", ValueError, "cannot find"),
        ("math.pi", TypeError, "is a float"),
        ("builtins.list", TypeError, "makes a list, which is no torch.optim.Optimizer"),
    ],
)
def test_what_is_no_optimizer(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        metrize.create(name, nn.Linear(4, 3).parameters())
