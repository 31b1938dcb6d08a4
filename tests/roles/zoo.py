"""Small models of `transformers` with random weights, what they take, and the table that each must get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from expect import BACKWARDS, BIAS, ELEMENTWISE, EMBEDDING, GAIN, HEAD, HIDDEN, ROUTER, TIED, conv, split
from torch import nn

from metrize.norms import Layout
from metrize.roles import Role

TOKENS = {"input_ids": torch.tensor([[5, 9, 2, 7, 11, 3], [8, 1, 4, 4, 6, 10]])}
IMAGES = {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)}
Table = dict[str, Role]
_WORDS = {"vocab_size": 96, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def _affine(prefix: str, **weights: Role) -> Table:
    """Weights with a bias each."""
    pairs = ((f"{prefix}{name.replace('__', '.')}", role) for name, role in weights.items())
    return {key: value for name, role in pairs for key, value in ((f"{name}.weight", role), (f"{name}.bias", BIAS))}


def _plain(prefix: str, **weights: Role) -> Table:
    return {f"{prefix}{name.replace('__', '.')}.weight": role for name, role in weights.items()}


def gpt2(**options: Any) -> tuple[nn.Module, dict[str, Any], Table]:
    config = hf.GPT2Config(n_positions=16, n_embd=16, n_layer=2, n_head=4, **_WORDS, **options)
    fused = Role("hidden", Layout(transposed=True, split=(16, 16, 16)))
    expected = {"transformer.wte.weight": TIED, "transformer.wpe.weight": EMBEDDING}
    for layer in ("transformer.h.0.", "transformer.h.1."):
        expected |= _affine(layer, ln_1=GAIN, ln_2=GAIN, attn__c_attn=fused, attn__c_proj=BACKWARDS)
        expected |= _affine(layer, mlp__c_fc=BACKWARDS, mlp__c_proj=BACKWARDS)
    return hf.GPT2LMHeadModel(config), TOKENS, expected | _affine("transformer.", ln_f=GAIN)


def gpt_neox(**options: Any) -> tuple[nn.Module, dict[str, Any], Table]:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = hf.GPTNeoXConfig(max_position_embeddings=16, **sizes, **_WORDS, **options)
    layer = "gpt_neox.layers.0."
    fused = split(1, 1, 1, outer=4, inner=4)
    expected = {"gpt_neox.embed_in.weight": EMBEDDING, "lm_head.weight": HEAD}
    expected |= _affine(layer, input_layernorm=GAIN, post_attention_layernorm=GAIN)
    expected |= _affine(layer, attention__query_key_value=fused, attention__dense=HIDDEN)
    expected |= _affine(layer, mlp__dense_h_to_4h=HIDDEN, mlp__dense_4h_to_h=HIDDEN)
    return hf.GPTNeoXForCausalLM(config), TOKENS, expected | _affine("gpt_neox.", final_layer_norm=GAIN)


def falcon() -> tuple[nn.Module, dict[str, Any], Table]:
    """Two groups of four queries, each with one key and one value, of four numbers."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 8, "num_kv_heads": 2}
    config = hf.FalconConfig(new_decoder_architecture=True, **sizes, **_WORDS)
    layer = "transformer.h.0."
    fused = split(4, 1, 1, outer=2, inner=4)
    expected = {"transformer.word_embeddings.weight": TIED}
    expected |= _plain(layer, self_attention__query_key_value=fused, self_attention__dense=HIDDEN)
    expected |= _plain(layer, mlp__dense_h_to_4h=HIDDEN, mlp__dense_4h_to_h=HIDDEN)
    expected |= _affine(layer, ln_attn=GAIN, ln_mlp=GAIN)
    return hf.FalconForCausalLM(config), TOKENS, expected | _affine("transformer.", ln_f=GAIN)


