"""GPT-1 and GPT-2."""

import dataclasses

from gptjax.convert.families.table import PLAIN, Attribute, Family, Tensor, linear, norm, sizes

_GPT2_ATTRIBUTES = (
    *sizes(
        vocab_size="vocab_size",
        seq_len="n_positions",
        width="n_embd",
        depth="n_layer",
        num_heads="n_head",
    ),
    Attribute("layer_norm_epsilon", "norm_eps", 1e-5),
    Attribute("tie_word_embeddings", "tied_head", True),
)
_GPT2_BLOCK = (
    *norm("h.{i}.ln_1", "attention_norm", bias=True),
    *linear(
        "h.{i}.attn.c_attn",
        "attention/query",
        "attention/key",
        "attention/value",
        bias=True,
        transposed=False,
    ),
    *linear("h.{i}.attn.c_proj", "attention/out", bias=True, inputs=2, transposed=False),
    *norm("h.{i}.ln_2", "mlp_norm", bias=True),
    *linear("h.{i}.mlp.c_fc", "mlp/up", bias=True, transposed=False),
    *linear("h.{i}.mlp.c_proj", "mlp/down", bias=True, transposed=False),
)
GPT2 = Family(
    "gpt2",
    "GPT2LMHeadModel",
    "transformer.",
    (
        *_GPT2_ATTRIBUTES,
        Attribute("n_inner", "mlp_width", None, lambda n: n or 0, lambda n: n or None),
        Attribute("activation_function", "mlp", "gelu_new", PLAIN),
        Attribute(
            "scale_attn_weights",
            "attention_scale",
            True,
            lambda used: 0.0 if used else 1.0,
            lambda scale: scale != 1.0,
        ),
    ),
    {},
    (
        Tensor("wte.weight", ("embed/tokens",), False),
        Tensor("wpe.weight", ("embed/positions",), False),
        *norm("ln_f", "final_norm", bias=True),
        *_GPT2_BLOCK,
    ),
    only={
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    aliases={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    ignored=(r"\.attn\.(masked_)?bias$",),
)
GPT1 = dataclasses.replace(
    GPT2,
    model_type="openai-gpt",
    architecture="OpenAIGPTLMHeadModel",
    attributes=(
        *_GPT2_ATTRIBUTES,
        # `transformers` calls the tanh form "gelu" for this model alone.
        Attribute(
            "afn",
            "mlp",
            "gelu",
            {"gelu": "gelu_tanh", "relu": "relu", "swish": "silu", "silu": "silu"},
        ),
    ),
    always={"norm_place": "post", "mlp_width": 0},
    only={},
    tensors=(
        Tensor("tokens_embed.weight", ("embed/tokens",), False),
        Tensor("positions_embed.weight", ("embed/positions",), False),
        *_GPT2_BLOCK,
    ),
    ignored=(r"\.attn\.bias$", r"position_ids$"),
)
