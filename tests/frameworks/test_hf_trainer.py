"""The Trainer of transformers trains, saves and resumes with optimizers of the catalogue."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toys import METHODS, assert_on_its_space, assert_same, each, imported, state_of

import metrize

transformers = imported("transformers")
imported("accelerate")

pytestmark = pytest.mark.filterwarnings("ignore")  # of the Trainer's own deprecations
STEPS = 6


def language_model(method: str) -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    if method == "Stiefel":
        metrize.constrain(model.transformer.h[0].attn.c_proj, "weight", metrize.Stiefel())
    return model


def sentences() -> list[dict[str, torch.Tensor]]:
    tokens = torch.randint(32, (48, 8), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row} for row in tokens]


def trainer(
    folder: Path, method: str, given: Callable[[nn.Module], dict[str, Any]], cls: Any = transformers.Trainer
) -> Any:
    """With what is `given` to the Trainer, which may depend on its model."""
    arguments = transformers.TrainingArguments(
        str(folder), use_cpu=True, report_to=[], disable_tqdm=True, max_steps=STEPS, save_steps=STEPS // 2,
        per_device_train_batch_size=4, learning_rate=1e-2, warmup_steps=2, dataloader_pin_memory=False,
        logging_strategy="no", save_strategy="steps",
    )  # fmt: skip
    model = language_model(method)
    return cls(model, arguments, train_dataset=sentences(), **given(model))


def check_resume(folder: Path, method: str, given: Callable[[nn.Module], dict[str, Any]]) -> None:
    """A run that stopped half way ends where the run ends that did not."""
    straight = trainer(folder, method, given)
    before = straight.evaluate(sentences())["eval_loss"]
    straight.train()
    assert straight.evaluate(sentences())["eval_loss"] < before
    resumed = trainer(folder, method, given)
    resumed.train(resume_from_checkpoint=str(folder / f"checkpoint-{STEPS // 2}"))
    assert_same(resumed.model.state_dict(), straight.model.state_dict())
    assert_same(state_of(resumed.optimizer), state_of(straight.optimizer))
    assert {int(state["step"]) for state in state_of(resumed.optimizer).values()} == {STEPS}
    assert_on_its_space(resumed.model, method)


@each("Muon")
def test_a_factory_that_takes_the_model(method: str, tmp_path: Path) -> None:
    check_resume(tmp_path, method, lambda model: {"optimizer_cls_and_kwargs": (lambda: METHODS[method], {})})


CLASSES: dict[str, tuple[type[metrize.Optimizer], dict[str, Any]]] = {
    "AdamW": (metrize.AdamW, {}),
    "Stiefel": (metrize.Adam, {}),
    "SOAP": (metrize.SOAP, {"precondition_frequency": 2}),
    "SMMF": (metrize.SMMF, {}),
    "Adam8bit": (metrize.Adam8bit, {"smallest": 0, "block": 16}),
}


@each("Stiefel")
def test_a_class_and_its_options(method: str, tmp_path: Path) -> None:
    if method == "Muon":
        pytest.skip("bare parameters have no roles; it needs the model")
    cls, options = CLASSES[method]
    check_resume(tmp_path, method, lambda model: {"optimizer_cls_and_kwargs": (cls, {"lr": 1e-2, **options})})


@each()
def test_an_optimizer_that_is_there_already(method: str, tmp_path: Path) -> None:
    check_resume(tmp_path, method, lambda model: {"optimizers": (METHODS[method](model), None)})


def test_groups_with_and_without_decay_are_told_apart(tmp_path: Path) -> None:
    made = trainer(tmp_path, "AdamW", lambda model: {"optimizer_cls_and_kwargs": (metrize.AdamW, {"lr": 1e-2})})
    made.args.weight_decay = 0.1
    optimizer = made.create_optimizer()
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert all(p.ndim < 2 for p in optimizer.param_groups[1]["params"])


def test_muon_without_the_model_says_what_is_wrong(tmp_path: Path) -> None:
    made = trainer(tmp_path, "Muon", lambda model: {"optimizer_cls_and_kwargs": (metrize.Muon, {"lr": 1e-2})})
    with pytest.raises(metrize.SpaceError, match=r"of its group.*matrices.*metrize\.Muon\(model\).*factory"):
        made.create_optimizer()
