"""Models of `transformers`, each with the whole table that it must get."""

from __future__ import annotations

import pytest
from expect import differences, roles
from zoo import MODELS

from metrize.norms import Layout
from metrize.roles import modules
from metrize.roles.modules import guess


@pytest.mark.parametrize("name", MODELS)
def test_the_whole_table(name):
    model, example, expected = MODELS[name]()
    assert not differences(model, example, expected)


@pytest.mark.parametrize("name", ["GPT-2", "GPT-NeoX", "Falcon", "Llama", "Phi-3", "Llama 4", "T5", "ViT"])
def test_the_forward_pass_tells_all_of_it_alone(name, monkeypatch):
    model, example, expected = MODELS[name]()
    monkeypatch.setattr(modules, "_RULES", ())
    assert guess.__globals__["_RULES"] == ()
    assert not differences(model, example, expected)


@pytest.mark.parametrize("name", MODELS)
def test_without_an_example_everything_but_fused_projections_is_known(name):
    """Transformers declare their output embeddings; classifiers are guessed by their place."""
    model, _, expected = MODELS[name]()
    unsplit = {
        key: role.replace(layout=role.layout.replace(split=(), outer=1, inner=1)) if role.kind == "hidden" else role
        for key, role in expected.items()
    }
    found = roles(model)
    different = {key for key in found if found[key] != unsplit[key] and "relative_attention_bias" not in key}
    bare = {key for key in different if found[key].reason in ("unknown", "a vector")}
    assert different - bare <= {"vit.embeddings.patch_embeddings.projection.weight"}
    assert all(found[key].kind == "elementwise" and found[key].layout == Layout() for key in bare)
