"""What a subject promises, one function each: they raise an AssertionError that says what is broken."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metrize.frames import Eigenbasis, Identity
from metrize.moments import Dense, Factored, Quantized
from metrize.optim.optimizer import Optimizer
from metrize.part import parse
from metrize.recipe import Recipe
from metrize.spaces import Stiefel, Vector
from metrize.step import assembly
from metrize.step.assignment import Assignment, assign
from metrize.step.state import new_state
from metrize.testing import agreement, problem
from metrize.testing.guarded import Guarded
from metrize.testing.problem import legal, point
from metrize.testing.subject import Subject, telling

Shapes = list[torch.Size]
MATRIX = torch.Size((16, 12))
STEPS = 5
SAVE_AT = 2


def prints_and_parses(subject: Subject, shapes: Shapes) -> None:
    """A recipe is its text: that is what checkpoints hold."""
    for recipe in subject.recipes([problem.SHAPE]):
        for text in (repr(recipe), str(recipe)):
            with telling(subject, "reading its own text"):
                read = parse(text)
            assert read == recipe, (
                f"{subject}: {text} is read back as {read!r}. A part is a frozen dataclass "
                "(`@dataclasses.dataclass(frozen=True)`) whose fields are numbers, strings, None and parts, and its "
                "name is its own"
            )


def accepted(subject: Subject, shapes: Shapes) -> Shapes:
    """The shapes that are not refused."""
    found, reason = [], ""
    for shape in shapes:
        try:
            with telling(subject, f"building it for a tensor of shape {tuple(shape)}"):
                _built(subject, shape)
            found.append(shape)
        except AssertionError as error:
            if not isinstance(error.__cause__, ValueError):
                raise
            reason = str(error.__cause__)
    assert found, f"{subject}: all of the shapes {[*map(tuple, shapes)]} are refused, the last with: {reason}"
    return found


def trains(subject: Subject, shapes: Shapes) -> None:
    """It goes downhill on a matrix, and stays finite on all shapes and dtypes."""
    if problem.SHAPE in shapes:
        with telling(subject, "training a matrix"):
            run = problem.trained(subject.run, 8, (1e-2, 1e-3, 1e-4, 1.0))
            problem.went_downhill(run)
            problem.keeps_its_word(run)
    for shape in shapes:
        _stays_finite(subject, shape, torch.float32)
    for dtype in (torch.bfloat16, torch.float64):
        _stays_finite(subject, shapes[-1], dtype)


def changes_nothing_that_it_reads(subject: Subject, shapes: Shapes) -> None:
    """A rule leaves the coordinates and the averages that it was given as they are."""
    for recipe, numbers in subject.recipes(shapes).items():
        plain = recipe.replace(space=Vector(), frame=Identity())
        own = {key: value for key, value in numbers.items() if key in plain.hyper()}
        for shape in [shape for shape in shapes if legal(plain, shape)][-1:]:
            p = nn.Parameter(agreement.draw(1, shape))
            optimizer = Optimizer([p], plain, **own)
            assignment = assign(optimizer.param_groups[0], 0)
            state = {k: v.unsqueeze(0) for k, v in new_state(assignment, p, torch.device("cpu")).items()}
            for step in range(2):
                state["step"].add_(1)
                _guarded_step(subject, assignment, state, optimizer.param_groups[0], agreement.draw(step, shape))


def members_are_apart(subject: Subject, shapes: Shapes) -> None:
    """Equal tensors are stepped in one batch, each as if it were alone."""
    for shape in shapes:
        if any(recipe.step_size.scope is not None for recipe in subject.recipes([shape])):
            continue  # it measures the whole model
        with telling(subject, f"stepping two tensors of shape {tuple(shape)}"):
            together = _pair(subject, shape, (0, 1))
            alone = [_pair(subject, shape, (i,))[i] for i in (0, 1)]
        for found, expected in zip(together, alone, strict=True):
            assert _close(found, expected, 0.05 if _rounds(subject, shape) else 1e-6), (
                f"{subject}: two tensors of shape {tuple(shape)} with different gradients change each other's step. A "
                "rule sees them stacked, `[B, *batch, *point]`: sums, means and norms have to leave the first "
                "dimensions alone, as `metric.sq_norm(coords)` does (with `metrize.rules.base.per_point` to multiply)"
            )


def executors_agree(subject: Subject, shapes: Shapes) -> None:
    """Whole, in pieces or by a kernel: the step is the same."""
    for recipe, numbers in _plain_recipes(subject, shapes):
        p = nn.Parameter(agreement.draw(99, MATRIX))
        with telling(recipe, "building it for a matrix"):
            others = agreement.executors(recipe, p, **numbers)[:-1]
        if not others:
            continue
        with telling(recipe, "stepping a matrix whole"):
            expected = _ran(recipe, assembly.EXECUTORS[-1], numbers)
        for executor in others:
            with telling(recipe, f"stepping a matrix in pieces, by {executor.__name__}"):
                found = _ran(recipe, executor, numbers)
            assert _close(found - p, expected - p, _tolerance(recipe)), (
                f"{recipe}: {executor.__name__} takes another step than the whole tensor does. Either `passes` says "
                "that a tensor can be gone through piece by piece, and the rule uses a norm, sum or mean of all of it: "
                "return () from `passes`, or cut the rule there (`averages.add` in one pass, `averages.total` in the "
                "next); or `kernel` does not do what `direction` does"
            )


def parts_agree(subject: Subject, shapes: Shapes) -> None:
    """What says that it is elementwise steps some rows without the others."""
    for recipe, numbers in _plain_recipes(subject, shapes):
        whole = nn.Parameter(agreement.draw(99, MATRIX))
        optimizer = Optimizer([whole], recipe, **numbers)
        if recipe.step_size.scope is not None or not assign(optimizer.param_groups[0], 0).elementwise:
            continue  # sums over the model are for processes to complete
        rows = slice(5, 11)
        with telling(recipe, "stepping some rows of a matrix"):
            found = agreement.run_part(recipe, whole, rows, **numbers)
            expected = agreement.run(recipe, nn.Parameter(whole.detach().clone()), steps=2, **numbers)[rows]
        assert _close(found - whole[rows], expected - whole[rows], _tolerance(recipe)), (
            f"{recipe}: some rows of a matrix, stepped without the others, take another step than within it, as they "
            "would on a process that holds only these. `elementwise` says that every entry depends on itself alone: "
            "let the part that mixes entries return False"
        )


def goes_on(subject: Subject, shapes: Shapes) -> None:
    """From a checkpoint, a copy or a pickle, bit for bit."""
    shape = problem.SHAPE if problem.SHAPE in shapes else shapes[-1]
    with telling(subject, "copying, pickling or resuming it"):
        run = subject.run(shape=shape).step(STEPS)
        problem.goes_on(lambda lr: subject.run(lr, shape), run, SAVE_AT)


def fits_in(subject: Subject, shapes: Shapes) -> None:
    """On a manifold, in an eigenbasis and in 8 bits, where these are legal."""
    recipe = subject.recipe
    for slots in ({"space": Stiefel()}, {"frame": Eigenbasis(period=2)}, {"moments": Quantized(smallest=0, block=16)}):
        ((slot, part),) = slots.items()
        default = getattr(Recipe(), slot)
        if getattr(recipe, slot) != default or not legal(recipe.replace(**slots)):
            continue
        other = subject.within(**slots)
        with telling(subject, f"training it with {slot}={part}"):
            run = other.run(1e-3).step(STEPS)
            problem.keeps_its_word(run)
            problem.goes_on(other.run, run, SAVE_AT)


def _built(subject: Subject, shape: torch.Size, dtype: torch.dtype = torch.float32, count: int = 1) -> Any:
    params = [nn.Parameter(point(subject.recipe, seed, shape, dtype)) for seed in range(1, count + 1)]
    optimizer = subject.build([(f"w{i}", p) for i, p in enumerate(params)])
    optimizer.init_state()
    return params, optimizer


def _stays_finite(subject: Subject, shape: torch.Size, dtype: torch.dtype) -> None:
    """Also where gradients are zero, and with the state that is declared."""
    doing = f"stepping a tensor of shape {tuple(shape)} in {dtype}"
    with telling(subject, doing):
        (p,), optimizer = _built(subject, shape, dtype)
        for step in range(4):
            p.grad = torch.zeros_like(p) if step in (0, 3) else agreement.draw(step, shape).to(dtype)
            optimizer.step()
        spec = optimizer.spec(optimizer.param_groups[0], 0)
    held = {"the parameter": p, **optimizer.state[p]}
    wild = [key for key, value in held.items() if value.is_floating_point() and not value.isfinite().all()]
    assert not wild, (
        f"{subject}: {doing} with gradients of 0, then random ones, makes {', '.join(wild)} infinite or NaN. Is there "
        "a 0 / 0, or an eps too small for the dtype?"
    )
    assert p.dtype == dtype, f"{subject}: {doing} makes a parameter of {p.dtype}"
    kept = {key: (tuple(value.shape), value.dtype) for key, value in optimizer.state[p].items()}
    declared = {key: (tuple(size), kind) for key, (size, kind) in spec.items()}
    assert kept == declared, (
        f"{subject}: {doing} keeps {kept} and declares {declared}; change state in place, and declare all of it in "
        "`state_spec` or `small_spec`"
    )


def _guarded_step(
    subject: Subject, assignment: Assignment, state: dict[str, Tensor], numbers: dict[str, Any], grad: Tensor
) -> None:
    coords = grad.unsqueeze(0).clone()
    averages = Guarded(assignment.recipe.moments, state, assignment.slots, 0, assignment.small)
    with telling(subject, "asking the rule for a direction"), torch.no_grad():
        direction = assignment.recipe.rule.direction(coords, averages, dict(numbers), assignment.metric)
    assert direction.shape == coords.shape, (
        f"{subject}: the direction has shape {tuple(direction.shape)}, the coordinates {tuple(coords.shape)}; the two "
        "are the same"
    )
    assert torch.equal(coords, grad.unsqueeze(0)), (
        f"{subject}: `direction` changes `coords` in place, which is the gradient itself; work on a copy, as "
        "`coords * c` is and `coords.mul_(c)` is not"
    )
    changed = averages.changed()
    assert not changed, (
        f"{subject}: `direction` changes in place what `averages` gave for {', '.join(changed)}, which is the average "
        "that is kept; work on a copy, as `average.sign()` is and `average.sign_()` is not"
    )


def _pair(subject: Subject, shape: torch.Size, given: tuple[int, ...]) -> list[Tensor]:
    """How far two equal tensors go in float64, where only those given have gradients, one a thousand times larger."""
    params, optimizer = _built(subject, shape, torch.float64, 2)
    starts = [p.detach().clone() for p in params]
    for step in range(3):
        for i in given:
            params[i].grad = agreement.draw(10 * step + i, shape) * (1000.0 if i else 1.0)
        optimizer.step()
    return [p.detach() - start for p, start in zip(params, starts, strict=True)]


def _plain_recipes(subject: Subject, shapes: Shapes) -> list[tuple[Recipe, dict[str, Any]]]:
    """Its recipes on a vector space, also in storages that need the whole tensor first, as far as they are legal."""
    found: dict[Recipe, dict[str, Any]] = {}
    for recipe, numbers in subject.recipes(shapes).items():
        free = recipe.replace(space=Vector())
        others = [free.replace(moments=Factored())] if recipe.moments == Dense() else []
        found |= {other: numbers for other in (free, *others) if legal(other, MATRIX)}
    return list(found.items())


def _ran(recipe: Recipe, executor: Any, numbers: dict[str, Any]) -> Tensor:
    return agreement.run(recipe, nn.Parameter(agreement.draw(99, MATRIX)), executor, **numbers)


def _tolerance(recipe: Recipe) -> float:
    p = nn.Parameter(agreement.draw(99, MATRIX))
    return 0.05 if _coded(assign(Optimizer([p], recipe).param_groups[0], 0)) else 1e-6


def _rounds(subject: Subject, shape: torch.Size) -> bool:
    _, optimizer = _built(subject, shape, torch.float64)
    return _coded(assign(optimizer.param_groups[0], 0))


def _coded(assignment: Assignment) -> bool:
    """Whether averages are rounded, so that the last digit of the arithmetic decides on a code."""
    return any(dtype != assignment.dtype for _, dtype in assignment.declared["moments"].values())


def _close(found: Tensor, expected: Tensor, share: float) -> bool:
    return bool((found - expected).norm() <= share * expected.norm() + 1e-12)
