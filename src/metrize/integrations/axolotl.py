"""A plugin for axolotl."""

from __future__ import annotations

from typing import Any

import torch
from axolotl.integrations.base import BasePlugin
from torch import nn

from metrize.integrations.build import build


class MetrizePlugin(BasePlugin):  # type: ignore[misc]
    """Trains with the optimizer that the configuration names under ``metrize``.

    ``plugins: [metrize.integrations.axolotl.MetrizePlugin]`` and ``metrize: {name: muon, rest: {lr: 0.001}}``; the
    learning rate is axolotl's unless ``lr`` is given there.
    """

    def get_input_args(self) -> str:
        """Where axolotl finds the schema of the key ``metrize``."""
        return "metrize.integrations.axolotl.MetrizeArgs"

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        """Give the trainer what makes its optimizer; where the configuration names none, axolotl's own stays."""
        told = dict(getattr(cfg, "metrize", None) or {})
        if not told:
            return
        decay = float(getattr(cfg, "weight_decay", None) or 0.0)
        name, rate = told.pop("name"), getattr(cfg, "learning_rate", None)

        def make(model: nn.Module, *arguments: Any) -> torch.optim.Optimizer:
            return build(model, name, rate, decay, told)

        trainer.optimizer_cls_and_kwargs = (lambda: make, {})


def __getattr__(name: str) -> Any:
    if name != "MetrizeArgs":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pydantic import create_model

    return create_model("MetrizeArgs", metrize=(dict[str, Any] | None, None))
