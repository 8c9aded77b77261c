"""LLaDA folders as published. Its layers are those of Llama without a causal mask, under names and settings of its own.

A loaded model is an `A2DLlamaLMHeadModel`, and is saved as one.
"""

from dllm.pipelines.a2d.modeling_a2d import A2DLlamaConfig, A2DLlamaLMHeadModel
from dllm.pipelines.loading import load_whole, read_config, reading

LLADA = "llada"  # the model type

# LLaDA's settings -> Llama's, and those that have one name.
SETTINGS = {
    "embedding_size": "vocab_size",
    "d_model": "hidden_size",
    "mlp_hidden_size": "intermediate_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "max_sequence_length": "max_position_embeddings",
    "weight_tying": "tie_word_embeddings",
}
SETTINGS |= {name: name for name in ("rms_norm_eps", "mask_token_id", "eos_token_id", "pad_token_id")}
# What else its settings may say; Llama's layers do nothing else.
FIXED = {
    "block_type": "llama",
    "layer_norm_type": "rms",
    "activation_type": "silu",
    "rope": True,
    "alibi": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "bias_for_layer_norm": False,
    "attention_layer_norm": False,
    "input_emb_norm": False,
    "scale_logits": False,
}
# Names of weights, LLaDA's -> Llama's: below `model.transformer`, and in each of its `blocks`.
WHOLE = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
LAYER = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
KEY_MAPPING = {rf"^model\.transformer\.{name}": ours for name, ours in WHOLE.items()}  # as transformers takes them
KEY_MAPPING |= {
    rf"^model\.transformer\.blocks\.(\d+)\.{name}": rf"model.layers.\1.{ours}" for name, ours in LAYER.items()
}


def load_llada(folder: str, **kwargs) -> A2DLlamaLMHeadModel:
    """The model of a LLaDA folder; `kwargs` as in `from_pretrained`. Raises ValueError if it is none, or not whole."""
    config = read_llada_config(folder)
    return load_whole(A2DLlamaLMHeadModel, folder, config=config, key_mapping=KEY_MAPPING, **kwargs)


def read_llada_config(folder: str) -> A2DLlamaConfig:
    """The config of a LLaDA folder. Raises ValueError, naming the setting, if Llama's layers cannot be what it says."""
    published = read_config(folder)
    if published.get("model_type") != LLADA:
        raise ValueError(f"{folder} holds a {published.get('model_type')} model; a {LLADA} folder is needed")
    for name, value in FIXED.items():
        if published.get(name, value) != value:
            raise ValueError(f"{folder}: {name} {published[name]!r} of config.json is not supported, only {value!r}")
    if missing := [name for name in ("d_model", "n_layers", "n_heads", "mlp_hidden_size") if name not in published]:
        raise ValueError(f"{folder}: config.json lacks {missing[0]}; copy it again")
    settings = {ours: published[name] for name, ours in SETTINGS.items() if published.get(name) is not None}
    settings.setdefault("vocab_size", published.get("vocab_size"))
    rope = {"rope_type": "default", "rope_theta": published.get("rope_theta", 10_000.0)}
    with reading(folder):  # the pattern is the only one that LLaDA was trained with
        return A2DLlamaConfig(**settings, attention_pattern="bidirectional", rope_parameters=rope)
