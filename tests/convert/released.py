"""Settings of released config.json files, as small facts: what varies by size in tables.

LEFTOVERS stand in the files beside them and change no logit in `transformers`.
"""

LEFTOVERS = {
    "_name_or_path": "somewhere/else",
    "_num_labels": 1,
    "architectures": ["AsReleased"],
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_own.OwnConfig"},
    "bos_token_id": 1,
    "cache_implementation": "hybrid",
    "do_sample": True,
    "eos_token_id": [1, 107],
    "gradient_checkpointing": False,
    "id2label": {"0": "LABEL_0"},
    "initializer_range": 0.02,
    "is_llama_config": True,
    "max_length": 50,
    "max_sequence_length": 2048,
    "model_max_length": 131072,
    "pad_token_id": 0,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "temperature": 0.7,
    "tokenizer_name": "somewhere/else",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.1",
    "unsloth_fixed": True,
    "use_cache": True,
}


def table(common, names, rows):
    """{name: attributes} of sizes that differ in `names`."""
    keys = names.split()
    return {name: {**common, **dict(zip(keys, row, strict=True))} for name, row in rows.items()}


SIZES = (
    "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
    "max_position_embeddings"
)
LLAMA1 = {"model_type": "llama", "hidden_act": "silu", "vocab_size": 32000, "rms_norm_eps": 1e-6}
LLAMA2 = LLAMA1 | {"rms_norm_eps": 1e-5, "rope_scaling": None, "tie_word_embeddings": False}
LLAMA3 = LLAMA2 | {"vocab_size": 128256, "rope_theta": 5e5, "attention_bias": False}


def llama31(factor, **more):
    scaling = {
        "factor": factor,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    }
    return LLAMA3 | {"rope_scaling": scaling, "mlp_bias": False, "pretraining_tp": 1} | more


