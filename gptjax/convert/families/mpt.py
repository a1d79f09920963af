"""MPT."""

from typing import Any

from gptjax.convert.families.table import Attribute, Family, Tensor, linear, norm, sizes


def _attention(attributes: dict[str, Any]) -> dict[str, Any]:
    """The two settings of attn_config that the class reads, beside the others."""
    inside = attributes.get("attn_config") or {}
    return {
        **attributes,
        "softmax_scale": inside.get("softmax_scale"),
        "clip_qkv": inside.get("clip_qkv"),
    }


def _nested(attributes: dict[str, Any]) -> dict[str, Any]:
    outside = {k: v for k, v in attributes.items() if k not in ("softmax_scale", "clip_qkv")}
    inside = {"alibi": True, "softmax_scale": attributes["softmax_scale"], "clip_qkv": None}
    return {**outside, "attn_config": inside}


MPT = Family(
    "mpt",
    "MptForCausalLM",
    "transformer.",
    (
        *sizes(
            vocab_size="vocab_size",
            seq_len="max_seq_len",
            width="d_model",
            depth="n_layers",
            num_heads="n_heads",
        ),
        Attribute("tie_word_embeddings", "tied_head", True),
        Attribute("layer_norm_epsilon", "norm_eps", 1e-5),
        Attribute("softmax_scale", "attention_scale", None, lambda s: s or 0.0),
    ),
    {
        "positions": "alibi",
        "mlp": "gelu",
        "use_bias": False,
        "mlp_width": 0,
    },
    (
        Tensor("wte.weight", ("embed/tokens",), False),
        *norm("norm_f", "final_norm"),
        *norm("blocks.{i}.norm_1", "attention_norm"),
        *norm("blocks.{i}.norm_2", "mlp_norm"),
        *linear("blocks.{i}.attn.Wqkv", "attention/query", "attention/key", "attention/value"),
        *linear("blocks.{i}.attn.out_proj", "attention/out", inputs=2),
        *linear("blocks.{i}.ffn.up_proj", "mlp/up"),
        *linear("blocks.{i}.ffn.down_proj", "mlp/down"),
    ),
    only={"clip_qkv": None},
    aliases={
        "num_attention_heads": "n_heads",
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layers",
    },
    prepare=_attention,
    finish=_nested,
)
