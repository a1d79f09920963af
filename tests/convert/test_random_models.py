"""Random models both ways: ours written and run by `transformers`, theirs saved and run by us.

Needs the extra `parity`; a few draws always, hundreds with `-m slow`.
"""

import json
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from flat_settings import changed

from gptjax import convert
from gptjax.convert.config_json import write_attributes
from gptjax.errors import UserError
from gptjax.fields import flat, leaves, make, nested
from gptjax.models import ModelConfig, validate

sys.path.insert(0, str(Path(__file__).parent))
import tiny

TOLERANCE = 1e-5
# Settings that change shapes too much for twelve tokens, or nothing that is compared.
FIXED = {"family", "preset", "vocab_size", "depth", "compute_dtype", "remat", "layers", "width"}
FIXED |= {"init_scale", "hidden_init_scale", "attention_impl", "mixer.ssm.scan"}
# Numbers to draw from where a setting has no choices, by the end of its name.
NUMBERS = {
    "num_heads": (2, 4),
    "num_kv_heads": (0, 1, 2),
    "head_dim": (0, 4, 6, 8),
    "mlp_width": (0, 20),
    "seq_len": (5, 12, 64),
    "norm_eps": (1e-6, 1e-5, 1e-3),
    "window": (0, 4),
    "base": (500.0, 10_000.0),
    "fraction": (0.5, 1.0),
    "factor": (1.0, 2.5),
    "trained_len": (0, 5),
    "slow": (0.5, 1.0),
    "fast": (2.0, 32.0),
    "mscale": (0.0, 0.7),
    "mscale_all_dim": (0.0, 0.4),
    "scale": (0.0, 0.3, 1.0),
    "cap": (0.0, 2.0),
    "experts.count": (0, 4),
    "per_token": (1, 2),
    "shared": (0, 1),
    "dense_layers": (0, 1),
    "rank": (0, 6),
    "mlp_limit": (0.0, 1.0),
    "state": (5,),
    "conv": (3,),
}


def value_of(leaf, rng):
    """A random value of a setting, or None to leave it."""
    if leaf.hint is bool:
        return rng.random() < 0.5
    choices = tuple(leaf.field.metadata.get("choices") or ())
    if choices and "tuple" in str(leaf.hint):
        return tuple(rng.choices(choices, k=rng.randint(1, 2)))
    if choices:
        return rng.choice(choices)
    end = max((name for name in NUMBERS if leaf.key.endswith(name)), key=len, default=None)
    return None if end is None else rng.choice(NUMBERS[end])


def our_draw(seed):
    """A valid config: a tiny model of a family with up to four settings drawn anew."""
    rng = random.Random(seed)
    free = [leaf for leaf in leaves(ModelConfig) if leaf.key not in FIXED]
    while True:
        _, config = tiny.MODELS[rng.choice(sorted(tiny.MODELS))]
        changes = {leaf.key: value_of(leaf, rng) for leaf in rng.sample(free, rng.randint(0, 4))}
        changes = {key: value for key, value in changes.items() if value is not None}
        try:
            config = make(ModelConfig, nested({**flat(config), **changes}), "model")
            validate(config)
            return config
        except UserError:
            continue


def exported_error(config, model_type):
    """The relative error of logits, or None where the writing was refused."""
    with tempfile.TemporaryDirectory() as folder:
        params = tiny.parameters(config)
        try:
            convert.to_huggingface(config, params, folder, model_type=model_type)
        except UserError:
            return None
        batch = (
            tiny.tokens()[:, : config.seq_len] if config.positions == "learned" else tiny.tokens()
        )
        if config.positions == "alibi":
            batch = batch[:, : config.seq_len]
        got = tiny.logits(config, params, batch)
        read, again = convert.from_huggingface(folder)
        assert tiny.error(tiny.logits(read, again, batch), got) < TOLERANCE
        return tiny.error(got, tiny.their_logits(folder, batch))


def check_exports(seeds):
    """How many were written; each of them equal in `transformers`."""
    written = 0
    for seed in seeds:
        config = our_draw(seed)
        off = exported_error(config, "")
        assert off is None or off < TOLERANCE, (seed, off, config)
        written += off is not None
    return written


def test_ours_are_written_right_or_refused():
    pytest.importorskip("transformers")
    assert check_exports(range(5)) >= 1


@pytest.mark.slow
def test_three_hundred_of_ours_are_written_right_or_refused():
    pytest.importorskip("transformers")
    assert check_exports(range(300)) >= 60


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


def gemma2(rng):
    given = llama_like(rng, head_dim=rng.choice((4, 6)))
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
    given = llama_like(rng, logit_scale=rng.choice((0.0625, 0.4)), use_qk_norm=rng.random() < 0.5)
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
    given["use_parallel_residual"] = rng.random() < 0.5
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
    return llama_like(
        rng, attention_multiplier=0.3, logits_scaling=rng.choice((1.0, 4.0)), **numbers
    )


THEIRS = {
    "llama": lambda rng: llama_like(
        rng, **rng.choice(({}, {"head_dim": 6}, {"pretraining_tp": 2}))
    ),
    "mistral": lambda rng: llama_like(rng, sliding_window=rng.choice((None, 4))),
    "qwen2": qwen2,
    "qwen3": lambda rng: qwen2(rng, head_dim=rng.choice((4, 8))),
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


def imported_error(model_type, seed):
    """The relative error of our logits on a folder of a random model that `transformers` saved."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    given = THEIRS[model_type](random.Random(seed))
    config = AutoConfig.for_model(model_type, **given)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
    with torch.no_grad():
        for name, leaf in model.named_parameters():
            wide = leaf.ndim > 1 and "embed" not in name
            leaf.normal_(0.0, 1.5 / leaf.shape[-1] ** 0.5 if wide else 1.0)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        said = json.loads((Path(folder) / "config.json").read_text())
        ours, params = convert.from_huggingface(folder)
        got = tiny.logits(ours, params, tiny.tokens())
        off = tiny.error(got, tiny.their_logits(folder, tiny.tokens()))
    assert np.isfinite(off), (model_type, seed, said)
    return off


@pytest.mark.parametrize("model_type", THEIRS)
def test_theirs_are_read_right(model_type):
    pytest.importorskip("transformers")
    assert imported_error(model_type, 0) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("model_type", THEIRS)
def test_twenty_of_theirs_are_read_right(model_type):
    pytest.importorskip("transformers")
    for seed in range(1, 21):
        assert imported_error(model_type, seed) < TOLERANCE, seed


def test_every_family_of_transformers_is_drawn():
    assert set(THEIRS) == set(convert.FAMILIES) - {"phi3small"}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", {"rope_layout": "interleaved"}),
        ("llama", {"rope_fraction": 0.5}),
        ("mistral", {"rope_fraction": 0.5}),
        ("cohere", {"rope_layout": "half"}),
        ("gemma2", {"attention_scale": 0.3}),
        ("deepseek2-lite", {"attention_scale": 6**-0.5}),
        ("gpt2", {"attention_scale": 0.4}),
        ("phi3", {"rope_scaling": "linear", "rope_factor": 2.0}),
    ],
)
def test_a_setting_that_a_family_cannot_say_is_refused(name, changes):
    """Each of these was written as another function."""
    model_type, config = tiny.MODELS[name]
    with pytest.raises(UserError, match="cannot be written"):
        write_attributes(convert.FAMILIES[model_type], changed(config, **changes))


def test_another_family_that_can_say_it_is_chosen():
    half = changed(tiny.LLAMA, rope_fraction=0.5)
    assert convert.family_of(half).model_type == "phi3"
