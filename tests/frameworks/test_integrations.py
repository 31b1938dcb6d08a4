"""The doors into frameworks: each trains, saves and resumes.

transformers is the installed one. axolotl, LLaMA-Factory, torchtitan and kohya's scripts are not: what stands for them
here follows their published sources (axolotl 0.19, LLaMA-Factory 0.9.5, torchtitan 0.3), and shows that the protocol
is kept, not that they run.
"""

from __future__ import annotations

import ast
import copy
import importlib
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_hf_trainer import check_resume, language_model, sentences, transformers
from torch import nn

import metrize
from metrize.integrations.build import build
from metrize.integrations.torchtitan import Config, OptimizersContainer
from metrize.integrations.transformers import Callback, method

warned = pytest.mark.filterwarnings("ignore")


def arguments(folder: Path, **told: Any) -> Any:
    return transformers.TrainingArguments(
        str(folder),
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        max_steps=2,
        logging_steps=1,
        save_strategy="no",
        **told,
    )


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(8, 16), nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 4))


def train(of: nn.Module, optimizer: Any, steps: int = 2) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        of(torch.arange(8)).square().mean().backward()
        optimizer.step()


def check_goes_on(make: Any) -> None:
    """A run from a saved state equals the run that did not stop."""
    straight = model()
    optimizer = make(straight)
    train(straight, optimizer)
    state, resumed = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(straight)
    again = make(resumed)
    again.load_state_dict(state)
    for of, by in ((straight, optimizer), (resumed, again)):
        train(of, by)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))


@warned
@pytest.mark.parametrize("name", ["soap", "muon"])
def test_the_trainer_resumes_with_a_method(tmp_path: Path, name: str) -> None:
    told = arguments(tmp_path, learning_rate=1e-2)
    check_resume(tmp_path, name, lambda _: {"optimizer_cls_and_kwargs": method(told, name)})


@warned
def test_the_arguments_rate_and_decay_are_used(tmp_path: Path) -> None:
    told = arguments(tmp_path, learning_rate=0.125, weight_decay=0.25)
    of = language_model("AdamW")
    trainer = transformers.Trainer(
        of, told, train_dataset=sentences(), optimizer_cls_and_kwargs=method(told, "adamw"), callbacks=[Callback()]
    )
    trainer.train()
    groups = trainer.optimizer.param_groups
    assert {group["initial_lr"] for group in groups} == {0.125}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.25}
    assert any("learning_rate/1" in line and line["skipped_steps"] == 0 for line in trainer.state.log_history)


@pytest.mark.filterwarnings("default")
def test_the_callback_says_when_the_arguments_rate_is_not_used(tmp_path: Path) -> None:
    told = arguments(tmp_path, learning_rate=0.125)
    given = {"optimizer_cls_and_kwargs": (metrize.SOAP, {})}
    trainer = transformers.Trainer(
        language_model("SOAP"), told, train_dataset=sentences(), callbacks=[Callback()], **given
    )
    with pytest.warns(UserWarning, match=r"learning_rate=0.125 of the arguments is not used.* lr=0.003"):
        trainer.train()


def test_decay_spares_vectors_unless_the_options_say_more() -> None:
    def decays(**options: Any) -> list[float]:
        return [g["weight_decay"] for g in build(model(), "adamw", 1e-3, 0.5, options).param_groups]

    assert sorted(decays()) == [0.0, 0.5]
    assert decays(weight_decay=0.25) == [0.25]


def test_torchtitan_s_container() -> None:
    config = Config(name="Muon", lr=0.02, weight_decay=0.1, options={"rest": {"lr": 0.125}})
    (whole,) = config.build(model_parts=[model()])
    assert {group["lr"] for group in whole.param_groups} == {0.02, 0.125}
    container = config.build(model_parts=[*model()])
    assert config.to_dict()["options"] == {"rest": {"lr": 0.125}}
    assert len(container) == len([*container]) == 4
    assert isinstance(container, torch.optim.Optimizer)
    with pytest.raises(ValueError, match="two parts of the model have a parameter 'bias'"):
        container.state_dict()
    for name in ("AdamW", "SOAP", "Muon"):
        check_goes_on(lambda of, name=name: OptimizersContainer([of], name, lr=1e-2))


