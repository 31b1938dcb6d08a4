"""A plugin for axolotl."""

from __future__ import annotations

from typing import Any

from axolotl.integrations.base import BasePlugin

from metrize.integrations.build import build


class MetrizePlugin(BasePlugin):  # type: ignore[misc]
    """Trains with the optimizer that the configuration names under ``metrize``.

    ``plugins: [metrize.integrations.axolotl.MetrizePlugin]`` and ``metrize: {name: muon, rest: {lr: 0.001}}``; the
    learning rate is axolotl's unless ``lr`` is given there.
    """

    def get_input_args(self) -> str:
        """Where axolotl finds the schema of the key ``metrize``."""
        return "metrize.integrations.axolotl.MetrizeArgs"

    def create_optimizer(self, cfg: Any, trainer: Any) -> Any:
        """The optimizer of the trainer's model; None, which leaves it to axolotl, where nothing is named."""
        told = dict(getattr(cfg, "metrize", None) or {})
        if not told:
            return None
        decay = float(getattr(cfg, "weight_decay", None) or 0.0)
        return build(trainer.model, told.pop("name"), getattr(cfg, "learning_rate", None), decay, told)


def __getattr__(name: str) -> Any:
    if name != "MetrizeArgs":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pydantic import create_model

    return create_model("MetrizeArgs", metrize=(dict[str, Any] | None, None))
