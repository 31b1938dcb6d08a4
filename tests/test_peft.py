"""Adapters of peft are parameters like any other."""

from __future__ import annotations

import warnings

import pytest
import torch

import metrize

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")


def _adapted():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
    )
    lora = peft.LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True)
    return peft.get_peft_model(transformers.GPT2LMHeadModel(config), lora)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["AdamW", "Muon", "SMMF", "Lion"])
def test_adapters_learn_and_the_base_model_stays(method):
    model = _adapted()
    optimizer = metrize.catalogue()[method](model, lr=1e-2)
    base = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    tokens = torch.randint(64, (4, 16), generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.02
    assert all(torch.equal(p, base[name]) for name, p in model.named_parameters() if name in base)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in optimizer.state} == {id(p) for p in trained}  # frozen weights cost nothing


@pytest.mark.filterwarnings("ignore")
def test_a_plan_knows_adapters():
    plan = metrize.plan(_adapted())
    roles = {row.role.kind for row in plan.rows if not row.frozen}
    assert roles == {"lora-a", "lora-b"}
