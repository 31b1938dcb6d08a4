"""The wave equation, its reduction, and the autoencoder, against what is known of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.func import jacfwd, vmap

import metrize
from metrize.lab.data import Waves, simulate, stream
from metrize.lab.data.waves import energy, vector_field
from metrize.lab.models import SymplecticAutoencoder
from metrize.lab.reduction import Span, cotangent_lift, integrate, principal
from metrize.lab.tasks import wave

CELLS = 16


@pytest.fixture(scope="module")
def waves() -> Waves:
    return simulate(CELLS)


def autoencoder(**options: object) -> SymplecticAutoencoder:
    """One whose layers are not the identity."""
    small = {"cells": CELLS, "reduced": 3, "layers": 3, "width": 8}
    model = SymplecticAutoencoder(**{**small, **options}, generator=stream(0, "weights"))  # type: ignore[arg-type]
    with torch.no_grad():
        for layer in model.layers:
            layer.a.normal_(0.0, 0.3, generator=stream(0, "a"))
    return model


def j(size: int) -> Tensor:
    zero, one = torch.zeros(size, size, dtype=torch.float64), torch.eye(size, dtype=torch.float64)
    return torch.cat([torch.cat([zero, one], 1), torch.cat([-one, zero], 1)])


def states(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 2 * CELLS, dtype=torch.float64, generator=stream(seed, "states"))


def test_a_pulse_runs_to_the_right_with_its_speed() -> None:
    fine = simulate(128)
    x = (torch.arange(128, dtype=torch.float64) / 128 - 0.5) * 10
    for path, speed, width in zip(fine.paths, fine.speeds, (0.55, 0.7, 0.55, 0.7), strict=True):
        for at in (0, 50, 100):
            away = (x - speed * at * fine.interval + 5).remainder(10) - 5
            expected = (-(away**2) / (2 * width**2)).exp()
            assert (path[at, :128] - expected).norm() < 0.12 * expected.norm(), (speed, width, at)


def test_the_held_out_pulses_are_in_no_batch_and_are_followed_for_twice_the_time(waves: Waves) -> None:
    held_out, targets = waves.held_out
    assert torch.equal(held_out, targets)
    assert torch.equal(waves.inputs, waves.targets)
    assert waves.inputs.shape == (15 * 101, 2 * CELLS)
    assert waves.paths.shape == (4, 201, 2 * CELLS)
    assert torch.equal(held_out.view(4, 101, -1), waves.paths[:, :101])
    assert torch.cdist(held_out[:1], waves.inputs).min() > 1e-2
    assert waves.inputs.dtype == torch.float64


def test_the_vector_field_is_that_of_the_energy() -> None:
    speeds = torch.tensor([0.7, 1.0], dtype=torch.float64)
    x = states(2).requires_grad_()
    (gradient,) = torch.autograd.grad(energy(x, speeds).sum(), x)
    torch.testing.assert_close(vector_field(x, speeds), gradient @ j(CELLS).T, rtol=1e-12, atol=1e-12)


def test_the_full_model_keeps_its_energy(waves: Waves) -> None:
    energies = energy(waves.paths, waves.speeds[:, None])
    assert (energies / energies[:, :1] - 1).abs().max() < 0.01
    assert torch.equal(simulate(CELLS).paths, waves.paths)


def test_too_few_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 8"):
        simulate(7)


@pytest.mark.parametrize("layers", [0, 1, 2, 5])
def test_the_encoder_is_the_left_inverse_of_the_decoder(layers: int) -> None:
    codes = torch.randn(5, 6, dtype=torch.float64, generator=stream(0, "codes"))
    for inverse in ("transpose", "symplectic"):
        model = autoencoder(layers=layers, inverse=inverse)
        torch.testing.assert_close(model.encode(model.decode(codes)), codes, rtol=1e-12, atol=1e-12)


def test_the_decoder_is_symplectic() -> None:
    codes = torch.randn(4, 6, dtype=torch.float64, generator=stream(0, "codes"))
    model = autoencoder()
    slopes = vmap(jacfwd(model.decode))(codes).detach()
    torch.testing.assert_close(slopes.mT @ j(CELLS) @ slopes, j(3).expand(4, 6, 6), rtol=0, atol=1e-12)
    assert (slopes[0] - slopes[1]).abs().max() > 1e-2, "the layers bend nothing"


def test_the_symplectic_inverse_is_that_of_every_symplectic_matrix() -> None:
    model = autoencoder(inverse="symplectic", layers=0)
    with torch.no_grad():
        model.basis[:, :3] *= 2.0
        model.basis[:, 3:] /= 2.0
    codes = torch.randn(5, 6, dtype=torch.float64, generator=stream(0, "codes"))
    torch.testing.assert_close(model.encode(model.decode(codes)), codes)
    model.inverse = "transpose"
    assert (model.encode(model.decode(codes)) - codes).abs().max() > 1


def test_the_autoencoder_starts_on_the_symplectic_stiefel_manifold_without_bending() -> None:
    model = SymplecticAutoencoder(generator=stream(0, "weights"))
    assert metrize.SymplecticStiefel().error_of(model.basis) < 1e-12
    linear = SymplecticAutoencoder(layers=0, generator=stream(0, "weights"))
    x = torch.randn(3, 128, dtype=torch.float64, generator=stream(0, "states"))
    torch.testing.assert_close(model(x), linear(x), rtol=1e-12, atol=1e-12)
    rows = model.layers[0].K.detach()
    assert rows.square().sum(-1).mean() == pytest.approx(1.0, abs=0.2)
    assert (rows.roll(1, -1) - rows).norm() < rows.norm()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"reduced": 0}, "between 1 and 15"), ({"reduced": 16}, "between 1 and 15"), ({"inverse": "qr"}, "transpose")],
)
def test_autoencoders_that_cannot_be_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        autoencoder(**options)


def test_classical_bases_are_the_best_of_their_kind(waves: Waves) -> None:
    psd, pod = cotangent_lift(waves.inputs, 3), principal(waves.inputs, 3)
    assert metrize.SymplecticStiefel().error_of(psd.basis) < 1e-12
    assert metrize.Stiefel().error_of(pod.basis) < 1e-12

    def error(basis: Tensor) -> float:
        return (Span(basis).decode(Span(basis).encode(waves.inputs)) - waves.inputs).norm().item()

    for seed in range(5):
        noise = 0.02 * torch.randn(psd.basis.shape, dtype=torch.float64, generator=stream(seed, "noise"))
        assert error(psd.basis) < error(metrize.SymplecticStiefel().project_(psd.basis + noise))
        assert error(pod.basis) < error(metrize.Stiefel().project_(pod.basis + noise))
    assert error(pod.basis) < error(psd.basis)


def test_a_linear_system_is_integrated_to_second_order(waves: Waves) -> None:
    """Against the matrix exponential of ``U^T J H U``."""
    span, start, speed = cotangent_lift(waves.inputs, 3), waves.paths[:1, 0], waves.speeds[:1]
    matrix = span.encode(vector_field(span.decode(torch.eye(6, dtype=torch.float64)), speed.expand(6))).T
    expected = torch.linalg.matrix_exp(matrix) @ span.encode(start)[0]
    errors = []
    for steps in (20, 40):
        end = integrate(span, vector_field, start, speed, 1 / steps, steps)[0, -1]
        errors.append((end - expected).norm().item())
    assert errors[0] < 1e-2
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


def test_the_reduced_model_keeps_its_energy_if_and_only_if_it_is_symplectic(waves: Waves) -> None:
    psd, pod = (basis(waves.inputs, 3) for basis in (cotangent_lift, principal))
    kept, lost = (wave.energy_errors(wave.reduced_paths(span, waves), waves).max() for span in (psd, pod))
    assert kept < 1e-12
    assert lost > 0.05


@torch.no_grad()
def test_a_curved_reduced_model_keeps_its_energy_too(waves: Waves) -> None:
    model = autoencoder(layers=2)
    codes = integrate(model, vector_field, waves.paths[:, 0], waves.speeds, 0.05, 60)
    energies = energy(model.decode(codes), waves.speeds[:, None])
    assert (energies / energies[:, :1] - 1).abs().max() < 5e-3
    assert (codes[:, -1] - codes[:, 0]).abs().max() > 0.1, "nothing moves"


def test_a_path_that_explodes_says_so(waves: Waves) -> None:
    paths = waves.paths.clone()
    paths[:, 120:] *= 1e4
    errors = wave.energy_errors(paths, waves)
    assert errors[:120].isfinite().all()
    assert errors[120:].isnan().all()
    assert math.isfinite(wave.path_error(paths, waves))


def test_errors_are_relative(waves: Waves) -> None:
    assert wave.path_error(waves.paths, waves) == 0
    assert wave.path_error(0 * waves.paths, waves) == pytest.approx(1)
    assert wave.reconstruction(Span(torch.eye(2 * CELLS, dtype=torch.float64)), waves) < 1e-12
