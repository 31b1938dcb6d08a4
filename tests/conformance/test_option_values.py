"""A number is taken in every form that numbers have, and nothing else is taken for one."""

from __future__ import annotations

import math
import typing
from typing import Any

import numpy as np
import pytest
import torch
from cases import through_disk
from torch import nn

import metrize
from metrize.arguments import argument_hint, arguments_of

CATALOGUE = metrize.catalogue()
NUMBERS = [(name, option) for name, cls in CATALOGUE.items() for option, kind in arguments_of(cls).items()
           if set(kind.split(" | ")) <= {"float", "int", "Tensor", "None"}]  # fmt: skip
SEVERAL = [(name, option) for name, cls in CATALOGUE.items() for option, kind in arguments_of(cls).items()
           if kind in ("tuple[float, float]", "tuple[float, float, float]")]  # fmt: skip
TRUTHS = [(name, option) for name, cls in CATALOGUE.items() for option, kind in arguments_of(cls).items()
          if kind == "bool"]  # fmt: skip
WORDS = [(name, option) for name, cls in CATALOGUE.items() for option in arguments_of(cls)
         if typing.get_origin(hint := argument_hint(cls, option)) is typing.Literal
         or typing.Literal in map(typing.get_origin, typing.get_args(hint))
         if option not in ("decay",)]  # fmt: skip


def weight() -> nn.Parameter:
    return nn.Parameter(torch.eye(8, 6))


def refused(name: str, told: dict[str, Any], match: str, error: type[Exception] = TypeError) -> None:
    """By the constructor, by a group of it, and by a group that is added, which changes nothing."""
    cls = CATALOGUE[name]
    with pytest.raises(error, match=match):
        cls([weight()], **told)
    with pytest.raises(error, match=match):
        cls([{"params": [weight()], **told}])
    optimizer = cls([weight()])
    with pytest.raises(error, match=match):
        optimizer.add_param_group({"params": [weight()], **told})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(("name", "option"), NUMBERS)
def test_what_is_no_number_is_refused_by_name(name: str, option: str) -> None:
    refused(name, {option: "1e-3"}, f"^{option} is the text '1e-3'; give a number$")
    for value in ([1e-3], 1j, True, torch.tensor(True), object()):
        with pytest.raises(TypeError, match=f"^{option} is .*; give a number$"):
            CATALOGUE[name]([weight()], **{option: value})
    refused(name, {option: float("nan")}, f"^{option}=nan", ValueError)
    if "None" not in arguments_of(CATALOGUE[name])[option]:
        refused(name, {option: None}, f"^{option} is None; give a number$")


@pytest.mark.parametrize(("name", "option"), SEVERAL)
def test_what_are_not_several_numbers_is_refused_by_name(name: str, option: str) -> None:
    for value in ("ab", 0.9, None):
        refused(name, {option: value}, f"^{option} is .*; give [23] numbers$")
    refused(name, {option: (0.9, "0.99")}, f"^{option} is the text '0.99'; give a number$")
    refused(name, {option: (0.9,)}, option, ValueError)


@pytest.mark.parametrize(("name", "option"), TRUTHS)
def test_what_is_neither_true_nor_false_is_refused_by_name(name: str, option: str) -> None:
    refused(name, {option: "False"}, f"^{option} is the text 'False'; give True or False$")
    refused(name, {option: None}, f"^{option} is None; give True or False$")


@pytest.mark.parametrize(("name", "option"), WORDS)
def test_a_word_that_does_not_exist_is_refused_by_name(name: str, option: str) -> None:
    refused(name, {option: "folk"}, f"^{option}='folk': {option} is ", ValueError)
    for value in (3.5, np.array(["folk"]), object()):
        with pytest.raises(TypeError, match=f"^{option}="):
            CATALOGUE[name]([weight()], **{option: value})


@pytest.mark.parametrize(("name", "option"), NUMBERS)
def test_a_number_out_of_range_is_refused_by_the_name_of_its_argument(name: str, option: str) -> None:
    for value in (-7.5, -8):
        try:
            CATALOGUE[name]([weight()], **{option: value})
        except (TypeError, ValueError) as error:
            assert option in str(error)  # noqa: PT017


@pytest.mark.parametrize(("name", "option"), [("Adafactor", "eps"), ("Flora", "eps")])
@pytest.mark.parametrize("pair", [np.array([1e-20, 1e-2]), torch.tensor([1e-20, 1e-2]), [np.float32(1e-20), 1e-2]])
def test_pairs_are_taken_as_arrays(name: str, option: str, pair: Any) -> None:
    (group,) = CATALOGUE[name]([weight()], **{option: pair}).param_groups
    assert group["eps"] == pytest.approx(1e-20)
    assert "0.0" in group["recipe"]
    with pytest.raises(TypeError, match=f"^{option}="):
        CATALOGUE[name]([weight()], **{option: np.array(["a", "b"])})


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("value", [np.float32(0.25), np.float64(0.25), np.array(0.25), 1, np.int64(1)], ids=repr)
def test_numbers_of_numpy_become_plain_ones(name: str, value: Any) -> None:
    optimizer = CATALOGUE[name]([{"params": [weight()]}, {"params": [weight()], "lr": value}], lr=value)
    for group in through_disk(optimizer.state_dict())["param_groups"]:  # which reads no arrays of numpy
        assert type(group["lr"]) in (int, float)
        assert group["lr"] == value


def test_every_kind_of_number_becomes_a_plain_one() -> None:
    told = {"betas": np.array([0.5, 0.75]), "eps": np.float32(0.5), "weight_decay": np.int64(1)}
    group = metrize.AdamW([weight()], **told, maximize=np.bool_(True)).param_groups[0]
    plain = {"betas": (0.5, 0.75), "eps": 0.5, "weight_decay": 1, "maximize": True}
    assert {key: group[key] for key in plain} == plain
    assert [type(group[key]) for key in plain] == [tuple, float, int, bool]
    assert metrize.NAdam([weight()], momentum_decay=math.inf).param_groups[0]["momentum_decay"] == math.inf


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_learning_rate_that_is_a_tensor_stays_the_same_tensor(name: str) -> None:
    lr = torch.tensor(0.25)
    optimizer = CATALOGUE[name]([weight()], lr=lr)
    optimizer.add_param_group({"params": [weight()], "lr": lr})
    assert all(group["lr"] is lr for group in optimizer.param_groups)


@pytest.mark.parametrize("key", ["space", "frame", "moments", "step_size", "rounding", "around"])
@pytest.mark.parametrize("text", ["abc", "0.1", "Stiefel("])
def test_a_text_that_is_no_part_is_refused_by_the_name_of_its_option(key: str, text: str) -> None:
    p = nn.Parameter(torch.ones(3, 2))
    with pytest.raises(ValueError, match=rf"{key}="):
        metrize.Optimizer([p], **{key: text})
    with pytest.raises(ValueError, match=rf"{key}="):
        metrize.AdamW([{"params": [p], key: text}])


def test_flags_and_rules_are_checked_where_none_is_allowed_too() -> None:
    p = nn.Parameter(torch.ones(3, 2))
    for value in ("yes", [True], 0.5):
        with pytest.raises(TypeError, match="relative_step"):
            metrize.Adafactor([p], relative_step=value)
    for value in (1.0, "x", {1: 2}.items()):
        with pytest.raises(TypeError, match="rules="):
            metrize.AdamW([("p", p)], rules=value)
