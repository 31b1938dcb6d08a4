"""Every number field of every part: what becomes a plain number, what prints and is read back, and what is refused."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import metrize
from metrize import frames, moments, rules, spaces, step_sizes
from metrize.part import Part, parse
from metrize.values import alternatives, hints_of

NUMBERS = (int, float, bool)
NEEDED = {
    "Product": {"first": spaces.Sphere(), "size": 1, "rest": spaces.Sphere()},
    "Role": {"kind": "hidden"},
    "Blocks": {"by": "rows"},
    "Shampoo": {"max_dim": 8},
    "SymplecticStiefel": {"form": "full"},
    "SymplecticGrassmann": {"form": "full"},
}
FOREIGN = (
    np.float64(-0.5),
    *(np.float64(0.5), np.float32(2.0), np.int64(3), np.int8(1), np.bool_(True), np.array(2), np.float64("inf")),
    *(torch.tensor(0.25), torch.tensor(4), torch.tensor(True), torch.tensor(-math.inf)),
    torch.tensor(1.5, dtype=torch.bfloat16, requires_grad=True),
    *(math.inf, -math.inf),
)


def _library() -> list[type[Part]]:
    return [cls for cls in Part.known.values() if cls.__module__.startswith("metrize.")]


def _example(cls: type[Part]) -> Part:
    return cls(**NEEDED.get(cls.__name__, {}))


def _number_fields() -> list[tuple[type[Part], str]]:
    return [
        (cls, name)
        for cls in _library()
        for name, hint in hints_of(cls).items()
        if any(kind in NUMBERS for kind in alternatives(hint))
    ]


def _made(example: Part, field: str, value: object) -> tuple[Part | None, str]:
    try:
        return example.replace(**{field: value}), ""
    except (TypeError, ValueError) as error:
        return None, str(error)


def _is_plain(value: object) -> bool:
    return isinstance(value, Part) or value is None or type(value) in (bool, int, float, str, tuple)


def test_the_sweep_sees_the_library():
    assert len(_number_fields()) > 100
    assert all(hint is not None for cls in _library() for hint in hints_of(cls).values())


@pytest.mark.parametrize(("cls", "field"), _number_fields(), ids=lambda value: getattr(value, "__name__", value))
def test_a_number_is_plain_and_survives_its_text_or_is_refused_by_name(cls, field):
    example = _example(cls)
    taken = 0
    for value in FOREIGN:
        part, refusal = _made(example, field, value)
        if part is None:
            assert cls.__name__ in refusal
            assert field in refusal
            continue
        taken += 1
        kept = getattr(part, field)
        assert _is_plain(kept)
        assert kept == value
        assert parse(repr(part)) == parse(str(part)) == part
    assert taken


@pytest.mark.parametrize(("cls", "field"), _number_fields(), ids=lambda value: getattr(value, "__name__", value))
def test_what_is_no_number_is_refused_by_name(cls, field):
    example = _example(cls)
    for value in ("fast", math.nan, np.float64("nan"), torch.tensor(math.nan), 1j, object, {}, (math.nan,)):
        with pytest.raises((TypeError, ValueError), match=rf"(?s){cls.__name__}.*{field}"):
            example.replace(**{field: value})


def test_foreign_numbers_are_those_of_the_plain_recipe():
    foreign = frames.Eigenbasis(period=np.int64(4), max_precond_dim=math.inf, merge_dims=np.bool_(True), tolerance=0.5)
    assert foreign == frames.Eigenbasis(period=4, max_precond_dim=math.inf, merge_dims=True, tolerance=0.5)
    assert repr(foreign) == repr(parse(str(foreign)))
    assert "period=4, " in repr(foreign)
    assert "max_precond_dim=inf, " in repr(foreign)


@pytest.mark.parametrize(
    "split", [[2, 3], (np.int64(2), 3), np.array([2, 3]), torch.tensor([2, 3]), torch.Size([2, 3])]
)
def test_several_numbers_become_a_tuple(split):
    layout = metrize.norms.Layout(split=split)
    assert layout.split == (2, 3)
    assert type(layout.split[0]) is int
    assert parse(repr(layout)) == layout


def test_infinity_is_read_inside_of_tuples():
    shampoo = rules.Shampoo(exponents=((1, math.inf), (2, 0.5)))
    assert parse(repr(shampoo)) == shampoo
    assert parse("Shampoo(exponents=[(1, inf), (2, 0.5)])") == shampoo


def test_whole_numbers_may_be_written_as_floats_and_halves_not():
    assert type(frames.Eigenbasis(period=10.0).period) is int
    with pytest.raises(TypeError, match=r"Eigenbasis\(period=2\.5\): period is a whole number"):
        frames.Eigenbasis(period=2.5)
    with pytest.raises(TypeError, match=r"rank=True\): rank is a whole number"):
        frames.GaLore(rank=True)
    with pytest.raises(ValueError, match=r"Prodigy\(d0=nan\): d0 is NaN"):
        step_sizes.Prodigy(d0=math.nan)
    with pytest.raises(ValueError, match="d0 is NaN"):
        parse("Prodigy(d0=nan)")


def test_the_check_does_not_depend_on_a_subclass_that_calls_it():
    @dataclasses.dataclass(frozen=True)
    class Careless(metrize.rules.Rule):
        factor: float = 1.0
        turns: "int | None" = None

        def __post_init__(self) -> None:  # does not call super's, and sees plain numbers
            assert type(self.factor) in (int, float)

    @dataclasses.dataclass(frozen=True)
    class MoreCareless(Careless):
        depth: int = 0

        def __post_init__(self) -> None:
            assert type(self.depth) is int

    part = MoreCareless(np.float64(2), torch.tensor(3), np.int64(4))
    assert repr(part) == "MoreCareless(factor=2.0, turns=3, depth=4)"
    with pytest.raises(TypeError, match=r"MoreCareless\(depth='deep'\): depth is a whole number"):
        MoreCareless(depth="deep")
    with pytest.raises(TypeError, match="turns is a whole number or None"):
        Careless(turns="many")


def test_named_optimizers_take_the_numbers_of_a_search():
    parameter = torch.nn.Parameter(torch.ones(8, 6))
    optimizer = metrize.SOAP(
        [parameter], precondition_frequency=np.int64(2), max_precond_dim=math.inf, merge_dims=np.bool_(True)
    )
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert optimizer.recipes()[0].frame == frames.Eigenbasis(
        period=2, shampoo_beta=-1, max_precond_dim=math.inf, merge_dims=True
    )
    metrize.Prodigy([parameter], d_coef=np.float64(2), growth_rate=math.inf)


@pytest.mark.parametrize(
    "recipe",
    [
        metrize.Recipe(moments=moments.Quantized(smallest=math.inf)),
        metrize.Recipe(moments=moments.Factored(min_size=math.inf)),
        metrize.Recipe(frame=frames.Eigenbasis(max_precond_dim=math.inf, merge_dims=True)),
        metrize.Recipe(frame=frames.COAP(rank=2, conv_ratio=2, conv_above=math.inf)),
        metrize.Recipe(step_size=step_sizes.Prodigy(growth_rate=math.inf)),
    ],
    ids=str,
)
def test_a_bound_of_infinity_steps_and_resumes(recipe):
    parameter = torch.nn.Parameter(torch.ones(4, 3, 2, 2))
    optimizer = metrize.Optimizer([parameter], recipe)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    again = metrize.Optimizer([parameter], recipe)
    again.load_state_dict(optimizer.state_dict())
    assert torch.isfinite(parameter).all()
