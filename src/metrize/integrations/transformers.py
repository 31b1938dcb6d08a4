"""The Trainer of transformers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainingArguments

from metrize.integrations.build import build

_Factory = Callable[[], Callable[..., Any]]


def method(arguments: TrainingArguments, name: str, **options: Any) -> tuple[_Factory, dict[str, Any]]:
    """What ``Trainer(optimizer_cls_and_kwargs=...)`` takes: an optimizer that is made of the whole model.

    The learning rate is that of the arguments, and so is ``weight_decay``, which spares embeddings and vectors.

    Args:
        arguments: of the Trainer.
        name: as `metrize.create` takes it, such as ``"muon"``.
        options: of the optimizer; an ``lr`` here stands above that of the arguments.
    """
    told = {"name": name, "lr": arguments.learning_rate, "weight_decay": arguments.weight_decay, "options": options}
    return (lambda: build), told


class Callback(TrainerCallback):
    """Says when the arguments' learning rate is not used, and logs the rate of every group and skipped steps.

    The Trainer's own log has the rate of the first group alone.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Compare the optimizer's rates with the arguments'."""
        groups = getattr(given.get("optimizer"), "param_groups", [])
        rates = sorted({float(group.get("initial_lr", group["lr"])) for group in groups})
        if groups and args.learning_rate not in rates:
            warnings.warn(
                f"learning_rate={args.learning_rate:g} of the arguments is not used: the optimizer was built with "
                f"lr={', '.join(f'{rate:g}' for rate in rates)}. Leave it out there, or take "
                "metrize.integrations.transformers.method(arguments, name), which reads it",
                UserWarning,
                stacklevel=2,
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **given: Any) -> None:
        """Add a rate for every group, and the steps that were left out."""
        groups = getattr(given.get("optimizer"), "param_groups", [])
        if logs is None or "loss" not in logs or not groups:
            return
        told = {f"learning_rate/{index}": float(group["lr"]) for index, group in enumerate(groups)}
        told["skipped_steps"] = groups[0].get("skipped_steps", 0)
        logs |= told
        if state.log_history:
            state.log_history[-1] |= told
