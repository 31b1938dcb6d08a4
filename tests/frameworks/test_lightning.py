"""Lightning's automatic optimization drives, saves and resumes optimizers of the catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from toys import METHODS, assert_on_its_space, assert_same, each, examples, imported, network, state_of

lightning = imported("lightning.pytorch")

pytestmark = pytest.mark.filterwarnings("ignore")
EPOCHS = 3


class Classifier(lightning.LightningModule):
    def __init__(self, method: str) -> None:
        super().__init__()
        self.method, self.net = method, network(method)
        self.losses: list[Tensor] = []

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.losses.append(loss.detach().float())
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = METHODS[self.method](self.net)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=8 * EPOCHS)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(folder: Path, method: str, epochs: int, resume: Path | None = None, **options: Any) -> tuple[Any, Any]:
    """Train for some epochs of all batches in their order; a checkpoint is written after each."""
    saving = lightning.callbacks.ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=epochs, callbacks=[saving], logger=False, enable_progress_bar=False,
        enable_model_summary=False, gradient_clip_val=1.0, default_root_dir=folder, **options,
    )  # fmt: skip
    module = Classifier(method)
    trainer.fit(module, DataLoader(examples(), batch_size=4), ckpt_path=resume)
    return module, trainer


@each("Muon", "SMMF")
def test_a_run_that_stopped_goes_on(method: str, tmp_path: Path) -> None:
    straight, trainer = fit(tmp_path / "straight", method, EPOCHS)
    resumed, other = fit(tmp_path / "resumed", method, EPOCHS, tmp_path / "straight" / "epoch=0.ckpt")
    assert len(straight.losses) == 8 * EPOCHS  # the closure was called, once for each step
    assert torch.stack(straight.losses[-8:]).mean() < torch.stack(straight.losses[:8]).mean()
    assert_same(resumed.losses, straight.losses[8:])
    assert_same(resumed.net.state_dict(), straight.net.state_dict())
    assert_same(state_of(other.optimizers[0]), state_of(trainer.optimizers[0]))
    assert {int(state["step"]) for state in state_of(other.optimizers[0]).values()} == {8 * EPOCHS}
    assert_on_its_space(resumed, method)


@each("Stiefel")
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_precision(method: str, precision: str, tmp_path: Path) -> None:
    module, trainer = fit(tmp_path, method, 2, precision=precision)
    dtype = torch.float32 if precision == "bf16-mixed" else torch.bfloat16
    assert {p.dtype for p in module.parameters()} == {dtype}
    assert torch.stack(module.losses[8:]).mean() < torch.stack(module.losses[:8]).mean()
    resumed, other = fit(tmp_path / "resumed", method, 2, tmp_path / "epoch=0.ckpt", precision=precision)
    assert_same(resumed.net.state_dict(), module.net.state_dict())
    assert_same(state_of(other.optimizers[0]), state_of(trainer.optimizers[0]))


@each("AdamW")
def test_accumulated_batches_are_one_step(method: str, tmp_path: Path) -> None:
    _, trainer = fit(tmp_path, method, 1, accumulate_grad_batches=2)
    assert {int(state["step"]) for state in state_of(trainer.optimizers[0]).values()} == {4}


class Thaw(lightning.callbacks.BaseFinetuning):
    """Trains the last layer, and all of it from the second epoch on."""

    def freeze_before_training(self, module: Any) -> None:
        self.freeze(module.net[:-1])

    def finetune_function(self, module: Any, epoch: int, optimizer: torch.optim.Optimizer) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(module.net[:-1], optimizer, lr=1e-3)


@pytest.mark.parametrize("method", ["AdamW", "SOAP"])
def test_layers_that_thaw_join_an_optimizer_of_a_module(method: str, tmp_path: Path) -> None:
    class Finetuned(Classifier):
        def configure_optimizers(self) -> Any:
            return METHODS[self.method](self.net[-1])

    module = Finetuned(method)
    start = {name: p.detach().clone() for name, p in module.named_parameters()}
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=2, callbacks=[Thaw()], logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, DataLoader(examples(), batch_size=4))
    optimizer = trainer.optimizers[0]
    assert all(not torch.equal(p, start[name]) for name, p in module.named_parameters())
    assert {int(state["step"]) for state in state_of(optimizer).values()} == {8, 16}
    assert optimizer.param_groups[-1]["lr"] == 1e-3


class Plain(Classifier):
    """Leaves the optimizer to the command line."""

    def __init__(self) -> None:
        super().__init__("SOAP")

    configure_optimizers = lightning.LightningModule.configure_optimizers


class Batches(lightning.LightningDataModule):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(examples(), batch_size=4)


def from_the_command_line(folder: Path, epochs: int, *more: str) -> Any:
    words = "fit --optimizer metrize.SOAP --optimizer.lr 3e-3 --optimizer.betas [0.9,0.95]"
    trainer = {
        "accelerator": "cpu", "devices": 1, "max_epochs": epochs, "logger": False, "default_root_dir": folder,
        "enable_progress_bar": False, "enable_model_summary": False,
    }  # fmt: skip
    saving = lightning.callbacks.ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    from lightning.pytorch.cli import LightningCLI

    return LightningCLI(
        Plain, Batches, args=[*words.split(), *more], trainer_defaults={**trainer, "callbacks": [saving]},
        save_config_callback=None, seed_everything_default=False,
    )  # fmt: skip


def test_a_class_path_of_the_command_line_trains_saves_and_resumes(tmp_path: Path) -> None:
    imported("jsonargparse")
    straight = from_the_command_line(tmp_path / "straight", 2)
    (optimizer,) = straight.trainer.optimizers
    assert {(group["lr"], group["betas"]) for group in optimizer.param_groups} == {(3e-3, (0.9, 0.95))}
    assert len(straight.model.losses) == 16
    saved = tmp_path / "straight" / "epoch=0.ckpt"
    resumed = from_the_command_line(tmp_path / "resumed", 2, "--ckpt_path", str(saved))
    assert_same(resumed.model.losses, straight.model.losses[8:])
    assert_same(resumed.model.net.state_dict(), straight.model.net.state_dict())


def test_the_command_line_takes_parts_by_their_class_paths(tmp_path: Path) -> None:
    imported("jsonargparse")
    more = ["--optimizer.moments", "metrize.Quantized", "--optimizer.moments.smallest", "16"]
    (optimizer,) = from_the_command_line(tmp_path, 1, *more).trainer.optimizers
    assert {str(recipe.moments) for recipe in optimizer.recipes()} == {"Quantized(smallest=16.0)"}