def test_axolotl_s_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    base = types.ModuleType("axolotl.integrations.base")
    base.BasePlugin = type("BasePlugin", (), {})  # type: ignore[attr-defined]
    for name in ("axolotl", "axolotl.integrations"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "axolotl.integrations.base", base)
    ours = importlib.import_module("metrize.integrations.axolotl")
    plugin = ours.MetrizePlugin()

    def make(of: nn.Module) -> Any:
        config = SimpleNamespace(metrize={"name": "muon", "rest": {"lr": 0.125}}, learning_rate=0.25, weight_decay=0.5)
        trainer = SimpleNamespace()
        plugin.post_trainer_create(config, trainer)
        factory, options = trainer.optimizer_cls_and_kwargs
        return factory()(of, SimpleNamespace(), **options)  # axolotl hands over its arguments, too

    check_goes_on(make)
    assert {group["lr"] for group in make(model()).param_groups} == {0.25, 0.125}
    trainer = SimpleNamespace(optimizer_cls_and_kwargs=None)
    plugin.post_trainer_create(SimpleNamespace(metrize=None), trainer)
    assert trainer.optimizer_cls_and_kwargs is None
    module, _, name = plugin.get_input_args().rpartition(".")
    assert getattr(importlib.import_module(module), name)(metrize={"name": "soap"}).metrize == {"name": "soap"}


def test_llama_factory_s_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: dict[str, Any] = {}

    class OptimizerPlugin:
        def __init__(self, name: str) -> None:
            self.name = name

        def register(self) -> Any:
            return lambda function: registered.setdefault(self.name, function)

    path = "llamafactory.v1.plugins.trainer_plugins.optimizer"
    parts = path.split(".")
    for end in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
    sys.modules[path].OptimizerPlugin = OptimizerPlugin  # type: ignore[attr-defined]
    importlib.import_module("metrize.integrations.llamafactory")
    config = {"name": "metrize", "optimizer": "soap", "lr": 0.125}
    check_goes_on(lambda of: registered["metrize"](of, config))
    rest = registered["metrize"](model(), {"name": "metrize", "optimizer": "lion"}, learning_rate=0.25)
    assert {group["lr"] for group in rest.param_groups} == {0.25}


MATRICES_ALONE = {name for name, cls in metrize.catalogue().items() if issubclass(cls, metrize.Muon)} | {
    "GrassmannSOAP",
    "StiefelSMMF",
}


@pytest.mark.parametrize("name", sorted(metrize.catalogue().keys() - MATRICES_ALONE))
def test_a_class_by_its_path_with_groups_of_bare_parameters(name: str) -> None:
    """As ``--optimizer_type metrize.SOAP`` of kohya's scripts, and a class path of Lightning's command line."""
    module, _, attribute = f"metrize.{name}".rpartition(".")
    cls = getattr(importlib.import_module(module), attribute)
    of = model()
    groups = [{"params": list(layer.parameters()), "lr": 1e-3 * index} for index, layer in enumerate(of, start=1)]
    optimizer = cls(groups, lr=1e-3)
    train(of, optimizer, steps=1)
    assert [group["lr"] for group in optimizer.param_groups][-1] == 4e-3


def by_kohya(of: nn.Module, optimizer_type: str, *optimizer_args: str) -> Any:
    """As kohya's scripts make an optimizer: a dotted path, and ``name=value`` with Python's literals."""
    module, _, name = optimizer_type.rpartition(".")
    options = {key: ast.literal_eval(value) for key, value in (text.split("=", 1) for text in optimizer_args)}
    groups = [{"params": list(layer.parameters()), "lr": 1e-3} for layer in of]
    return getattr(importlib.import_module(module), name)(groups, lr=1e-3, **options)


def test_kohya_s_optimizer_type_saves_and_resumes() -> None:
    made = by_kohya(model(), "metrize.SOAP", "betas=0.9,0.95", "weight_decay=0.01")
    assert {(group["betas"], group["weight_decay"]) for group in made.param_groups} == {((0.9, 0.95), 0.01)}
    check_goes_on(lambda of: by_kohya(of, "metrize.SOAP", "betas=0.9,0.95", "weight_decay=0.01"))
    check_goes_on(lambda of: by_kohya(of, "metrize.Adam8bit", "smallest=1"))
