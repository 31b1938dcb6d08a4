"""A decomposition that fails harms no weight and no state, and a run that it ends goes on bit for bit."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import assert_same_run, config_of
from torch import Tensor, nn

import metrize
from metrize.cli import main
from metrize.frames import FrameError
from metrize.lab.events import Event, Stepped
from metrize.lab.trainer import Interrupted, train

_NAMES = ("eigh", "qr", "svd", "svdvals")
EVERY_STEP: dict[str, dict[str, Any]] = {
    "SOAP": {"precondition_frequency": 1},
    "Shampoo": {},
    "DistributedShampoo": {"precondition_frequency": 1},
    "GaLore": {"rank": 2, "period": 1},
    "COAP": {"rank": 2, "period": 1, "reproject": 1},
}


@contextlib.contextmanager
def bad_luck(how: str) -> Iterator[list[str]]:
    """Every decomposition of torch fails: it raises, or returns numbers that are not; lists those that were asked."""
    asked: list[str] = []

    def failing(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def decompose(*arguments: Any, **options: Any) -> Any:
            asked.append(name)
            if how == "raises":
                raise torch.linalg.LinAlgError("bad luck")
            found = real(*arguments, **options)
            return found * torch.nan if isinstance(found, Tensor) else type(found)([each * torch.nan for each in found])

        return decompose

    with pytest.MonkeyPatch.context() as patch:
        for name in _NAMES:
            patch.setattr(torch.linalg, name, failing(name, getattr(torch.linalg, name)))
        yield asked


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    chance = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=chance)
    optimizer.step()


def all_finite(model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    values = [value for state in optimizer.state.values() for value in state.values()]
    return all(bool(torch.isfinite(value).all()) for value in [*model.parameters(), *values])


@pytest.mark.parametrize("how", ["raises", "returns NaN"])
@pytest.mark.parametrize("name", EVERY_STEP)
def test_weights_and_state_stay_finite_and_the_third_failure_names_the_parameter(name: str, how: str) -> None:
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.Linear(8, 4, bias=False))
    optimizer = metrize.catalogue()[name](model, **EVERY_STEP[name])
    for seed in range(3):
        step(model, optimizer, seed)
    with bad_luck(how) as asked:
        for seed in (3, 4):
            step(model, optimizer, seed)
            assert all_finite(model, optimizer)
        assert asked
        assert max(int(v) for state in optimizer.state.values() for k, v in state.items() if k == "failures") == 2
        with pytest.raises(FrameError, match=r"'\d.weight'"):
            step(model, optimizer, 5)
    assert all_finite(model, optimizer)
    for seed in range(6, 9):
        step(model, optimizer, seed)
    assert all_finite(model, optimizer)
    assert not any(int(v) for state in optimizer.state.values() for k, v in state.items() if k == "failures")


def at(steps: range, context: contextlib.ExitStack) -> Callable[[Event], None]:
    """Decompositions fail between these steps."""

    def listen(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == steps.start:
            context.enter_context(bad_luck("raises"))
        if isinstance(event, Stepped) and event.step == steps.stop:
            context.close()

    return listen


SOAP: dict[str, Any] = {"optimizer": "SOAP", "options": {"precondition_frequency": 1}}


def test_a_run_takes_two_failures_in_its_stride_and_resumes_among_them(tmp_path: Path) -> None:
    config, asked = config_of(tmp_path, **SOAP), threading.Event()
    with contextlib.ExitStack() as context:
        train(config, tmp_path / "straight", at(range(8, 10), context))
    with contextlib.ExitStack() as context:
        listen = at(range(8, 10), context)

        def stop(event: Event) -> None:
            listen(event)
            if isinstance(event, Stepped) and event.step == 9:
                asked.set()

        with pytest.raises(Interrupted):
            train(config, tmp_path / "run", stop, stop=asked.is_set)
    with contextlib.ExitStack() as context:
        context.enter_context(bad_luck("raises"))
        train(config, tmp_path / "run", at(range(9, 10), context), resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "straight", 20)


def test_a_run_that_ends_by_failures_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    config = config_of(tmp_path, **SOAP)
    with (
        contextlib.ExitStack() as context,
        pytest.raises(FrameError, match=r"parameter '.*' could not be decomposed|par"),
    ):
        train(config, tmp_path / "run", at(range(12, 19), context))
    train(config, tmp_path / "run", resume=True)
    train(config, tmp_path / "straight")
    assert_same_run(tmp_path / "run", tmp_path / "straight", 20)


def test_the_command_line_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    config = config_of(tmp_path, **SOAP)
    with contextlib.ExitStack() as context, pytest.raises(FrameError):
        train(config, tmp_path / "run", at(range(12, 19), context))
    with bad_luck("raises"):
        assert main(["train", "--resume", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "three refreshes in a row" in error
    assert f"go on with: metrize train --resume {tmp_path / 'run'}" in error


@pytest.mark.parametrize("how", ["raises", "nan"])
def test_a_redrawn_section_falls_back_to_the_closed_form(how: str) -> None:
    space = metrize.Stiefel(section="redrawn")
    weight = nn.Parameter(
        torch.linalg.qr(torch.randn(9, 3, generator=torch.Generator().manual_seed(0)))[0].contiguous()
    )
    optimizer = metrize.Adam([weight], lr=0.1, space=space)
    with bad_luck(how) as asked:
        for step in range(4):
            weight.grad = torch.randn(9, 3, generator=torch.Generator().manual_seed(step))
            optimizer.step()
    assert asked
    assert float(space.error_of(weight)) < 1e-6
    assert all(torch.isfinite(value).all() for value in optimizer.state[weight].values())
