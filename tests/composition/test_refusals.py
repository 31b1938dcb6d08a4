"""A sentence that does not fit is refused with the reason and with the nearest one that does."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from sentences import SHAPE, legal, point, sample
from torch import nn

import metrize
from metrize import (
    Blocks,
    Dense,
    Factored,
    Grassmann,
    Optimizer,
    Product,
    Recipe,
    Sphere,
    Stiefel,
    SymplecticStiefel,
    Vector,
    frames,
    norms,
    rules,
    step_sizes,
)

TOLD = "; the nearest recipe that works: "
FREE = Vector()
SLOTS = ("decay", "moments", "step_size", "frame", "rule")


def refusal(recipe: Recipe, shape: tuple[int, ...], name: str = "w") -> tuple[str, Recipe]:
    """The reason, and the sentence that is named as the nearest."""
    try:
        p = nn.Parameter(point(recipe, seed=1, shape=torch.Size(shape)))
    except metrize.SpaceError:
        p = nn.Parameter(torch.ones(shape))
    with pytest.raises(metrize.SpaceError) as caught:
        Optimizer([(name, p)], recipe)
    reason, told, sentence = str(caught.value).partition(TOLD)
    assert told, f"no way out of: {reason}"
    assert reason.startswith(f"parameter '{name}': ")
    nearest = metrize.parse(sentence)
    assert isinstance(nearest, Recipe)
    Optimizer([(name, p)], nearest)
    return reason, nearest


CASES: list[tuple[Recipe, tuple[int, ...], str, Recipe]] = [
    (
        Recipe(Stiefel(), frames.GaLore(rank=2), rule=rules.Momentum()),
        (6, 4),
        "frame=GaLore(rank=2) is for tensors in a vector space, and this one lives on Stiefel()",
        Recipe(Stiefel(), rule=rules.Momentum()),
    ),
    (
        Recipe(Stiefel(), rule=rules.Shampoo(), moments=Factored()),
        (6, 4),
        "rule=Shampoo() is for tensors in a vector space",
        Recipe(Stiefel(), moments=Factored()),
    ),
    (
        Recipe(Grassmann(), step_size=step_sizes.Prodigy()),
        (6, 4),
        "step_size=Prodigy(norm=MaxEntry()) is for tensors in a vector space",
        Recipe(Grassmann()),
    ),
    (
        Recipe(Product(Stiefel(), 4), frames.Eigenbasis()),
        (6, 4),
        "no change of coordinates serves all pieces",
        Recipe(Product(Stiefel(), 4)),
    ),
    (
        Recipe(SymplecticStiefel(form="full"), decay="cautious"),
        (6, 4),
        "decay='cautious' has no meaning on SymplecticStiefel(form='full')",
        Recipe(SymplecticStiefel(form="full")),
    ),
    (Recipe(decay="natural"), (6, 4), "which has no natural gradient", Recipe()),
    (Recipe(rule=rules.Steepest(norms.Spectral())), (5,), "a matrix has two dimensions at least", Recipe()),
    (
        Recipe(rule=rules.Steepest(norms.Spectral()), step_size=step_sizes.DualNorm(norms.Spectral())),
        (5,),
        "a matrix has two dimensions at least",
        Recipe(),
    ),
    (
        Recipe(step_size=step_sizes.Prodigy(norms.Spectral())),
        (5,),
        "a matrix has two dimensions at least",
        Recipe(),
    ),
    (
        Recipe(rule=rules.Momentum(), step_size=step_sizes.Prodigy(bias_correction=True)),
        (5,),
        "step_size=Prodigy(norm=MaxEntry(), bias_correction=True) reads betas, which rule=Momentum() has not",
        Recipe(rule=rules.Momentum()),
    ),
    (
        Recipe(moments=Blocks("rows", 4), rule=rules.Adam("elementwise")),
        (6, 4),
        "the 6 rows of shape (6, 4) are not 4 equal blocks",
        Recipe(),
    ),
    (  # rows that the frame leaves, and not those of the parameter
        Recipe(frame=frames.GaLore(rank=3), moments=Blocks("columns", 2)),
        (8, 4),
        "the 3 columns of shape (8, 3) are not 2 equal blocks",
        Recipe(frame=frames.GaLore(rank=3)),
    ),
    (
        Recipe(frame=frames.GaLore(rank=3), rule=rules.Steepest(norms.Spectral(layout=norms.Layout(block_rows=2)))),
        (4, 8),
        "block_rows=2",
        Recipe(rule=rules.Steepest(norms.Spectral(layout=norms.Layout(block_rows=2)))),
    ),
    (Recipe(Stiefel(), rule=rules.Lion()), (5,), "Stiefel holds matrices", Recipe(FREE, rule=rules.Lion())),
    (Recipe(Sphere(), moments=Dense("bfloat16")), (1,), "two at least", Recipe(FREE, moments=Dense("bfloat16"))),
]


@pytest.mark.parametrize(("recipe", "shape", "reason", "nearest"), CASES, ids=lambda value: str(value))
def test_a_refusal_says_why_and_what_works(
    recipe: Recipe, shape: tuple[int, ...], reason: str, nearest: Recipe
) -> None:
    said, found = refusal(recipe, shape)
    assert reason in said
    assert found == nearest


def test_a_declared_space_is_not_given_up() -> None:
    layer = nn.Linear(4, 6)
    metrize.constrain(layer, "weight", Stiefel())
    with pytest.raises(metrize.SpaceError, match=r"'weight': frame=GaLore.*works: Recipe\(moments=RankOne\(\)\)$"):
        Optimizer(layer, Recipe(frame=frames.GaLore(), moments=metrize.RankOne()))


def changed(recipe: Recipe, nearest: Recipe) -> set[str]:
    fields = (field.name for field in dataclasses.fields(Recipe))
    return {name for name in fields if getattr(recipe, name) != getattr(nearest, name)}


@pytest.mark.parametrize("recipe", sample(200, seed=2, fits=False), ids=str)
def test_no_sentence_is_nearer_than_the_one_that_is_named(recipe: Recipe) -> None:
    p = nn.Parameter(point(recipe, seed=1))
    with pytest.raises(metrize.SpaceError) as caught:
        Optimizer([p], recipe)
    nearest = metrize.parse(str(caught.value).partition(TOLD)[2])
    assert isinstance(nearest, Recipe)
    Optimizer([p], nearest)
    given_up = changed(recipe, nearest)
    assert given_up <= set(SLOTS)
    default = Recipe()
    for fewer in itertools.combinations(SLOTS, len(given_up) - 1):
        assert not legal(recipe.replace(**{slot: getattr(default, slot) for slot in fewer}), SHAPE)


def test_nothing_is_added_where_a_group_is_refused() -> None:
    optimizer = metrize.Adam([nn.Parameter(torch.ones(3))])
    with pytest.raises(metrize.SpaceError, match="nearest recipe"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(4))], "recipe": metrize.Muon.recipe()})
    assert len(optimizer.param_groups) == 1


def test_what_no_sentence_helps_against_is_refused_without_one() -> None:
    with pytest.raises(metrize.SpaceError, match="too short to be trained") as caught:
        Optimizer([nn.Parameter(torch.ones(3).to(torch.float8_e4m3fn))])
    assert TOLD not in str(caught.value)
    with pytest.raises(metrize.SpaceError, match="not a point of") as caught:
        Optimizer([nn.Parameter(torch.ones(6, 4))], Recipe(Stiefel()))
    assert TOLD not in str(caught.value)


@pytest.mark.parametrize("recipe", [None, *sample(50, seed=3)], ids=str)
def test_a_sentence_is_read_as_it_is_printed(recipe: Recipe | None) -> None:
    recipe = recipe or Recipe()
    assert metrize.parse(str(recipe)) == recipe == metrize.parse(repr(recipe))
