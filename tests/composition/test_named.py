"""The sentences with a name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sentences import check_sentence
from torch import nn

import metrize
from metrize import Grassmann, Quantized, RankOne, Recipe, Stiefel, frames, rules
from metrize.norms import Spectral

ROOT = Path(__file__).parents[2]


def basis() -> nn.Parameter:
    return nn.Parameter(Stiefel().random_(torch.empty(64, 8), torch.Generator().manual_seed(0)))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))


@pytest.mark.parametrize("cls", [metrize.StiefelSMMF, metrize.GrassmannSOAP], ids=lambda cls: cls.__name__)
def test_on_a_manifold(cls: type[metrize.Optimizer]) -> None:
    recipe = cls([basis()]).recipes()[0]
    assert recipe == cls.recipe()
    check_sentence(recipe)


def test_they_say_what_their_parents_say_with_an_argument() -> None:
    assert metrize.StiefelSMMF.recipe() == metrize.SMMF.recipe(space=Stiefel())
    assert metrize.GrassmannSOAP.recipe() == metrize.SOAP.recipe(space=Grassmann())
    assert metrize.SOAP8bit.recipe() == metrize.SOAP.recipe(moments=Quantized(squares="linear"))
    assert metrize.COAPMuon.recipe() == metrize.Muon.recipe(frame=frames.COAP())
    assert metrize.FreeMuon.recipe().rule == rules.Steepest(metrize.FreeMuon.recipe().step_size.norm)


@pytest.mark.parametrize("cls", [metrize.SOAP8bit, metrize.COAPMuon, metrize.FreeMuon], ids=lambda cls: cls.__name__)
def test_they_train_a_model(cls: type[metrize.Optimizer]) -> None:
    net, generator = model(), torch.Generator().manual_seed(1)
    x, y = (torch.randn(64, size, generator=generator) for size in (16, 4))
    optimizer, losses = cls(net, **{"d0": 1e-3} if cls is metrize.FreeMuon else {}), []
    for _ in range(100):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_compressed_averages_of_a_point_are_an_eighth_of_a_byte_for_each_number() -> None:
    optimizer, plain = metrize.StiefelSMMF([basis()]), metrize.Optimizer([basis()], Recipe(moments=RankOne()))
    optimizer.init_state()
    plain.init_state()
    signs = optimizer.state[optimizer.param_groups[0]["params"][0]]["signs"]
    assert signs.nbytes == 8
    assert metrize.state_bytes(optimizer) == metrize.state_bytes(plain) + signs.nbytes


@pytest.mark.parametrize(("squares", "share"), [("linear", 0.0), (None, 0.05)])
def test_squares_in_the_eigenbasis_are_not_read_as_zero(squares: str | None, share: float) -> None:
    """With the map of Adam in 8 bits, many are."""
    p = nn.Parameter(torch.zeros(64, 64))
    optimizer = metrize.SOAP([p], moments=Quantized(squares=squares)) if squares is None else metrize.SOAP8bit([p])
    for step in range(3):
        drawn = torch.randn(64, 64, generator=torch.Generator().manual_seed(step))
        p.grad = drawn * torch.logspace(-4, 0, 64)
        optimizer.step()
    (bucket,) = optimizer.buckets
    state = {key: value.unsqueeze(0) for key, value in optimizer.state[p].items()}
    kept = bucket.recipe.moments.read(bucket.assignment.slots["exp_avg_sq"], state)
    zeros = float((kept == 0).double().mean())
    assert zeros > share if squares is None else zeros == share


def test_muon_in_a_subspace_keeps_less_and_steps_with_its_rank() -> None:
    p = nn.Parameter(torch.zeros(64, 48))
    optimizer = metrize.COAPMuon([p], lr=1.0, rank=8, accuracy="exact")
    p.grad = torch.randn(64, 48, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    kept = {key: tuple(value.shape) for key, value in optimizer.state[p].items() if value.ndim}
    assert kept == {"exp_avg": (64, 8), "basis_1": (48, 8)}
    singular = torch.linalg.svdvals(p.detach())
    torch.testing.assert_close(singular[:8], torch.full((8,), 8**0.5), rtol=1e-4, atol=0)  # f = sqrt(64 / 8)
    assert singular[8:].max() < 1e-5


def test_one_rate_serves_the_whole_model_and_grows_to_what_it_needs() -> None:
    net = model()
    optimizer = metrize.FreeMuon(net)
    norms = {type(recipe.step_size.norm) for recipe in optimizer.recipes()}
    assert Spectral in norms
    assert len(norms) == 2
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    for _ in range(30):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    (rate,) = {float(state["d"]) for state in optimizer.state.values()}
    assert 1e-4 < rate < 1


def test_the_guide_shows_the_tables_of_the_experiment() -> None:
    page = (ROOT / "docs/guide/compositions.md").read_text()
    table = [line for line in (ROOT / "experiments/compositions.md").read_text().splitlines() if line.startswith("|")]
    assert len(table) > 20
    assert all(line in page.splitlines() for line in table)
