"""Accelerate prepares, saves and loads optimizers of the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from toys import METHODS, assert_on_its_space, assert_same, each, examples, imported, network, state_of

import metrize

accelerate = imported("accelerate")

pytestmark = pytest.mark.filterwarnings("ignore")
STEPS = 6
ACCUMULATION = 2


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """Accelerate keeps one state for each process."""
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


class Run:
    """A prepared model, optimizer and schedule, with accumulated gradients."""

    def __init__(self, method: str, **options: Any) -> None:
        self.accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATION, **options)
        model = network(method)
        optimizer = METHODS[method](model)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        loader = DataLoader(examples(), batch_size=4)
        self.model, self.optimizer, self.loader, self.schedule = self.accelerator.prepare(
            model, optimizer, loader, schedule
        )

    def train(self, start: int, stop: int) -> None:
        """Steps ``start .. stop - 1``, each on two batches."""
        batches = list(self.loader)
        for step in range(start, stop):
            for part in range(ACCUMULATION):
                x, y = batches[(ACCUMULATION * step + part) % len(batches)]
                with self.accelerator.accumulate(self.model):
                    self.accelerator.backward(nn.functional.cross_entropy(self.model(x), y))
                    self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
                    self.optimizer.step()
                    self.schedule.step()
                    self.optimizer.zero_grad()

    def result(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "state": state_of(self.optimizer), "lr": self.schedule.get_last_lr()}


@each("Stiefel", "Adam8bit")
def test_a_saved_run_goes_on(method: str, tmp_path: Path) -> None:
    straight = Run(method)
    straight.train(0, 3)
    straight.accelerator.save_state(str(tmp_path))
    straight.train(3, STEPS)
    resumed = Run(method)
    resumed.accelerator.load_state(str(tmp_path))
    resumed.train(3, STEPS)
    assert_same(resumed.result(), straight.result())
    # batches that are only accumulated are no steps
    assert {int(state["step"]) for state in state_of(resumed.optimizer).values()} == {STEPS}
    assert_on_its_space(resumed.model, method)


@each("Muon")
def test_accumulated_gradients_are_one_step(method: str) -> None:
    run = Run(method)
    run.train(0, 3)
    model = network(method)
    optimizer = METHODS[method](model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    batches = list(DataLoader(examples(), batch_size=4))
    for step in range(3):
        for x, y in batches[2 * step : 2 * step + 2]:
            (nn.functional.cross_entropy(model(x), y) / ACCUMULATION).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    assert_same(run.result(), {"model": model.state_dict(), "state": state_of(optimizer), "lr": schedule.get_last_lr()})


@each("Stiefel")
def test_mixed_precision(method: str) -> None:
    run = Run(method, mixed_precision="bf16")
    run.train(0, STEPS)
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    assert_on_its_space(run.model, method)


def test_the_optimizer_may_be_prepared_apart_from_its_model() -> None:
    model = network("Stiefel")
    optimizer = metrize.Adam(model)
    accelerator = accelerate.Accelerator(cpu=True)
    prepared = accelerator.prepare(optimizer)
    assert not optimizer.state  # preparing loads an empty state
    model(torch.ones(2, 6)).sum().backward()
    prepared.step()
    assert_on_its_space(model, "Stiefel")
