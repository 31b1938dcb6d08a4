"""The figures of a finished run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Summary:
    """The figures of a finished run, as in its ``summary.json``.

    Args:
        label: short name of the method.
        seed: of the run.
        steps: steps done, fewer than asked for if the run diverged.
        seconds: training time without evaluations and checkpoints.
        parameters: numbers in the model.
        final_train_loss: mean over the last 10 batches; None if the first one was not finite.
        final_eval_loss: on the held-out part after the last step; None if the run diverged.
        best_eval_loss: the lowest of all evaluations.
        ms_per_step: median over all steps.
        optimizer_ms_per_step: median of ``optimizer.step`` alone.
        first_step_ms: the first ``optimizer.step``, which also makes the state.
        state_bytes: bytes of optimizer state, of all processes together.
        state_bytes_per_parameter: the same for each number of the model.
        parameter_bytes: bytes of the model's weights.
        figures: what else the task measures of the trained model, by key; None where it is not finite, and empty if the
            run diverged.
        space_error: largest distance of a constrained weight from its space at the end; None without a space.
        skipped_steps: steps that a gradient made impossible because it was not finite; None if there was none.
        diverged: a loss was not finite, and the run ended there.
        with_basis: trained tensors for which the method has a basis, such as a subspace; None: it is about none.
        with_basis_of: how many trained tensors there are.
    """

    label: str
    seed: int
    steps: int
    seconds: float
    parameters: int
    final_train_loss: float | None
    final_eval_loss: float | None
    best_eval_loss: float | None
    ms_per_step: float | None
    optimizer_ms_per_step: float | None
    first_step_ms: float | None
    state_bytes: int
    state_bytes_per_parameter: float
    parameter_bytes: int
    figures: Mapping[str, float | None]
    space_error: float | None
    skipped_steps: int | None
    diverged: bool
    with_basis: int | None = None
    with_basis_of: int | None = None
