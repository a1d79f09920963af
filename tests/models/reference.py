"""Tiny randomised models, and the same models in `transformers`.

Matrices are drawn so that what they produce is of size one; biases, norm scales and positions
are of size one themselves, so that a wrong one moves the logits (default-initialised models hide
most mistakes). NumPy's generator makes the numbers the same everywhere.
"""

import math

import jax
import numpy as np
from flat_settings import changed

from gptjax import models

GPT2 = changed(
    models.ModelConfig(),
    vocab_size=11,
    depth=2,
    width=12,
    num_heads=3,
    seq_len=9,
    mlp="gelu_tanh",
    tied_head=True,
)
LLAMA = changed(
    models.ModelConfig(),
    vocab_size=11,
    depth=2,
    width=16,
    num_heads=4,
    num_kv_heads=2,
    mlp_width=20,
    seq_len=9,
    norm="rmsnorm",
    norm_eps=1e-6,
    positions="rotary",
    rope_base=500.0,
    mlp="swiglu",
    use_bias=False,
    tied_head=False,
)
CONFIGS = {"gpt2": GPT2, "llama": LLAMA}


def tokens():
    return np.random.default_rng(1).integers(0, 11, (2, 9)).astype(np.int32)


def parameters(config):
    """Every leaf random; the order of the leaves is that of their sorted paths."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
    axes = models.logical_axes(config)

    def draw(path, leaf, names):
        numbers = rng.standard_normal(leaf.shape).astype(np.float32)
        kind = path[-1].key
        if len([n for n in names if n != "layers"]) < 2 or kind.endswith("_bias"):
            return 1.0 + numbers if kind == "scale" else numbers
        if kind in ("tokens", "positions"):
            return numbers
        fan_in = config.width if names[-1] != "embed" else math.prod(leaf.shape[1:-1])
        return np.float32(1.5 / math.sqrt(fan_in)) * numbers

    is_names = lambda x: isinstance(x, tuple)  # noqa: E731
    return jax.tree_util.tree_map_with_path(
        draw, shapes, jax.tree.map(lambda names: names, axes, is_leaf=is_names)
    )


def torch_logits(name):
    """float32 logits of the same model in `transformers`."""
    import torch

    config = CONFIGS[name]
    state = {"gpt2": _gpt2_state, "llama": _llama_state}[name](config, parameters(config))
    model = {"gpt2": _gpt2_model, "llama": _llama_model}[name](config)
    tensors = {key: torch.tensor(np.ascontiguousarray(value)) for key, value in state.items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}, missing
    with torch.no_grad():
        return model.eval()(torch.tensor(tokens(), dtype=torch.long)).logits.numpy()


def _gpt2_model(config):
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.seq_len,
            n_embd=config.width,
            n_layer=config.depth,
            n_head=config.num_heads,
        )
    )


def _llama_model(config):
    from transformers import LlamaConfig, LlamaForCausalLM

    rope = {"rope_type": "default", "rope_theta": config.rope.base}
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            intermediate_size=config.mlp_width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            max_position_embeddings=config.seq_len,
            rms_norm_eps=config.norm_eps,
            rope_theta=config.rope.base,
            rope_parameters=rope,
            tie_word_embeddings=False,
        )
    )


def _gpt2_state(config, params):
    D = config.width
    blocks = params["blocks"]
    state = {
        "transformer.wte.weight": params["embed"]["tokens"],
        "transformer.wpe.weight": params["embed"]["positions"],
        "transformer.ln_f.weight": params["final_norm"]["scale"],
        "transformer.ln_f.bias": params["final_norm"]["bias"],
    }
    for i in range(config.depth):
        at = f"transformer.h.{i}."
        attention, mlp = (
            {k: v[i] for k, v in blocks[part].items()} for part in ("attention", "mlp")
        )
        qkv = ("query", "key", "value")
        state[at + "attn.c_attn.weight"] = np.concatenate(
            [attention[n].reshape(D, D) for n in qkv], axis=1
        )
        state[at + "attn.c_attn.bias"] = np.concatenate(
            [attention[f"{n}_bias"].reshape(D) for n in qkv]
        )
        state[at + "attn.c_proj.weight"] = attention["out"].reshape(D, D)
        state[at + "attn.c_proj.bias"] = attention["out_bias"]
        for ours, theirs in (("up", "c_fc"), ("down", "c_proj")):
            state[at + f"mlp.{theirs}.weight"] = mlp[ours]
            state[at + f"mlp.{theirs}.bias"] = mlp[f"{ours}_bias"]
        for ours, theirs in (("attention_norm", "ln_1"), ("mlp_norm", "ln_2")):
            state[at + theirs + ".weight"] = blocks[ours]["scale"][i]
            state[at + theirs + ".bias"] = blocks[ours]["bias"][i]
    return state


def _llama_state(config, params):
    D = config.width
    blocks = params["blocks"]
    state = {
        "model.embed_tokens.weight": params["embed"]["tokens"],
        "model.norm.weight": params["final_norm"]["scale"],
        "lm_head.weight": params["head"].T,
    }
    for i in range(config.depth):
        at = f"model.layers.{i}."
        attention, mlp = blocks["attention"], blocks["mlp"]
        for ours, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
            state[at + f"self_attn.{theirs}.weight"] = attention[ours][i].reshape(D, -1).T
        state[at + "self_attn.o_proj.weight"] = attention["out"][i].reshape(-1, D).T
        for part in ("gate", "up", "down"):
            state[at + f"mlp.{part}_proj.weight"] = mlp[part][i].T
        state[at + "input_layernorm.weight"] = blocks["attention_norm"]["scale"][i]
        state[at + "post_attention_layernorm.weight"] = blocks["mlp_norm"]["scale"][i]
    return state
