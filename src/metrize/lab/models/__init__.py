"""The models that the lab trains."""

from metrize.lab.models.base import Model
from metrize.lab.models.gpt import GPT
from metrize.lab.models.vit import VisionTransformer, relative_error

__all__ = ["GPT", "Model", "VisionTransformer", "relative_error"]