QWEN25 = {
    "model_type": "qwen2",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "sliding_window": 32768,
    "use_mrope": False,
    "use_sliding_window": False,
}
GEMMA2 = {
    "model_type": "gemma2",
    "attention_bias": False,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "sliding_window_size": 4096,
    "use_bidirectional_attention": None,
    "vocab_size": 256000,
}
GPT2 = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "resid_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5,
    "n_ctx": 1024,
    "n_positions": 1024,
    "n_special": 0,
    "output_past": True,
    "predict_special_tokens": True,
    "summary_activation": None,
    "summary_type": "cls_index",
    "vocab_size": 50257,
}
MIXTRAL = {
    "model_type": "mixtral",
    "hidden_act": "silu",
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
    "output_router_logits": False,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "router_aux_loss_coef": 0.02,
    "sliding_window": None,
    "vocab_size": 32000,
}
PHI3 = {
    "model_type": "phi3",
    "embd_pdrop": 0.0,
    "hidden_act": "silu",
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "sliding_window": 2047,
    "tie_word_embeddings": False,
    "vocab_size": 32064,
}
MAMBA = {
    "model_type": "mamba",
    "conv_kernel": 4,
    "expand": 2,
    "fused_add_norm": True,
    "hidden_act": "silu",
    "layer_norm_epsilon": 1e-5,
    "pad_vocab_size_multiple": 8,
    "rescale_prenorm_residual": False,
    "residual_in_fp32": True,
    "rms_norm": True,
    "ssm_cfg": {},
    "state_size": 16,
    "time_step_floor": 0.0001,
    "time_step_init_scheme": "random",
    "use_bias": False,
    "use_conv_bias": True,
    "vocab_size": 50280,
}
PRESETS = {  # by the names of our presets, which they must give
    "llama-7b": LLAMA1 | dict(zip(SIZES.split(), (4096, 11008, 32, 32, 32, 2048), strict=True)),
    **table(
        LLAMA2 | {"pretraining_tp": 1},
        SIZES,
        {
            "llama2-7b": (4096, 11008, 32, 32, 32, 4096),
            "llama2-13b": (5120, 13824, 40, 40, 40, 4096),
            "llama2-70b": (8192, 28672, 80, 64, 8, 4096),
        },
    ),
    **table(
        LLAMA3,
        SIZES,
        {
            "llama3-8b": (4096, 14336, 32, 32, 8, 8192),
            "llama3-70b": (8192, 28672, 80, 64, 8, 8192),
        },
    ),
    **table(
        llama31(8.0),
        SIZES,
        {
            "llama3.1-8b": (4096, 14336, 32, 32, 8, 131072),
            "llama3.1-70b": (8192, 28672, 80, 64, 8, 131072),
            "llama3.1-405b": (16384, 53248, 126, 128, 8, 131072),
        },
    ),
    **table(
        llama31(32.0, tie_word_embeddings=True),
        f"{SIZES} head_dim",
        {
            "llama3.2-1b": (2048, 8192, 16, 32, 8, 131072, 64),
            "llama3.2-3b": (3072, 8192, 28, 24, 8, 131072, 128),
        },
    ),
    **table(
        {"model_type": "mistral", "hidden_act": "silu", "rms_norm_eps": 1e-5},
        f"{SIZES} sliding_window rope_theta vocab_size head_dim",
        {
            "mistral-7b": (4096, 14336, 32, 32, 8, 32768, 4096, 10000.0, 32000, None),
            "mistral-large-2": (12288, 28672, 88, 96, 8, 131072, None, 1e6, 32768, 128),
        },
    ),
    **table(
        QWEN25,
        f"{SIZES} vocab_size tie_word_embeddings max_window_layers",
        {
            "qwen2.5-0.5b": (896, 4864, 24, 14, 2, 32768, 151936, True, 24),
            "qwen2.5-1.5b": (1536, 8960, 28, 12, 2, 131072, 151936, True, 28),
            "qwen2.5-3b": (2048, 11008, 36, 16, 2, 32768, 151936, True, 36),
            "qwen2.5-7b": (3584, 18944, 28, 28, 4, 131072, 152064, False, 28),
            "qwen2.5-14b": (5120, 13824, 48, 40, 8, 131072, 152064, False, 48),
            "qwen2.5-32b": (5120, 27648, 64, 40, 8, 131072, 152064, False, 64),
            "qwen2.5-72b": (8192, 29568, 80, 64, 8, 131072, 152064, False, 80),
        },
    ),
    **table(
        GEMMA2,
        f"{SIZES} head_dim query_pre_attn_scalar",
        {
            "gemma2-2b": (2304, 9216, 26, 8, 4, 8192, 256, 256),
            "gemma2-9b": (3584, 14336, 42, 16, 8, 8192, 256, 256),
            "gemma2-27b": (4608, 36864, 46, 32, 16, 8192, 128, 144),
        },
    ),
    **table(
        GPT2,
        "n_embd n_layer n_head",
        {
            "gpt2": (768, 12, 12),
            "gpt2-medium": (1024, 24, 16),
            "gpt2-large": (1280, 36, 20),
            "gpt2-xl": (1600, 48, 25),
        },
    ),
    "gpt1": {
        "model_type": "openai-gpt",
        "afn": "gelu",
        "layer_norm_epsilon": 1e-5,
        "n_ctx": 512,
        "n_positions": 512,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "summary_type": "cls_index",
        "vocab_size": 40478,
    },
    **table(
        MIXTRAL,
        SIZES,
        {
            "mixtral-8x7b": (4096, 14336, 32, 32, 8, 32768),
            "mixtral-8x22b": (6144, 16384, 56, 48, 8, 65536),
        },
    ),
    **table(
        PHI3,
        SIZES,
        {
            "phi3-mini": (3072, 8192, 32, 32, 32, 4096),
            "phi3-medium": (5120, 17920, 40, 40, 10, 4096),
        },
    ),
    "command-r-plus": {
        "model_type": "cohere",
        "hidden_act": "silu",
        "layer_norm_eps": 1e-5,
        "logit_scale": 0.8333333333333334,
        "rope_theta": 75000000.0,
        "use_qk_norm": True,
        "vocab_size": 256000,
        **dict(zip(SIZES.split(), (12288, 33792, 64, 96, 8, 131072), strict=True)),
    },
    **table(
        MAMBA,
        "hidden_size intermediate_size d_model num_hidden_layers n_layer time_step_rank",
        {
            "mamba-130m": (768, 1536, 768, 24, 24, 48),
            "mamba-370m": (1024, 2048, 1024, 48, 48, 64),
            "mamba-2.8b": (2560, 5120, 2560, 64, 64, 160),
        },
    ),
}
OTHERS = {  # (attributes, settings that they must give)
    "distilgpt2": (GPT2 | {"n_embd": 768, "n_layer": 6, "n_head": 12}, {"depth": 6}),
    "command-r": (
        {
            "model_type": "cohere",
            "hidden_act": "silu",
            "layer_norm_eps": 1e-5,
            "logit_scale": 0.0625,
            "pretraining_tp": 1,
            "rope_theta": 8000000.0,
            "use_qk_norm": False,
            "vocab_size": 256000,
            **dict(zip(SIZES.split(), (8192, 22528, 40, 64, 64, 8192), strict=True)),
        },
        {"qk_norm": "none", "logit_scale": 0.0625},
    ),
    "mistral-7b-v0.3": (
        {
            "model_type": "mistral",
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "sliding_window": None,
            "vocab_size": 32768,
            **dict(zip(SIZES.split(), (4096, 14336, 32, 32, 8, 32768), strict=True)),
        },
        {"window": 0, "layer_pattern": ("global",)},
    ),
    "phi3-mini-128k": (
        PHI3
        | dict(zip(SIZES.split(), (3072, 8192, 32, 32, 32, 131072), strict=True))
        | {
            "rope_scaling": {
                "long_factor": [1.0 + i for i in range(48)],
                "short_factor": [1.05] * 48,
                "type": "longrope",
            },
            "sliding_window": 262144,
        },
        {"window": 262144, "mlp": "swiglu"},
    ),
    "pythia-160m": (
        {
            "model_type": "gpt_neox",
            "hidden_act": "gelu",
            "hidden_size": 768,
            "intermediate_size": 3072,
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": 2048,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "rotary_emb_base": 10000,
            "rotary_pct": 0.25,
            "tie_word_embeddings": False,
            "use_parallel_residual": True,
            "vocab_size": 50304,
        },
        {"block": "parallel"},
    ),
    "mpt-7b": (
        {
            "model_type": "mpt",
            "attn_config": {
                "alibi": True,
                "alibi_bias_max": 8,
                "attn_impl": "torch",
                "attn_pdrop": 0,
                "attn_type": "multihead_attention",
                "attn_uses_sequence_id": False,
                "clip_qkv": None,
                "prefix_lm": False,
                "qk_ln": False,
                "softmax_scale": None,
            },
            "d_model": 4096,
            "emb_pdrop": 0,
            "embedding_fraction": 1.0,
            "expansion_ratio": 4,
            "init_config": {"init_nonlinearity": "relu", "verbose": 0},
            "init_device": "cpu",
            "learned_pos_emb": True,
            "logit_scale": None,
            "max_seq_len": 2048,
            "n_heads": 32,
            "n_layers": 32,
            "no_bias": True,
            "norm_type": "low_precision_layernorm",
            "resid_pdrop": 0,
            "verbose": 0,
            "vocab_size": 50432,
        },
        {"positions": "alibi", "use_bias": False},
    ),
    "granite-3.0-2b": (
        {
            "model_type": "granite",
            "attention_bias": False,
            "attention_multiplier": 0.015625,
            "embedding_multiplier": 12.0,
            "hidden_act": "silu",
            "logits_scaling": 8.0,
            "mlp_bias": False,
            "residual_multiplier": 0.22,
            "rms_norm_eps": 1e-5,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
            "vocab_size": 49155,
            **dict(zip(SIZES.split(), (2048, 8192, 40, 32, 8, 4096), strict=True)),
        },
        {"residual_scale": 0.22, "logit_scale": 0.125},
    ),
    "qwen3-8b, extended": (
        QWEN25
        | dict(zip(SIZES.split(), (4096, 12288, 36, 32, 8, 131072), strict=True))
        | {
            "model_type": "qwen3",
            "head_dim": 128,
            "vocab_size": 151936,
            "sliding_window": None,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32768,
                "attn_factor": 0.8782488562869419,  # read by no class of `transformers`
            },
        },
        {"qk_norm": "shared"},
    ),
}
