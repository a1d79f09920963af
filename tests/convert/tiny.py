"""Tiny models of every family, every parameter of size one, and their logits in `transformers`.

python tests/convert/tiny.py rewrites golden.json beside it (needs the extra `parity`); names of
models after it rewrite their entries alone.
"""

import functools
import json
import math
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from gptjax import convert, models

sys.path.insert(0, str(Path(__file__).parents[1]))
from flat_settings import changed

GOLDEN = Path(__file__).with_name("golden.json")
LLAMA = changed(
    models.ModelConfig(),
    vocab_size=13,
    depth=2,
    width=16,
    num_heads=4,
    num_kv_heads=2,
    mlp_width=20,
    seq_len=12,
    norm="rmsnorm",
    norm_eps=1e-6,
    positions="rotary",
    rope_base=500.0,
    mlp="swiglu",
    use_bias=False,
    tied_head=False,
)
GPT2 = changed(models.ModelConfig(), vocab_size=13, depth=2, width=12, num_heads=3, seq_len=12)


def llama(**changes):
    return changed(LLAMA, **changes)


def gpt2(**changes):
    return changed(GPT2, **changes)


LONG = {"rope_factor": 4.0, "rope_trained_len": 5, "head_dim": 8}
FACTORS = {
    "rope_short_factors": (1.0, 1.1, 1.3, 1.2),
    "rope_long_factors": (1.0, 2.0, 3.5, 4.5),
}
# name: (model type, config). Inputs have 12 tokens: more than trained lengths and windows below.
MODELS = {
    "gpt1": ("openai-gpt", gpt2(norm_place="post")),
    "gpt2": ("gpt2", gpt2(norm_eps=1e-4, mlp_width=20)),
    "gpt2-relu": ("gpt2", gpt2(mlp="relu")),
    "gpt2-gelu": ("gpt2", gpt2(mlp="gelu")),
    "llama": ("llama", llama()),
    "llama-tied": ("llama", llama(tied_head=True, num_kv_heads=4, head_dim=6)),
    "llama-geglu": ("llama", llama(mlp="geglu", num_kv_heads=1)),
    "linear": ("llama", llama(rope_scaling="linear", rope_factor=4.0)),
    "dynamic": ("llama", llama(rope_scaling="dynamic", **LONG | {"seq_len": 5})),
    "yarn": ("llama", llama(rope_scaling="yarn", rope_fast=2.0, rope_slow=0.05, **LONG)),
    "yarn-mscale": (
        "llama",
        llama(
            rope_scaling="yarn",
            rope_fast=2.0,
            rope_slow=0.05,
            rope_mscale=0.7,
            rope_mscale_all_dim=0.4,
            **LONG,
        ),
    ),
    "llama3": ("llama", llama(rope_scaling="llama3", rope_slow=0.5, rope_fast=2.0, **LONG)),
    "llama-biases": ("llama", llama(use_bias=True, bias_places=("qkv", "out", "mlp"))),
    "ministral": ("ministral", llama(depth=3, layer_pattern=("local", "global"), window=4)),
    "mistral": ("mistral", llama(layer_pattern=("local",), window=4)),
    "qwen2": (
        "qwen2",
        llama(use_bias=True, bias_places=("qkv",), layer_pattern=("global", "local"), window=4),
    ),
    "qwen3": ("qwen3", llama(qk_norm="shared", head_dim=6)),
    "gemma2": (
        "gemma2",
        llama(
            depth=3,
            norm_place="both",
            norm_plus_one=True,
            embedding_scale=0.0,
            head_dim=6,
            layer_pattern=("local", "global"),
            window=4,
            mlp="geglu_tanh",
            attention_scale=7**-0.5,
            attention_soft_cap=2.0,
            logit_soft_cap=3.0,
            tied_head=True,
        ),
    ),
    "phi3": ("phi3", llama(layer_pattern=("local",), window=5)),
    "longrope": (
        "phi3",
        llama(width=32, rope_scaling="longrope", **LONG | FACTORS | {"seq_len": 20}),
    ),
    "longrope-short": (
        "phi3",
        llama(
            width=32,
            rope_scaling="longrope",
            **LONG | FACTORS | {"seq_len": 64, "rope_trained_len": 16},
        ),
    ),
    "cohere": (
        "cohere",
        llama(
            norm="layernorm",
            rope_layout="interleaved",
            block="parallel_shared_norm",
            logit_scale=0.4,
            qk_norm="per_head",
            tied_head=True,
        ),
    ),
    "granite": (
        "granite",
        llama(embedding_scale=1.7, residual_scale=0.6, attention_scale=0.3, logit_scale=0.4),
    ),
    "gpt_neox": (
        "gpt_neox",
        gpt2(
            width=24,
            positions="rotary",
            rope_fraction=0.5,
            block="parallel",
            mlp="gelu",
            mlp_width=20,
            tied_head=False,
        ),
    ),
    "mixtral": (
        "mixtral",
        llama(
            mlp_pattern=("experts",),
            num_experts=4,
            experts_per_token=2,
            layer_pattern=("local",),
            window=4,
        ),
    ),
    "deepseek2": (
        "deepseek_v2",
        llama(
            depth=3,
            num_kv_heads=4,
            head_dim=6,
            kv_rank=6,
            q_rank=9,
            rope_dim=8,
            value_dim=5,
            rope_layout="interleaved",
            mlp_pattern=("experts",),
            dense_layers=1,
            num_experts=8,
            experts_per_token=3,
            expert_width=8,
            shared_experts=2,
            router="softmax",
            router_scale=2.5,
            router_groups=4,
            router_top_groups=2,
            rope_scaling="yarn",
            rope_fast=2.0,
            rope_slow=0.05,
            rope_factor=4.0,
            rope_trained_len=5,
            rope_mscale=0.7,
            rope_mscale_all_dim=0.4,
        ),
    ),
    "deepseek2-lite": (
        "deepseek_v2",
        llama(
            num_kv_heads=4,
            head_dim=6,
            kv_rank=6,
            rope_dim=4,
            value_dim=5,
            rope_layout="interleaved",
            mlp_pattern=("experts",),
            dense_layers=1,
            num_experts=4,
            experts_per_token=2,
            expert_width=8,
            shared_experts=1,
            router="softmax",
        ),
    ),
    "mamba": (
        "mamba",
        gpt2(
            depth=3,
            norm="rmsnorm",
            positions="none",
            use_bias=False,
            layer_pattern=("ssm",),
            mlp_pattern=("none",),
            ssm_state=5,
            ssm_conv=3,
            ssm_rank=2,
            num_heads=1,
        ),
    ),
    "mpt": ("mpt", gpt2(positions="alibi", mlp="gelu", use_bias=False)),
}


