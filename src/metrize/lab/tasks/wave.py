"""A wave equation in few canonical coordinates, against the classical bases."""

from __future__ import annotations

import torch
from torch import Tensor

from metrize.lab.config import RunConfig
from metrize.lab.data import Waves, simulate
from metrize.lab.data.waves import energy, vector_field
from metrize.lab.events import finite
from metrize.lab.models import SymplecticAutoencoder
from metrize.lab.reduction import Embedding, cotangent_lift, integrate, principal
from metrize.lab.tasks.base import Conclusion, Figure, Profile, Task, outputs_of

_DIVERGED = 1e3


def _load(config: RunConfig) -> Waves:
    return simulate(config.model.get("cells", 64))


def reconstruction(embedding: Embedding, waves: Waves) -> float:
    """``||X - D(E(X))||_F / ||X||_F`` of the held-out states."""
    states, _ = waves.held_out
    return _relative(embedding.decode(embedding.encode(states)), states)


def reduced_paths(embedding: Embedding, waves: Waves) -> Tensor:
    """The held-out pulses followed in the reduced coordinates, as states ``[pulses, times, 2N]``."""
    starts, steps = waves.paths[:, 0], waves.paths.shape[1] - 1
    return embedding.decode(integrate(embedding, vector_field, starts, waves.speeds, waves.interval, steps))


def path_error(paths: Tensor, waves: Waves) -> float:
    """``||X - X'||_F / ||X||_F`` of paths against the full model's, over the time of the training part."""
    times = waves.held_out[0].shape[0] // len(waves.speeds)
    return _relative(paths[:, :times], waves.paths[:, :times])


def energy_errors(paths: Tensor, waves: Waves) -> Tensor:
    """``|H(x_t) - H(x_0)| / H`` at each time, ``[times]``, the mean over the pulses; H is that of the full start.

    NaN from where it is beyond 1000: the model has diverged, and how far says nothing.
    """
    energies = energy(paths, waves.speeds[:, None])
    drift = (energies - energies[:, :1]).abs() / energy(waves.paths[:, 0], waves.speeds)[:, None]
    errors = drift.mean(0)
    return errors.where(errors.cummax(0)[0] <= _DIVERGED, torch.nan)


@torch.no_grad()
def _evaluate(model: SymplecticAutoencoder, waves: Waves) -> dict[str, float]:
    states, targets = waves.held_out
    outputs = outputs_of(model, states)
    error = _relative(outputs, states)
    classical = reconstruction(cotangent_lift(waves.inputs, _reduced(model)), waves)
    return {"loss": model.loss(outputs, targets).item(), "reconstruction": error, "over_psd": error / classical}


@torch.no_grad()
def _conclude(model: SymplecticAutoencoder, waves: Waves) -> Conclusion:
    paths = reduced_paths(model, waves)
    errors = energy_errors(paths, waves)
    figures = {"path": path_error(paths, waves), "energy": errors.max().item()}
    classical = {"PSD": cotangent_lift, "POD": principal}
    others = {name: reduced_paths(basis(waves.inputs, _reduced(model)), waves) for name, basis in classical.items()}
    others["full model"] = waves.paths
    curves = {name: finite(energy_errors(path, waves).tolist()) for name, path in others.items()}
    times = [waves.interval * step for step in range(len(errors))]
    return Conclusion(figures, [Profile("energy", "Energy error by time", times, finite(errors.tolist()), curves)])


def _reduced(model: SymplecticAutoencoder) -> int:
    return model.basis.shape[-1] // 2


def _relative(outputs: Tensor, targets: Tensor) -> float:
    return ((outputs - targets).norm() / targets.norm()).item()


WAVE = Task(
    "symplectic autoencoder of a wave equation",
    SymplecticAutoencoder,
    _load,
    figures={
        "reconstruction": Figure("reconstruction error", "{:.4f}".format),
        "over_psd": Figure("error / PSD's", "{:.3f}".format),
        "path": Figure("reduced model's error", "{:.3f}".format),
        "energy": Figure("energy error", "{:.1e}".format),
    },
    evaluate=_evaluate,
    conclude=_conclude,
    space="SymplecticStiefel()",
    methods=("Adam lr=3e-3 on SymplecticStiefel()", "Adam lr=3e-3 on Stiefel()", "Adam lr=3e-3 on none"),
)
