"""MPT."""

from gptjax.convert.families.table import Attribute, Family, Tensor, linear, norm, sizes

_MPT_ATTENTION = {
    "alibi": True,
    "alibi_bias_max": 8,
    "attn_type": "multihead_attention",
    "clip_qkv": None,
    "softmax_scale": None,
    "prefix_lm": False,
    "qk_ln": False,
}
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
    ),
    {
        "positions": "alibi",
        "mlp": "gelu",
        "use_bias": False,
        "norm_eps": 1e-5,
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
    only={
        "attn_config": _MPT_ATTENTION,
        "expansion_ratio": 4,
        "no_bias": True,
        "layer_norm_epsilon": 1e-5,
        "learned_pos_emb": True,
        "logit_scale": None,
    },
)
