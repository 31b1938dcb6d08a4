"""Every sentence of every part is built or refused at construction; what is built trains, and goes on from a copy."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sentences import (
    DECAYS,
    FRAMES,
    MOMENTS,
    OPTIONS,
    RULES,
    SHAPE,
    SLOTS,
    SPACES,
    STEP_SIZES,
    check_sentence,
    every,
    legal,
    point,
    sample,
)
from torch import nn

import metrize
from metrize import Compensated, Nearest, Optimizer, Recipe, Stiefel, Stochastic, Vector, rules
from metrize.part import Part

pytestmark = [
    pytest.mark.filterwarnings("ignore:decoupled weight decay does nothing to a symplectic matrix"),
    pytest.mark.filterwarnings("ignore:the step of .* symplectic matrices was not taken"),
]


@pytest.mark.parametrize("kind", SLOTS, ids=lambda kind: kind.__name__)
def test_every_part_of_the_library_is_among_the_sentences(kind: type[Part]) -> None:
    known = {cls for cls in Part.known.values() if issubclass(cls, kind) and cls.__module__.startswith("metrize.")}
    assert {type(part) for part in SLOTS[kind]} == known - {kind}


def decide(recipe: Recipe) -> bool:
    """Whether a sentence is built; anything but a refusal is an error."""
    try:
        Optimizer([nn.Parameter(point(recipe, seed=1))], recipe)
    except metrize.SpaceError:
        return False
    return True


def test_a_sentence_is_built_or_refused() -> None:
    decided = {recipe: decide(recipe) for recipe in sample(800, seed=0)}
    assert all(built is legal(recipe) for recipe, built in decided.items())
    assert 0.1 < sum(decided.values()) / len(decided) < 0.9


@pytest.mark.parametrize("recipe", sample(100, seed=1, fits=True), ids=str)
def test_a_legal_sentence_trains_and_goes_on_from_a_copy(recipe: Recipe) -> None:
    check_sentence(recipe)


def with_options() -> list[Recipe]:
    """Each option in a sentence of defaults, in a vector space and on a manifold."""
    said = [{"rule": rules.Steepest(norm)} for norm in OPTIONS["norm"]]
    said += [{slot: part} for slot, parts in OPTIONS.items() if slot != "norm" for part in parts]
    recipes = [Recipe(**{"space": space, **parts}) for space in (Vector(), Stiefel()) for parts in said]
    return [recipe for recipe in dict.fromkeys(recipes) if legal(recipe)]


@pytest.mark.parametrize("recipe", with_options(), ids=str)
def test_every_option_trains_and_goes_on_from_a_copy(recipe: Recipe) -> None:
    check_sentence(recipe)


@pytest.mark.slow
@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("frame", FRAMES, ids=str)
def test_every_sentence(space: metrize.Space, frame: metrize.frames.Frame) -> None:
    """All of them decide; of the legal ones, all train, with one decay after the other."""
    decays = itertools.cycle(DECAYS)
    for moments, rule, step_size in itertools.product(MOMENTS, RULES, STEP_SIZES):
        fitting = [
            recipe
            for recipe in (Recipe(space, frame, moments, rule, step_size, decay) for decay in DECAYS)
            if decide(recipe)
        ]
        turn = next(decays)
        chosen = [recipe for recipe in fitting if recipe.decay == turn] or fitting[:1]
        for recipe in chosen:
            check_sentence(recipe)


@pytest.mark.slow
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_every_decay_with_every_rule(space: metrize.Space) -> None:
    for rule, decay in itertools.product(RULES, DECAYS):
        recipe = Recipe(space=space, rule=rule, decay=decay)
        if decide(recipe):
            check_sentence(recipe)


# Other shapes, dtypes and save points

SHAPES = [(), (1,), (5,), (0,), (1, 5), (5, 1), (1, 1), (4, 3), (4, 4), (0, 3), (2, 3, 4), (2, 0, 3), (4, 2, 3, 3)]
DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.float16, torch.complex64]
ROUNDINGS = [Nearest(), Stochastic(), Compensated()]
STEPS = 5


@st.composite
def cases(draw: st.DrawFn) -> tuple[Recipe, torch.Size, torch.dtype, int]:
    # half of all sentences in a vector space, which has every shape
    space = draw(st.sampled_from([*SPACES, *[Vector()] * len(SPACES)]))
    slots = {"frame": FRAMES, "moments": MOMENTS, "rule": RULES, "step_size": STEP_SIZES}
    others = [draw(st.sampled_from([*parts, *OPTIONS[slot]])) for slot, parts in slots.items()]
    others += [draw(st.sampled_from(parts)) for parts in (DECAYS, ROUNDINGS)]
    shape = torch.Size(draw(st.sampled_from(SHAPES)))
    return Recipe(space, *others), shape, draw(st.sampled_from(DTYPES)), draw(st.integers(1, STEPS - 1))


def gradients(params: list[nn.Parameter], step: int) -> None:
    for index, p in enumerate(params):
        generator = torch.Generator().manual_seed(10 * step + index)
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)


def check_case(recipe: Recipe, shape: torch.Size, dtype: torch.dtype, save_at: int) -> None:
    try:
        params = [nn.Parameter(point(recipe, seed, shape, dtype)) for seed in range(2)]
    except metrize.SpaceError:
        assume(False)
    assume(legal(recipe, shape, dtype))

    def build(params: list[nn.Parameter]) -> Optimizer:
        return Optimizer(params, recipe, lr=0.01)

    optimizer = build(params)
    for step in range(STEPS):
        if step == save_at:
            twins = [nn.Parameter(p.detach().clone()) for p in params]
            twin = build(twins)
            twin.load_state_dict(optimizer.state_dict())
        for run, optimized in ((params, optimizer), (twins, twin)) if step >= save_at else ((params, optimizer),):
            gradients(run, step)
            optimized.step()
    assert metrize.predict([shape] * 2, recipe, dtype=dtype).state == metrize.state_bytes(optimizer)
    for p, q in zip(params, twins, strict=True):
        assert p.isfinite().all()
        assert p.dtype == dtype
        assert torch.equal(p, q)
        assert all(torch.equal(value, twin.state[q][key]) for key, value in optimizer.state[p].items())


@settings(max_examples=200, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(case=cases())
def test_shapes_and_dtypes(case: tuple[Recipe, torch.Size, torch.dtype, int]) -> None:
    check_case(*case)


@pytest.mark.slow
@settings(max_examples=5000, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(case=cases())
def test_many_shapes_and_dtypes(case: tuple[Recipe, torch.Size, torch.dtype, int]) -> None:
    check_case(*case)


@pytest.mark.slow
def test_there_are_as_many_sentences_as_parts_multiply_to() -> None:
    assert sum(1 for _ in every(("decoupled",))) * len(DECAYS) > 500_000
    assert len(SHAPE) == 2