def falcon_multi_query() -> tuple[nn.Module, dict[str, Any], Table]:
    """Eight queries share one key and one value."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 8}
    config = hf.FalconConfig(multi_query=True, **sizes, **_WORDS)
    layer = "transformer.h.0."
    expected = {"transformer.word_embeddings.weight": TIED}
    expected |= _plain(layer, self_attention__query_key_value=split(32, 4, 4), self_attention__dense=HIDDEN)
    expected |= _plain(layer, mlp__dense_h_to_4h=HIDDEN, mlp__dense_4h_to_h=HIDDEN)
    expected |= _affine(layer, input_layernorm=GAIN)
    return hf.FalconForCausalLM(config), TOKENS, expected | _affine("transformer.", ln_f=GAIN)


_SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def _llama_like(layer: str = "model.layers.0.") -> Table:
    expected = {"model.embed_tokens.weight": EMBEDDING, "lm_head.weight": HEAD, "model.norm.weight": GAIN}
    expected |= _plain(layer, input_layernorm=GAIN, post_attention_layernorm=GAIN, self_attn__o_proj=HIDDEN)
    return expected | _plain(layer, self_attn__q_proj=HIDDEN, self_attn__k_proj=HIDDEN, self_attn__v_proj=HIDDEN)


def llama() -> tuple[nn.Module, dict[str, Any], Table]:
    feed = _plain("model.layers.0.mlp.", gate_proj=HIDDEN, up_proj=HIDDEN, down_proj=HIDDEN)
    return hf.LlamaForCausalLM(hf.LlamaConfig(**_SMALL, **_WORDS)), TOKENS, _llama_like() | feed


def phi3() -> tuple[nn.Module, dict[str, Any], Table]:
    """Queries, keys and values of grouped attention in one weight, gate and up in another."""
    expected = {name: role for name, role in _llama_like().items() if "_proj" not in name or "o_proj" in name}
    expected |= _plain("model.layers.0.", self_attn__qkv_proj=split(16, 8, 8), mlp__gate_up_proj=split(24, 24))
    expected |= _plain("model.layers.0.", mlp__down_proj=HIDDEN)
    return hf.Phi3ForCausalLM(hf.Phi3Config(**_SMALL, **_WORDS)), TOKENS, expected


def mixtral() -> tuple[nn.Module, dict[str, Any], Table]:
    experts = "model.layers.0.mlp.experts."
    feed = {
        "model.layers.0.mlp.gate.weight": ROUTER,
        f"{experts}gate_up_proj": split(24, 24, kind="expert"),
        f"{experts}down_proj": Role("expert"),
    }
    config = hf.MixtralConfig(num_local_experts=5, **_SMALL, **_WORDS)
    return hf.MixtralForCausalLM(config), TOKENS, _llama_like() | feed


def gpt_oss() -> tuple[nn.Module, dict[str, Any], Table]:
    """Experts that are stored transposed, with gate and up in turn."""
    experts = "model.layers.0.mlp.experts."
    expected = _llama_like() | {
        "model.layers.0.self_attn.sinks": ELEMENTWISE,
        "model.layers.0.mlp.router.weight": ROUTER,
        "model.layers.0.mlp.router.bias": BIAS,
        f"{experts}gate_up_proj": Role("expert", Layout(transposed=True, split=(1, 1), outer=24)),
        f"{experts}down_proj": Role("expert", Layout(transposed=True)),
        f"{experts}gate_up_proj_bias": BIAS,
        f"{experts}down_proj_bias": BIAS,
    }
    expected |= {f"model.layers.0.self_attn.{name}_proj.bias": BIAS for name in "qkvo"}
    config = hf.GptOssConfig(num_local_experts=5, num_experts_per_tok=2, head_dim=4, **_SMALL, **_WORDS)
    return hf.GptOssForCausalLM(config), TOKENS, expected


def llama4() -> tuple[nn.Module, dict[str, Any], Table]:
    """Experts that say nothing of how they are stored."""
    feed = "model.layers.0.feed_forward."
    expected = _llama_like() | {
        f"{feed}experts.gate_up_proj": Role("expert", Layout(transposed=True, split=(24, 24))),
        f"{feed}experts.down_proj": Role("expert", Layout(transposed=True)),
        f"{feed}router.weight": ROUTER,
    }
    expected |= _plain(f"{feed}shared_expert.", gate_proj=HIDDEN, up_proj=HIDDEN, down_proj=HIDDEN)
    config = hf.Llama4TextConfig(intermediate_size_mlp=32, num_local_experts=5, head_dim=4, **_SMALL, **_WORDS)
    return hf.Llama4ForCausalLM(config), TOKENS, expected


def t5() -> tuple[nn.Module, dict[str, Any], Table]:
    """Two tables of distances, one number a head, and one table for three places."""
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_heads": 4}
    config = hf.T5Config(decoder_start_token_id=0, feed_forward_proj="gated-gelu", **sizes, **_WORDS)
    parts = {"encoder": ("SelfAttention",), "decoder": ("SelfAttention", "EncDecAttention")}
    expected = {"shared.weight": TIED}
    for part, attentions in parts.items():
        layer = f"{part}.block.0.layer."
        for at, attention in enumerate(attentions):
            expected |= {f"{layer}{at}.{attention}.{name}.weight": HIDDEN for name in "qkvo"}
            expected[f"{layer}{at}.layer_norm.weight"] = GAIN
        expected[f"{layer}0.SelfAttention.relative_attention_bias.weight"] = ELEMENTWISE
        last = len(attentions)
        expected |= {f"{layer}{last}.DenseReluDense.{name}.weight": HIDDEN for name in ("wi_0", "wi_1", "wo")}
        expected |= {f"{layer}{last}.layer_norm.weight": GAIN, f"{part}.final_layer_norm.weight": GAIN}
    model = hf.T5ForConditionalGeneration(config)
    return model, {**TOKENS, "decoder_input_ids": TOKENS["input_ids"]}, expected


def vit() -> tuple[nn.Module, dict[str, Any], Table]:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    config = hf.ViTConfig(image_size=8, patch_size=4, **sizes)
    layer = "vit.layers.0."
    expected = {"vit.embeddings.cls_token": EMBEDDING, "vit.embeddings.position_embeddings": EMBEDDING}
    expected |= _affine("vit.embeddings.patch_embeddings.", projection=conv("input"))
    expected |= _affine(layer, layernorm_before=GAIN, layernorm_after=GAIN, mlp__fc1=HIDDEN, mlp__fc2=HIDDEN)
    for name in "qkvo":
        expected |= _affine(f"{layer}attention.{name}_", proj=HIDDEN)
    return hf.ViTForImageClassification(config), IMAGES, expected | _affine("", vit__layernorm=GAIN, classifier=HEAD)


MODELS: dict[str, Callable[[], tuple[nn.Module, dict[str, Any], Table]]] = {
    "GPT-2": gpt2,
    "GPT-2, attention written out": lambda: gpt2(attn_implementation="eager"),
    "GPT-NeoX": gpt_neox,
    "GPT-NeoX, attention written out": lambda: gpt_neox(attn_implementation="eager"),
    "Falcon": falcon,
    "Falcon, one key for all queries": falcon_multi_query,
    "Llama": llama,
    "Phi-3": phi3,
    "Mixtral": mixtral,
    "GPT-OSS": gpt_oss,
    "Llama 4": llama4,
    "T5": t5,
    "ViT": vit,
}
