"""The recipe that says what an optimizer does to a tensor."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import warnings
from typing import Any

import torch

from metrize.decay import DECAYS, Convention, Decay
from metrize.frames import Frame, Identity
from metrize.moments import Dense, Moments
from metrize.norms import Norm
from metrize.part import Part, choice, offers, parse
from metrize.rounding import Nearest, Rounding
from metrize.rules import Adam, Kernel, Rule
from metrize.rules.base import DIRECTION
from metrize.spaces import Space, SpaceError, Vector
from metrize.step_sizes import Given, StepSize

_YIELDING = ("decay", "moments", "step_size", "frame", "rule")  # slots, in the order in which they are given up
_FEWEST_FIRST = [slots for count in range(6) for slots in itertools.combinations(_YIELDING, count)]


@dataclasses.dataclass(frozen=True)
class Recipe(Part):
    """Five answers about a tensor, the convention of its weight decay, and how it is rounded.

    Args:
        space: where the tensor lives. None: where it was declared to live (`metrize.constrain`), else a vector space.
        frame: in which coordinates its averages are kept.
        moments: how they are stored.
        rule: how averages and a norm make a direction.
        step_size: how long the step is.
        decay: ``"decoupled"`` shrinks the parameter by ``1 - lr * weight_decay`` before the step, ``"after"`` after it,
            where lr is the rate of the step size, and in ``"given"`` the group's lr whatever the step size makes of it;
            ``"l2"`` adds ``weight_decay * p`` to the gradient; ``"independent"`` shrinks by
            ``1 - weight_decay * lr / initial_lr``, so that only the schedule and not the learning rate counts;
            ``"cautious"`` is decoupled, for those entries only that the step brings nearer to zero;
            ``"constrained"`` shrinks by ``1 - lr``, which keeps a weight in the ball of the rule's norm with the
            group's radius (arXiv:2502.07529); ``"corrected"`` is decoupled, times ``lr / initial_lr``, which keeps the
            norm of a layer steady that a normalisation follows (arXiv:2506.02285); ``"natural"`` adds ``weight_decay``
            times the natural gradient of ``||p||^2 / 2`` to the direction, for rules that have one (arXiv:2405.12807).
            On a compact space, where the norm of a point is constant, none does anything.
        rounding: how a bfloat16 parameter in a vector space takes in a step: to `Nearest`, `Stochastic`, `Compensated`.
            On a manifold such a parameter has a float32 master.

    Raises:
        TypeError: something that does not belong in its slot.
        ValueError: an unknown decay.

    Warns:
        UserWarning: the step size measures in another norm than that of the rule.
    """

    space: Space | None = None
    frame: Frame = dataclasses.field(default_factory=Identity)
    moments: Moments = dataclasses.field(default_factory=Dense)
    rule: Rule = dataclasses.field(default_factory=Adam)
    step_size: StepSize = dataclasses.field(default_factory=Given)
    decay: Decay | Convention = "decoupled"
    rounding: Rounding = dataclasses.field(default_factory=Nearest)

    def __post_init__(self) -> None:
        if not isinstance(self.decay, Convention):
            choice(self, "decay", tuple(DECAYS))
        steepest = self.rule.norm_of_steps
        object.__setattr__(self, "step_size", self.step_size.beside(steepest))
        measured = self.step_size.measured_in
        if steepest is not None and measured is not None and measured != steepest:
            warnings.warn(
                f"step_size={self.step_size} measures in another norm than the steps of rule={self.rule} have; "
                "leave its norm out, and it is that of the rule",
                stacklevel=4,
            )

    def with_norm(self, norm: Norm) -> Recipe:
        """The same in another norm; a step size that measured in the rule's measures in the new one.

        Raises:
            TypeError: the rule has a norm of its own.
        """
        rule, step_size = self.rule.with_norm(norm), self.step_size
        if step_size.measured_in is not None and step_size.measured_in == self.rule.norm_of_steps:
            step_size = step_size.replace(norm=norm)
        return self.replace(rule=rule, step_size=step_size)

    def hyper(self) -> dict[str, Any]:
        """The numbers of a parameter group that this recipe reads beside ``lr`` and ``weight_decay``."""
        return self.rule.hyper()

    def check_hyper(self, hyper: dict[str, Any]) -> None:
        """Refuse numbers of a parameter group that the rule or the frame cannot work with.

        Raises:
            ValueError: naming the option and its value.
        """
        self.rule.check_hyper(hyper)
        self.frame.told(hyper)

    @functools.lru_cache(maxsize=4096)  # noqa: B019 - parts are small, and a model has few shapes
    def check(self, space: Space, shape: torch.Size) -> None:
        """Refuse what these parts cannot do together with a space or a shape.

        Args:
            space: where the tensor lives.
            shape: of the tensor; complex numbers count as pairs.

        Raises:
            SpaceError: with the reason and the nearest recipe that works.
        """
        if reason := self._objection(space, shape):
            nearest = self.nearest(space, shape)
            raise SpaceError(reason if nearest is None else f"{reason}; the nearest recipe that works: {nearest}")

    def check_complex(self, dtype: torch.dtype) -> None:
        """Refuse parts that would take the real and the imaginary parts of a complex tensor for two columns.

        Args:
            dtype: of the tensor.

        Raises:
            SpaceError: with the part and the remedy.
        """
        if (part := _reader_of_matrices(self)) is not None:
            raise SpaceError(
                f"{part} reads the rows and columns of real matrices, and this tensor is {dtype}; give it a group with "
                "recipe='Recipe()', betas=(0.9, 0.999), eps=1e-8, which trains real and imaginary parts by Adam, or "
                "keep them as two tensors"
            )

    def nearest(self, space: Space, shape: torch.Size) -> Recipe | None:
        """The recipe that works with the fewest slots put back to their defaults; None: there is none.

        A tensor for which nothing works on its space is left free.

        Args:
            space: as in `check`.
            shape: as in `check`.
        """
        default, free = Recipe(), Vector()
        for where, start in ((space, self), (free, self.replace(space=free))):
            for slots in _FEWEST_FIRST:
                candidate = start.replace(**{slot: getattr(default, slot) for slot in slots})
                if not candidate._objection(where, shape):
                    return candidate
        return None

    def _objection(self, space: Space, shape: torch.Size) -> str:
        """The reason why these parts do not go together; empty where they do."""
        try:
            self._fit(space, shape)
        except ValueError as error:
            return str(error)
        return ""

    def _fit(self, space: Space, shape: torch.Size) -> None:
        """Raise a ValueError with the reason why these parts do not go together."""
        space.check_shape(shape)
        self._live_on(space)
        if absent := [key for key in self.step_size.reads() if key not in self.hyper()]:
            raise ValueError(f"step_size={self.step_size} reads {', '.join(absent)}, which rule={self.rule} has not")
        points, plain = space.points(torch.empty(1, *shape, device="meta")), self.frame.trivial
        if not plain:
            space.framed(points)  # which some spaces refuse
        coords = self.frame.shape(points.shape[1:])
        kept = shape if plain else coords
        self.rule.check_shape(coords)
        self.step_size.check_shape(shape)
        self.moments.of(kept, "square").check_shape(kept)

    def _live_on(self, space: Space) -> None:
        for slot in ("frame", "rule", "step_size"):
            part = getattr(self, slot)
            if part.flat_only and not space.flat:
                raise ValueError(f"{slot}={part} is for tensors in a vector space, and this one lives on {space}")
        self.convention.check(space, self.rule)

    @functools.cached_property
    def convention(self) -> Convention:
        """The convention of weight decay that `decay` names."""
        return DECAYS[self.decay] if isinstance(self.decay, str) else self.decay

    def kernel(self, numbers: dict[str, Any]) -> Kernel | None:
        """Torch's one-pass kernel for what these parts do in a vector space, given averages in memory; None: none.

        Args:
            numbers: of the parameter group.
        """
        step_size = self.step_size
        bent = step_size.scope is not None or type(step_size).scaled is not StepSize.scaled
        whole = bent and self.decay == "l2"  # what is measured or scaled has the decay in it
        if not (self.frame.trivial and isinstance(self.decay, str)) or whole:
            return None
        if not step_size.by_entry or not offers(step_size, "by_entry", "velocity"):
            return None
        unchanged = offers(self.rule, "kernel", "gain", "passes", *DIRECTION)
        return self.rule.kernel(self.decay, numbers) if unchanged else None


def _reader_of_matrices(part: Part) -> Part | None:
    """The first part within a part, or the part itself, that takes a tensor for a matrix."""
    if part.matrices:
        return part
    inner = (getattr(part, field.name) for field in dataclasses.fields(part))
    readers = (_reader_of_matrices(value) for value in inner if isinstance(value, Part))
    return next((reader for reader in readers if reader is not None), None)


def as_recipe(given: Any) -> Recipe | None:
    """A recipe as it is, and a rule as the recipe of that rule; None where it is something else."""
    if isinstance(given, Rule):
        return Recipe(rule=given)
    return given if isinstance(given, Recipe) else None


def parse_recipe(text: str) -> Recipe:
    """Read a recipe from ``repr(recipe)``.

    Raises:
        ValueError: it is no recipe.
    """
    part = parse(text)
    if not isinstance(part, Recipe):
        raise ValueError(f"{text!r} is a {type(part).__name__}, not a recipe")
    return part
