"""GPT-NeoX and Pythia."""

from typing import Any

from gptjax.convert.families.table import (
    PLAIN,
    Attribute,
    Biases,
    Family,
    Rope,
    Tensor,
    linear,
    norm,
    sizes,
)
from gptjax.errors import UserError


def _plain_heads(attributes: dict[str, Any]) -> dict[str, Any]:
    """A head_dim would change the rotary angles and not the heads."""
    head = attributes.get("head_dim")
    if head and head * attributes["num_attention_heads"] != attributes["hidden_size"]:
        raise UserError(
            f"config.json has head_dim={head}, and heads of a gpt_neox have no width of their own"
        )
    return attributes


NEOX = Family(
    "gpt_neox",
    "GPTNeoXForCausalLM",
    "gpt_neox.",
    (
        *sizes(
            vocab_size="vocab_size",
            width="hidden_size",
            mlp_width="intermediate_size",
            depth="num_hidden_layers",
            num_heads="num_attention_heads",
        ),
        Attribute("max_position_embeddings", "seq_len", 2048),
        Attribute("layer_norm_eps", "norm_eps", 1e-5),
        Attribute("tie_word_embeddings", "tied_head", False),
        Attribute("hidden_act", "mlp", "gelu", PLAIN),
        Attribute("use_parallel_residual", "block", True, {True: "parallel", False: "sequential"}),
    ),
    {"positions": "rotary"},
    (
        Tensor("embed_in.weight", ("embed/tokens",), False),
        *norm("final_layer_norm", "final_norm", bias=True),
        *norm("layers.{i}.input_layernorm", "attention_norm", bias=True),
        *norm("layers.{i}.post_attention_layernorm", "mlp_norm", bias=True),
        *linear(
            "layers.{i}.attention.query_key_value",
            "attention/query",
            "attention/key",
            "attention/value",
            bias=True,
            by_head=True,
        ),
        *linear("layers.{i}.attention.dense", "attention/out", bias=True, inputs=2),
        *linear("layers.{i}.mlp.dense_h_to_4h", "mlp/up", bias=True),
        *linear("layers.{i}.mlp.dense_4h_to_h", "mlp/down", bias=True),
    ),
    biases=Biases({"attention_bias": (True, ("qkv", "out"))}, always=("mlp", "norm")),
    rope=Rope(base_name="rotary_emb_base", fraction_name="rotary_pct", fraction=0.25, partial=True),
    prepare=_plain_heads,
    head="embed_out.weight",
    ignored=(r"rotary_emb\.inv_freq$", r"\.attention\.(masked_)?bias$"),
)
