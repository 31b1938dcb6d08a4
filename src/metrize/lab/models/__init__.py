"""The models that the lab trains."""

from metrize.lab.models.autoencoder import SymplecticAutoencoder
from metrize.lab.models.base import Model, Weight
from metrize.lab.models.gpt import GPT
from metrize.lab.models.recurrent import Recurrent
from metrize.lab.models.subspace import Subspace
from metrize.lab.models.vit import VisionTransformer, relative_error

__all__ = [
    "GPT",
    "Model",
    "Recurrent",
    "Subspace",
    "SymplecticAutoencoder",
    "VisionTransformer",
    "Weight",
    "relative_error",
]