def tokens():
    return np.random.default_rng(1).integers(0, 13, (2, 12)).astype(np.int32)


def parameters(config):
    """Every leaf random: matrices keep their inputs' size, all others are of size one."""
    rng = np.random.default_rng(0)
    shapes = convert.tensor_map.shapes_of(models.init, config)

    def draw(path, leaf):
        numbers = rng.standard_normal(leaf.shape).astype(np.float32)
        name = path[-1].key
        if name.endswith("scale"):
            return numbers if config.norm_plus_one else 1.0 + numbers
        if name.endswith("bias") or name in ("tokens", "positions"):
            return numbers
        stacked = 1 + name.startswith("experts_") if path[0].key == "blocks" else 0
        inside = leaf.shape[stacked:] or (1,)  # a gate is one number
        fan_in = math.prod(inside[:2]) if name == "out" else inside[0]
        return np.float32(1.5 / math.sqrt(fan_in)) * numbers

    return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def program(config):
    return jax.jit(functools.partial(models.apply, config))


def logits(config, params, batch):
    return np.asarray(program(config)(params, batch))


def their_logits(folder, batch, mask=None):
    """float32 logits of a folder in `transformers`; `mask` is 0 at padding."""
    import torch
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    problems = {k: v for k, v in report.items() if v and k != "error_msgs"}
    assert not problems, problems
    marks = {} if mask is None else {"attention_mask": torch.tensor(mask)}
    with torch.no_grad():
        ids = torch.tensor(batch, dtype=torch.long)
        return model.eval()(ids, use_cache=False, **marks).logits.numpy()


def in_transformers(model_type, config, params, batch=None, mask=None):
    """The logits of a model of ours, written as one of that type and loaded there."""
    with tempfile.TemporaryDirectory() as folder:
        convert.to_huggingface(config, params, folder, model_type=model_type)
        return their_logits(folder, tokens() if batch is None else batch, mask)


def reference(name, batch=None, mask=None):
    model_type, config = MODELS[name]
    return in_transformers(model_type, config, parameters(config), batch, mask)


def short():
    """The second text without its last five tokens."""
    return tokens()[1:, :7]


def padded():
    """(both texts, the second cut to seven tokens and padded; the mask of what is real)."""
    batch, mask = tokens(), np.ones((2, 12), np.int64)
    batch[1, 7:], mask[1, 7:] = 0, 0
    return batch, mask


def stored_places(array):
    """Five logits at the first, a middle and the last position."""
    return np.stack([array[0, 0, :5], array[1, 6, :5], array[0, -1, :5]])


def error(got, wanted):
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def main():
    golden = json.loads(GOLDEN.read_text()) if sys.argv[1:] else {}
    for name in sys.argv[1:] or MODELS:
        model_type, config = MODELS[name]
        wanted = reference(name)
        off = error(logits(config, parameters(config), tokens()), wanted)
        print(f"{name:16} {model_type:12} {off:.1e}", flush=True)
        golden[name] = stored_places(wanted).astype(float).round(5).tolist()
        last = reference(name, short())[0, -1, :5]
        golden[name].append(last.astype(float).round(5).tolist())
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(golden[name])}" for name in MODELS)
    GOLDEN.write_text("{\n" + rows + "\n}\n")


if __name__ == "__main__":
    main()
