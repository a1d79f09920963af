"""Random models of every family of `transformers`, saved by it, with settings that it allows.

Needs torch and any `transformers`, and nothing of ours: other versions of it run this file,

    python tests/convert/their_models.py FOLDER

which writes a folder of each family that the version knows and draw, with its logits on our tokens.
"""

import json
import random
import sys
from pathlib import Path

import numpy as np

DRAWS = 6


def rope(rng, kinds, head_dim, length):
    """Random rotary settings of one of the kinds, as `rope_parameters` or in the older spelling."""
    kind = rng.choice(kinds)
    given = {"rope_type": kind}
    if kind != "default":
        given["factor"] = rng.choice((1.5, 4.0))
    if kind in ("yarn", "longrope", "llama3"):
        given["original_max_position_embeddings"] = max(2, length // 2)
    if kind == "yarn":
        given |= {"beta_fast": 2.0, "beta_slow": 0.05} if rng.random() < 0.5 else {}
        given |= {"mscale": 0.7, "mscale_all_dim": 0.4} if rng.random() < 0.5 else {}
        given |= {"attention_factor": 1.2} if rng.random() < 0.3 else {}
    if kind == "llama3":
        given |= {"low_freq_factor": 0.5, "high_freq_factor": 2.0}
    if kind == "longrope":
        pairs = head_dim // 2
        given["short_factor"] = [1.0 + 0.1 * i for i in range(pairs)]
        given["long_factor"] = [1.0 + 0.7 * i for i in range(pairs)]
    return given


ALL = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")


def decoder(rng, acts=("silu", "gelu", "gelu_pytorch_tanh", "gelu_new", "relu")):
    """What all families after Llama have."""
    heads = rng.choice((2, 4))
    return {
        "vocab_size": 13,
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": rng.choice((1, 2, 3)),
        "num_attention_heads": heads,
        "num_key_value_heads": rng.choice((1, 2, heads)),
        "hidden_act": rng.choice(acts),
        "max_position_embeddings": rng.choice((6, 12, 64)),
        "rms_norm_eps": rng.choice((1e-6, 1e-3)),
        "tie_word_embeddings": rng.random() < 0.5,
        "pad_token_id": None,
    }


def llama_like(rng, kinds=ALL, **more):
    given = {**decoder(rng), **more}
    head_dim = given.get("head_dim") or 16 // given["num_attention_heads"]
    base = {"rope_theta": rng.choice((500.0, 10_000.0))}
    scaling = rope(rng, kinds, head_dim, given["max_position_embeddings"])
    if rng.random() < 0.5:
        return {**given, "rope_parameters": {**scaling, **base}}
    return {**given, **base, "rope_scaling": scaling}


def qwen2(rng, **more):
    given = llama_like(rng, **more)
    if rng.random() < 0.5:
        given |= {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    return given


def named_layers(rng):
    """Ministral, by its own name or as a Mistral with layer_types."""
    given = llama_like(rng, sliding_window=4, head_dim=rng.choice((4, 8)))
    kinds = ("full_attention", "sliding_attention")
    return given | {"layer_types": [rng.choice(kinds) for _ in range(given["num_hidden_layers"])]}


def some(rng, *names):
    """Switches on or off."""
    return {name: rng.random() < 0.5 for name in names}


def gemma2(rng):
    given = llama_like(rng, head_dim=rng.choice((4, 6)), **some(rng, "attention_bias"))
    given["hidden_activation"] = given.pop("hidden_act")
    caps = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": None}
    return {**given, "query_pre_attn_scalar": rng.choice((4, 7)), "sliding_window": 4, **caps}


def phi3(rng):
    fraction = rng.choice((1.0, 0.5))
    given = llama_like(
        rng, kinds=("default",), partial_rotary_factor=fraction, num_attention_heads=2
    )
    given["num_key_value_heads"] = rng.choice((1, 2))
    if rng.random() < 0.6:
        given.pop("rope_parameters", None)
        pairs = int(8 * fraction) // 2
        factors = {"short_factor": [1.1] * pairs, "long_factor": [2.0] * pairs}
        factors["original_max_position_embeddings"] = 4096  # asked for and not read, there
        given["rope_scaling"] = {"type": rng.choice(("su", "yarn", "longrope")), **factors}
        given["original_max_position_embeddings"] = rng.choice((5, 20))
        given["max_position_embeddings"] = 40
    return {**given, "sliding_window": rng.choice((None, 5))}


def cohere(rng):
    switches = some(rng, "use_qk_norm", "attention_bias")
    given = llama_like(rng, logit_scale=rng.choice((0.0625, 0.4)), **switches)
    return given | {"layer_norm_eps": given.pop("rms_norm_eps")}


def gpt2(rng):
    return {
        "vocab_size": 13,
        "n_positions": 12,
        "n_embd": 12,
        "n_layer": rng.choice((1, 2)),
        "n_head": rng.choice((2, 3)),
        "n_inner": rng.choice((None, 20)),
        "activation_function": rng.choice(("gelu_new", "gelu", "relu", "silu", "quick_gelu")),
        "layer_norm_epsilon": rng.choice((1e-5, 1e-3)),
        "scale_attn_weights": rng.random() < 0.5,
        "reorder_and_upcast_attn": rng.random() < 0.5,
        "tie_word_embeddings": rng.random() < 0.5,
    }


def gpt1(rng):
    names = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "layer_norm_epsilon")
    given = gpt2(rng)
    return {**{k: given[k] for k in names}, "afn": rng.choice(("gelu", "relu", "swish", "silu"))}


def gpt_neox(rng):
    given = decoder(rng, ("gelu", "gelu_new", "relu", "silu"))
    given |= {"layer_norm_eps": given.pop("rms_norm_eps"), "num_attention_heads": 2}
    del given["num_key_value_heads"]
    given |= some(rng, "use_parallel_residual", "attention_bias")
    return given | {"rotary_pct": rng.choice((0.25, 0.5, 1.0)), "rotary_emb_base": 500.0}


def mpt(rng):
    return {
        "vocab_size": 13,
        "max_seq_len": 16,
        "d_model": 24,
        "n_layers": 2,
        "n_heads": rng.choice((2, 3, 4)),
        "layer_norm_epsilon": rng.choice((1e-5, 1e-3)),
        "attn_config": {"softmax_scale": rng.choice((None, 0.3)), "alibi_bias_max": 4},
        "tie_word_embeddings": True,
    }


def mixtral(rng):
    experts = {
        "head_dim": rng.choice((4, 8)),
        "num_local_experts": 4,
        "num_experts_per_tok": rng.choice((1, 2)),
    }
    return llama_like(rng, sliding_window=rng.choice((None, 4)), **experts)


def deepseek(rng):
    given = llama_like(rng, kinds=("default", "yarn"), num_attention_heads=4, num_key_value_heads=4)
    inner = given.get("rope_parameters") or given.get("rope_scaling")
    inner.pop("attention_factor", None)
    return given | {
        "rms_norm_eps": 1e-6,
        "kv_lora_rank": 6,
        "q_lora_rank": rng.choice((None, 9)),
        "qk_nope_head_dim": 6,
        "qk_rope_head_dim": 4,
        "v_head_dim": 5,
        "n_routed_experts": 4,
        "n_shared_experts": rng.choice((1, 2)),
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
        "first_k_dense_replace": rng.choice((0, 1)),
        "routed_scaling_factor": rng.choice((1.0, 2.5)),
        "norm_topk_prob": rng.random() < 0.5,
        **rng.choice(({}, {"topk_method": "group_limited_greedy", "n_group": 2, "topk_group": 1})),
    }


def mamba(rng):
    return {
        "vocab_size": 13,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "state_size": 5,
        "expand": rng.choice((1, 2)),
        "conv_kernel": 3,
        "time_step_rank": rng.choice(("auto", 2)),
        "layer_norm_epsilon": rng.choice((1e-5, 1e-3)),
        "tie_word_embeddings": rng.random() < 0.5,
    }


def granite(rng):
    numbers = {f"{n}_multiplier": rng.choice((0.3, 1.0)) for n in ("embedding", "residual")}
    numbers |= some(rng, "attention_bias", "mlp_bias")
    return llama_like(
        rng, attention_multiplier=0.3, logits_scaling=rng.choice((1.0, 4.0)), **numbers
    )


THEIRS = {
    "llama": lambda rng: llama_like(
        rng,
        **rng.choice(({}, {"head_dim": 6}, {"pretraining_tp": 2})),
        **some(rng, "attention_bias", "mlp_bias"),
    ),
    "mistral": lambda rng: llama_like(rng, sliding_window=rng.choice((None, 4))),
    "qwen2": qwen2,
    "ministral": named_layers,
    "qwen3": lambda rng: qwen2(rng, head_dim=rng.choice((4, 8)), **some(rng, "attention_bias")),
    "granite": granite,
    "gemma2": gemma2,
    "phi3": phi3,
    "cohere": cohere,
    "gpt2": gpt2,
    "openai-gpt": gpt1,
    "gpt_neox": gpt_neox,
    "mpt": mpt,
    "mixtral": mixtral,
    "deepseek_v2": deepseek,
    "mamba": mamba,
}


def save(model_type, given, seed, folder):
    """Save a model with random weights; the model."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **given)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
    with torch.no_grad():
        for name, leaf in model.named_parameters():
            wide = leaf.ndim > 1 and "embed" not in name
            leaf.normal_(0.0, 1.5 / leaf.shape[-1] ** 0.5 if wide else 1.0)
    model.save_pretrained(folder)
    return model


def version():
    import transformers

    return tuple(map(int, transformers.__version__.split(".")[:2]))


def older(given):
    """The settings as versions before 5 take them: `rope_scaling` and `rope_theta`."""
    given = dict(given)
    inner = dict(given.pop("rope_parameters", None) or given.pop("rope_scaling", None) or {})
    base = {"rope_theta": inner.pop("rope_theta")} if "rope_theta" in inner else {}
    kind = inner.get("rope_type", inner.get("type", "default"))
    return {**given, **base, "rope_scaling": None if kind == "default" else inner}


def legal(given):
    """Whether this version runs the settings: 4.40 has linear and dynamic scaling alone."""
    scaling = given["rope_scaling"] or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    return version() >= (4, 45) or kind in ("default", "linear", "dynamic", "su")


def known(model_type, given):
    """What the version's class has: it would keep any other name in the file and not read it."""
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[model_type]()
    given = {name: value for name, value in given.items() if hasattr(config, name)}
    if getattr(config, "head_dim", 1) is None and not given.get("head_dim"):
        # 4.57 multiplies it, None or not.
        given["head_dim"] = given["hidden_size"] // given["num_attention_heads"]
    scaling = given.get("rope_scaling")
    if scaling and version() < (4, 43) and "rope_type" in scaling:
        given["rope_scaling"] = {"type": scaling["rope_type"], "factor": scaling["factor"]}
    if model_type == "phi3" and scaling:
        scaling.pop("original_max_position_embeddings", None)  # three fields, there
    return given


def main(folder):
    import torch
    from transformers import CONFIG_MAPPING

    tokens = np.random.default_rng(1).integers(0, 13, (2, 12))
    for model_type in sorted(set(THEIRS) & set(CONFIG_MAPPING)):
        rng, saved = random.Random(7), 0
        while saved < DRAWS:
            given = older(THEIRS[model_type](rng))
            if not legal(given) or given.pop("pretraining_tp", 1) > 1:  # cuts logits, there
                continue
            at = Path(folder) / f"{model_type}-{saved}"
            model = save(model_type, known(model_type, given), saved, at)
            with torch.no_grad():
                logits = model.eval()(torch.tensor(tokens)).logits
            np.savez(at / "logits.npz", logits=logits.numpy(), tokens=tokens)
            saved += 1
    (Path(folder) / "version.json").write_text(json.dumps(version()))


if __name__ == "__main__":
    main(sys.argv[1])
