"""Accelerate, the Trainer of transformers and Lightning shard a model with FSDP2, train, save and resume it."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from shard_jobs import wholes
from shard_pool import Pool
from test_hf_trainer import trainer, transformers
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from toys import METHODS, assert_on_its_space, assert_same, each, examples, imported, network, state_of

accelerate = imported("accelerate")
lightning = imported("lightning.pytorch")
strategies = imported("lightning.pytorch.strategies")

pytestmark = pytest.mark.filterwarnings("ignore")
STEPS = 6
HALF = STEPS // 2


def loss_of(model: nn.Module, batch: list[Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def batches() -> DataLoader[tuple[Tensor, Tensor]]:
    """The same on each process, so that the mean of their gradients is what one process has, to the bit."""
    return DataLoader(examples(4 * HALF), batch_size=4)


def expected(method: str) -> dict[str, Tensor]:
    """Weights of one process that knows of no framework."""
    model = network(method)
    optimizer = METHODS[method](model)
    for batch in [*batches(), *batches()]:
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
    return wholes(model)


def whole_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {
        name: {key: value.full_tensor() if isinstance(value, DTensor) else value for key, value in kept.items()}
        for name, kept in state_of(optimizer).items()
    }


def assert_sharded(optimizer: torch.optim.Optimizer) -> None:
    assert all(isinstance(p, DTensor) for group in optimizer.param_groups for p in group["params"])


def take_place() -> None:
    """What a launcher tells each process, and nothing left of an earlier run."""
    warnings.simplefilter("ignore")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()
    rank, size = str(dist.get_rank()), str(dist.get_world_size())
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=size, LOCAL_WORLD_SIZE=size, OMP_NUM_THREADS="1")


def turn_to_sharding(**options: Any) -> None:
    """Accelerate turns to replicas on the CPU; the code of its sharding runs there nonetheless."""
    plugin = accelerate.FullyShardedDataParallelPlugin(fsdp_version=2, **options)
    for shared in (accelerate.state.PartialState, accelerate.state.AcceleratorState):
        shared._shared_state["distributed_type"] = accelerate.DistributedType.FSDP
    accelerate.state.AcceleratorState._shared_state["fsdp_plugin"] = plugin


class Accelerated:
    """A model and an optimizer that Accelerate has prepared for FSDP2."""

    def __init__(self, method: str, options: dict[str, Any]) -> None:
        take_place()
        self.accelerator = accelerate.Accelerator(cpu=True)
        turn_to_sharding(auto_wrap_policy="size_based_wrap", min_num_params=1, **options)
        model = network(method)
        self.model, self.optimizer = self.accelerator.prepare(model, METHODS[method](model))
        assert_sharded(self.optimizer)

    def train(self) -> None:
        for batch in batches():
            self.optimizer.zero_grad()
            self.accelerator.backward(loss_of(self.model, batch))
            self.optimizer.step()

    def result(self) -> dict[str, Any]:
        return {"model": wholes(self.model), "state": whole_state(self.optimizer)}


def accelerated(method: str, folder: str, options: dict[str, Any]) -> dict[str, Tensor]:
    """Weights of a run, after a check that one which was saved half way ends alike."""
    straight = Accelerated(method, options)
    straight.train()
    straight.accelerator.save_state(folder)
    straight.train()
    resumed = Accelerated(method, options)
    resumed.accelerator.load_state(folder)
    resumed.train()
    assert_same(resumed.result(), straight.result())
    assert {int(state["step"]) for state in straight.result()["state"].values()} == {STEPS}
    assert_on_its_space(straight.model, method)
    return wholes(straight.model)


@each("Muon")
def test_accelerate(two: Pool, method: str, tmp_path: Path) -> None:
    for found in two.run(accelerated, method, str(tmp_path), {}):
        assert_same(found, expected(method))


@pytest.mark.parametrize("options", [{"cpu_ram_efficient_loading": True}, {"state_dict_type": "FULL_STATE_DICT"}])
@each("Stiefel")
def test_accelerate_by_way_of_one_process(two: Pool, method: str, options: dict[str, Any], tmp_path: Path) -> None:
    """The first process alone reads the model, which others have without numbers, or keeps the whole checkpoint."""
    for found in two.run(accelerated, method, str(tmp_path), options):
        assert_same(found, expected(method))


class ShardingTrainer(transformers.Trainer):
    """What the Trainer is on GPUs with ``fsdp`` among its arguments."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        turn_to_sharding(
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=["GPT2Block"],
            state_dict_type="FULL_STATE_DICT",  # as the Trainer has it
        )
        self.is_fsdp_enabled = True


def trained_by_trainer(method: str, folder: str, resume: str | None) -> dict[str, Any]:
    take_place()
    factory = {"optimizer_cls_and_kwargs": (lambda: METHODS[method], {})}
    made = trainer(Path(folder), method, lambda model: factory, ShardingTrainer)
    made.train(resume_from_checkpoint=resume)
    assert_sharded(made.optimizer)
    assert_on_its_space(made.model, method)
    return {"model": wholes(made.model), "state": whole_state(made.optimizer)}


@each("Stiefel")
def test_trainer(two: Pool, method: str, tmp_path: Path) -> None:
    straight = two.run(trained_by_trainer, method, str(tmp_path), None)
    resumed = two.run(trained_by_trainer, method, str(tmp_path), str(tmp_path / f"checkpoint-{HALF}"))
    for run in (*straight, *resumed):
        assert_same(run, straight[0])
    assert {int(state["step"]) for state in straight[0]["state"].values()} == {STEPS}


class Sharded(lightning.LightningModule):
    """Shards itself when Lightning asks for it, before it asks for the optimizer."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method, self.net = method, network(method)

    def configure_model(self) -> None:
        for part in [*self.net, self.net]:
            fully_shard(part, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return loss_of(self.net, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return METHODS[self.method](self.net)


def fit(folder: Path, method: str, distributed: bool, resume: Path | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """Two epochs of all batches in their order; a checkpoint is written after each."""
    take_place()
    saving = lightning.callbacks.ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    strategy = strategies.ModelParallelStrategy(2, 1, save_distributed_checkpoint=distributed)
    driver = lightning.Trainer(
        accelerator="cpu", devices=2, strategy=strategy, max_epochs=2, callbacks=[saving], logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, use_distributed_sampler=False,
    )  # fmt: skip
    module = Sharded(method)
    driver.fit(module, batches(), ckpt_path=resume)
    assert_sharded(driver.optimizers[0])
    return module.net, {"model": wholes(module.net), "state": whole_state(driver.optimizers[0])}


def lit(method: str, folder: str, distributed: bool) -> dict[str, Tensor]:
    """Weights of a run, after a check that one which goes on from its first epoch ends alike."""
    net, straight = fit(Path(folder, "straight"), method, distributed)
    saved = Path(folder, "straight", "epoch=0.ckpt")
    assert saved.is_dir() == distributed
    _, resumed = fit(Path(folder, "resumed"), method, distributed, saved)
    assert_same(resumed, straight)
    assert {int(state["step"]) for state in straight["state"].values()} == {STEPS}
    assert_on_its_space(net, method)
    return wholes(net)


@pytest.mark.parametrize("distributed", [True, False])
@each("SOAP")
def test_lightning(two: Pool, method: str, distributed: bool, tmp_path: Path) -> None:
    for found in two.run(lit, method, str(tmp_path), distributed):
        assert_same(found, expected(method))
