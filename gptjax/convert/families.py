"""Hugging Face families as tables: which attribute is which field, which tensor which leaf.

Names and defaults are those of the `transformers` configuration classes of the same model type.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

GATED = {"silu": "swiglu", "gelu": "geglu", "gelu_pytorch_tanh": "geglu_tanh", "relu": "reglu"}
PLAIN = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
}


@dataclasses.dataclass(frozen=True)
class Attribute:
    """One attribute of config.json and the field of ModelConfig that it is.

    Attributes:
      theirs, ours: the names.
      default: what the family takes where the attribute is missing; REQUIRED: none.
      read: their value -> ours; a mapping or a function.
      write: our value -> theirs; for a mapping its inverse.
    """

    theirs: str
    ours: str
    default: Any
    read: Mapping[Any, Any] | Callable[[Any], Any] = lambda value: value
    write: Callable[[Any], Any] = lambda value: value


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of theirs and the leaves of ours that it holds, side by side.

    Attributes:
      name: with {i} for the layer and {e} for the expert.
      leaves: paths; their last axes are concatenated in this order.
      transposed: theirs is [out, in], as PyTorch's Linear keeps it.
      inputs: leading axes of our leaf that are the matrix's inputs.
      by_head: theirs has the leaves of one head together (GPT-NeoX), of a key head with those of
        its queries (Phi-3-small).
      by_column: theirs has one column of each leaf in turn (Phi-3-small).
      squeezed: theirs has an axis of length one in its middle (convolutions by channel).
      leading: how many axes of length one theirs begins with.
      patch: theirs is a convolution over square patches with this side, and ours the matrix on
        their pixels, row by row, channels last; 0: it is not.
      flat: theirs has all axes of ours but the first as one.
      below: theirs has the leaves' rows one below the other.
    """

    name: str
    leaves: tuple[str, ...]
    transposed: bool = True
    inputs: int = 1
    by_head: bool = False
    by_column: bool = False
    squeezed: bool = False
    leading: int = 0
    patch: int = 0
    flat: bool = False
    below: bool = False


@dataclasses.dataclass(frozen=True)
class Family:
    """How one model type of `transformers` is written.

    Attributes:
      architecture: the class that loads it, for config.json.
      prefix: of every tensor but the head; some published files leave it out.
      attributes: what varies.
      always: the fields of ModelConfig that make the family.
      only: attributes that must have these values, which are also their defaults.
      rope, rope_names: whether it has rotary positions, and the attributes of their base and of
        the share of a head that turns; rope_base, rope_fraction: both where nothing is said.
      layers: how it says which layers are local: a name of LAYERS in `attributes`.
      tensors: outside and inside the layers.
      head: name of the output matrix, where it is not tied.
      ignored: tensors of published files that are no weights, as regular expressions.
      unused: fields of ModelConfig that mean nothing here.
      silent: attributes that are said twice, or only matter before training.
      prepare: their attributes to plainer ones, before the table is read.
      finish: the inverse, after the table is written.
    """

    model_type: str
    architecture: str
    prefix: str
    attributes: tuple[Attribute, ...]
    always: Mapping[str, Any]
    tensors: tuple[Tensor, ...]
    only: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rope: bool = False
    rope_base: float = 1e4
    rope_names: tuple[str, str] = ("rope_theta", "partial_rotary_factor")
    rope_fraction: float = 1.0
    layers: str = "global"
    head: str = "lm_head.weight"
    ignored: tuple[str, ...] = (r"rotary_emb\.inv_freq$",)
    unused: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    prepare: Callable[[dict[str, Any]], dict[str, Any]] = lambda attributes: attributes
    finish: Callable[[dict[str, Any]], dict[str, Any]] = lambda attributes: attributes


REQUIRED = object()


def _sizes(**names: str) -> tuple[Attribute, ...]:
    return tuple(Attribute(theirs, ours, REQUIRED) for ours, theirs in names.items())


_LLAMA_ATTRIBUTES = (
    *_sizes(
        vocab_size="vocab_size",
        width="hidden_size",
        mlp_width="intermediate_size",
        depth="num_hidden_layers",
        num_heads="num_attention_heads",
    ),
    Attribute("num_key_value_heads", "num_kv_heads", 0, lambda n: n or 0),
    Attribute("head_dim", "head_dim", 0, lambda n: n or 0),
    Attribute("max_position_embeddings", "seq_len", 2048),
    Attribute("rms_norm_eps", "norm_eps", 1e-6),
    Attribute("tie_word_embeddings", "tied_head", False),
    Attribute("hidden_act", "mlp", "silu", GATED),
)
_LLAMA_ALWAYS = {"norm": "rmsnorm", "positions": "rotary", "use_bias": False}


def _with(attributes: tuple[Attribute, ...], *changed: Attribute) -> tuple[Attribute, ...]:
    """The table with some rows replaced, by their field, and the others added."""
    fields = {row.ours for row in changed}
    return (*(row for row in attributes if row.ours not in fields), *changed)


def _without(attributes: tuple[Attribute, ...], *fields: str) -> tuple[Attribute, ...]:
    return tuple(row for row in attributes if row.ours not in fields)


def norm(theirs: str, ours: str, *, bias: bool = False) -> tuple[Tensor, ...]:
    """The rows of a norm's scale, and of its bias."""
    weight = Tensor(f"{theirs}.weight", (f"{ours}/scale",), transposed=False)
    both = (weight, Tensor(f"{theirs}.bias", (f"{ours}/bias",), transposed=False))
    return both if bias else (weight,)


def linear(
    theirs: str, *leaves: str, bias: bool = False, inputs: int = 1, **options: Any
) -> tuple[Tensor, ...]:
    """The rows of a matrix that holds leaves side by side, and of its bias."""
    weight = Tensor(f"{theirs}.weight", leaves, inputs=inputs, **options)
    if not bias:
        return (weight,)
    names = tuple(f"{leaf}_bias" for leaf in leaves)
    together = {name: options.get(name, False) for name in ("by_head", "by_column")}
    return (weight, Tensor(f"{theirs}.bias", names, transposed=False, inputs=0, **together))


def _separate_attention(at: str, *, bias: bool = False, out: str = "o_proj") -> tuple[Tensor, ...]:
    return (
        *linear(f"{at}.q_proj", "attention/query", bias=bias),
        *linear(f"{at}.k_proj", "attention/key", bias=bias),
        *linear(f"{at}.v_proj", "attention/value", bias=bias),
        *linear(f"{at}.{out}", "attention/out", inputs=2),
    )


_GATED_MLP = tuple(
    row
    for part in ("gate", "up", "down")
    for row in linear(f"layers.{{i}}.mlp.{part}_proj", f"mlp/{part}")
)
_TWO_NORMS = (
    *norm("layers.{i}.input_layernorm", "attention_norm"),
    *norm("layers.{i}.post_attention_layernorm", "mlp_norm"),
)
_AROUND = (Tensor("embed_tokens.weight", ("embed/tokens",), False), *norm("norm", "final_norm"))
_LLAMA_TENSORS = (
    *_AROUND,
    *_TWO_NORMS,
    *_separate_attention("layers.{i}.self_attn"),
    *_GATED_MLP,
)
_NO_BIASES = {"attention_bias": False, "mlp_bias": False}

LLAMA = Family(
    "llama",
    "LlamaForCausalLM",
    "model.",
    _LLAMA_ATTRIBUTES,
    _LLAMA_ALWAYS,
    _LLAMA_TENSORS,
    only={**_NO_BIASES, "pretraining_tp": 1},
    rope=True,
)
MISTRAL = dataclasses.replace(
    LLAMA,
    model_type="mistral",
    architecture="MistralForCausalLM",
    only={},
    layers="every",
)
QWEN2 = dataclasses.replace(
    LLAMA,
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    attributes=_with(_LLAMA_ATTRIBUTES, Attribute("max_position_embeddings", "seq_len", 32768)),
    always={**_LLAMA_ALWAYS, "use_bias": True, "bias_places": ("qkv",)},
    only={},
    layers="above",
    tensors=(
        *_AROUND,
        *_TWO_NORMS,
        *_separate_attention("layers.{i}.self_attn", bias=True),
        *_GATED_MLP,
    ),
)
QWEN3 = dataclasses.replace(
    QWEN2,
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    attributes=_with(QWEN2.attributes, Attribute("head_dim", "head_dim", 128)),
    always={**_LLAMA_ALWAYS, "qk_norm": "shared"},
    only={"attention_bias": False},
    tensors=(
        *_LLAMA_TENSORS,
        Tensor("layers.{i}.self_attn.q_norm.weight", ("attention/query_norm_scale",), False),
        Tensor("layers.{i}.self_attn.k_norm.weight", ("attention/key_norm_scale",), False),
    ),
)
GRANITE = dataclasses.replace(
    LLAMA,
    model_type="granite",
    architecture="GraniteForCausalLM",
    attributes=(
        *_LLAMA_ATTRIBUTES,
        Attribute("embedding_multiplier", "embedding_scale", 1.0),
        Attribute("residual_multiplier", "residual_scale", 1.0),
        Attribute("attention_multiplier", "attention_scale", 1.0),
        Attribute("logits_scaling", "logit_scale", 1.0, lambda c: 1 / c, lambda scale: 1 / scale),
    ),
    only=_NO_BIASES,
)
GEMMA2 = Family(
    "gemma2",
    "Gemma2ForCausalLM",
    "model.",
    (
        *_with(
            _without(_LLAMA_ATTRIBUTES, "mlp"),
            Attribute("tie_word_embeddings", "tied_head", True),
            Attribute("head_dim", "head_dim", 256),
            Attribute("max_position_embeddings", "seq_len", 8192),
        ),
        Attribute("hidden_activation", "mlp", "gelu_pytorch_tanh", GATED),
        Attribute(
            "query_pre_attn_scalar",
            "attention_scale",
            256,
            lambda width: width**-0.5,
            lambda scale: round(scale**-2),
        ),
        Attribute(
            "attn_logit_softcapping",
            "attention_soft_cap",
            50.0,
            lambda c: c or 0.0,
            lambda c: c or None,
        ),
        Attribute(
            "final_logit_softcapping",
            "logit_soft_cap",
            30.0,
            lambda c: c or 0.0,
            lambda c: c or None,
        ),
    ),
    {
        **_LLAMA_ALWAYS,
        "norm_place": "both",
        "norm_plus_one": True,
        "embedding_scale": 0.0,
    },
    (
        *_AROUND,
        *norm("layers.{i}.input_layernorm", "attention_norm"),
        *norm("layers.{i}.post_attention_layernorm", "attention_out_norm"),
        *norm("layers.{i}.pre_feedforward_layernorm", "mlp_norm"),
        *norm("layers.{i}.post_feedforward_layernorm", "mlp_out_norm"),
        *_separate_attention("layers.{i}.self_attn"),
        *_GATED_MLP,
    ),
    only={"attention_bias": False},
    rope=True,
    layers="alternate",
)
PHI3 = dataclasses.replace(
    LLAMA,
    model_type="phi3",
    architecture="Phi3ForCausalLM",
    attributes=_with(
        _without(_LLAMA_ATTRIBUTES, "head_dim"),
        Attribute("max_position_embeddings", "seq_len", 4096),
        Attribute("rms_norm_eps", "norm_eps", 1e-5),
    ),
    only={"attention_bias": False},
    layers="every",
    tensors=(
        *_AROUND,
        *_TWO_NORMS,
        *linear(
            "layers.{i}.self_attn.qkv_proj", "attention/query", "attention/key", "attention/value"
        ),
        *linear("layers.{i}.self_attn.o_proj", "attention/out", inputs=2),
        *linear("layers.{i}.mlp.gate_up_proj", "mlp/gate", "mlp/up"),
        *linear("layers.{i}.mlp.down_proj", "mlp/down"),
    ),
)
COHERE = Family(
    "cohere",
    "CohereForCausalLM",
    "model.",
    (
        *_with(
            _without(_LLAMA_ATTRIBUTES, "head_dim", "norm_eps"),
            Attribute("max_position_embeddings", "seq_len", 8192),
            Attribute("tie_word_embeddings", "tied_head", True),
        ),
        Attribute("layer_norm_eps", "norm_eps", 1e-5),
        Attribute("logit_scale", "logit_scale", 0.0625),
        Attribute("use_qk_norm", "qk_norm", False, {False: "none", True: "per_head"}),
    ),
    {
        "norm": "layernorm",
        "positions": "rotary",
        "rope_layout": "interleaved",
        "use_bias": False,
        "block": "parallel_shared_norm",
    },
    (
        *_AROUND,
        *norm("layers.{i}.input_layernorm", "attention_norm"),
        *_separate_attention("layers.{i}.self_attn"),
        *_GATED_MLP,
        Tensor("layers.{i}.self_attn.q_norm.weight", ("attention/query_norm_scale",), False),
        Tensor("layers.{i}.self_attn.k_norm.weight", ("attention/key_norm_scale",), False),
    ),
    only={"attention_bias": False},
    rope=True,
    rope_base=5e5,
)

_GPT2_ATTRIBUTES = (
    *_sizes(
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
    ),
    {},
    (
        Tensor("wte.weight", ("embed/tokens",), False),
        Tensor("wpe.weight", ("embed/positions",), False),
        *norm("ln_f", "final_norm", bias=True),
        *_GPT2_BLOCK,
    ),
    only={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
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
        Attribute("afn", "mlp", "gelu", {"gelu": "gelu_tanh", "relu": "relu", "swish": "silu"}),
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
NEOX = Family(
    "gpt_neox",
    "GPTNeoXForCausalLM",
    "gpt_neox.",
    (
        *_sizes(
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
    only={"attention_bias": True},
    rope=True,
    rope_names=("rotary_emb_base", "rotary_pct"),
    rope_fraction=0.25,
    head="embed_out.weight",
    ignored=(r"rotary_emb\.inv_freq$", r"\.attention\.(masked_)?bias$"),
)
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
        *_sizes(
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

MIXTRAL = dataclasses.replace(
    MISTRAL,
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    attributes=(
        *_with(
            _LLAMA_ATTRIBUTES,
            Attribute("max_position_embeddings", "seq_len", 131072),
            Attribute("rms_norm_eps", "norm_eps", 1e-5),
            Attribute("num_key_value_heads", "num_kv_heads", 8),
        ),
        Attribute("num_local_experts", "num_experts", 8),
        Attribute("num_experts_per_tok", "experts_per_token", 2),
    ),
    always={**_LLAMA_ALWAYS, "mlp_pattern": ("experts",)},
    rope_base=1e6,
    tensors=(
        *_AROUND,
        *_TWO_NORMS,
        *_separate_attention("layers.{i}.self_attn"),
        *linear("layers.{i}.block_sparse_moe.gate", "mlp/router"),
        *linear("layers.{i}.block_sparse_moe.experts.{e}.w1", "mlp/experts_gate"),
        *linear("layers.{i}.block_sparse_moe.experts.{e}.w3", "mlp/experts_up"),
        *linear("layers.{i}.block_sparse_moe.experts.{e}.w2", "mlp/experts_down"),
    ),
)


def _group_limits(attributes: dict[str, Any]) -> dict[str, Any]:
    """DeepSeek-V2's "greedy" looks into all groups."""
    method = attributes.pop("topk_method", "greedy")
    if method == "greedy":
        return {**attributes, "n_group": 1, "topk_group": 1}
    return {**attributes, "topk_method": method}


DEEPSEEK2 = Family(
    "deepseek_v2",
    "DeepseekV2ForCausalLM",
    "model.",
    (
        *_without(_LLAMA_ATTRIBUTES, "head_dim", "norm_eps"),
        Attribute("q_lora_rank", "q_rank", 1536, lambda r: r or 0, lambda r: r or None),
        Attribute("kv_lora_rank", "kv_rank", 512),
        Attribute("qk_nope_head_dim", "head_dim", 128),
        Attribute("qk_rope_head_dim", "rope_dim", 64),
        Attribute("v_head_dim", "value_dim", 128),
        Attribute("n_routed_experts", "num_experts", 64),
        Attribute("n_shared_experts", "shared_experts", 2),
        Attribute("num_experts_per_tok", "experts_per_token", REQUIRED),
        Attribute("moe_intermediate_size", "expert_width", 1407),
        Attribute("first_k_dense_replace", "dense_layers", 0),
        Attribute("routed_scaling_factor", "router_scale", 1.0, float),
        Attribute("n_group", "router_groups", 1, lambda n: n or 1),
        Attribute("topk_group", "router_top_groups", 1, lambda n: n or 1),
    ),
    {
        **_LLAMA_ALWAYS,
        "rope_layout": "interleaved",
        "mlp_pattern": ("experts",),
        "router": "softmax",
        "norm_eps": 1e-6,
    },
    (
        *_AROUND,
        *_TWO_NORMS,
        *linear("layers.{i}.self_attn.q_proj", "attention/query"),
        *linear("layers.{i}.self_attn.q_a_proj", "attention/query_down"),
        *linear("layers.{i}.self_attn.q_b_proj", "attention/query_up"),
        Tensor("layers.{i}.self_attn.q_a_layernorm.weight", ("attention/query_norm_scale",), False),
        *linear("layers.{i}.self_attn.kv_a_proj_with_mqa", "attention/kv_down"),
        Tensor("layers.{i}.self_attn.kv_a_layernorm.weight", ("attention/kv_norm_scale",), False),
        *linear("layers.{i}.self_attn.kv_b_proj", "attention/kv_up"),
        *linear("layers.{i}.self_attn.o_proj", "attention/out", inputs=2),
        *_GATED_MLP,
        *linear("layers.{i}.mlp.gate", "mlp/router"),
        *(
            row
            for part in ("gate", "up", "down")
            for row in (
                *linear(f"layers.{{i}}.mlp.experts.{{e}}.{part}_proj", f"mlp/experts_{part}"),
                *linear(f"layers.{{i}}.mlp.shared_experts.{part}_proj", f"mlp/shared_{part}"),
            )
        ),
    ),
    only={
        **_NO_BIASES,
        "pretraining_tp": 1,
        "norm_topk_prob": False,
        "scoring_func": "softmax",
        "moe_layer_freq": 1,
        "topk_method": "group_limited_greedy",
        "rms_norm_eps": 1e-6,  # the norms of its latents have it fixed
    },
    rope=True,
    silent=("aux_loss_alpha", "ep_size", "seq_aux", "head_dim", "qk_head_dim"),
    prepare=_group_limits,
)
MAMBA = Family(
    "mamba",
    "MambaForCausalLM",
    "backbone.",
    (
        *_sizes(vocab_size="vocab_size", width="hidden_size", depth="num_hidden_layers"),
        Attribute("layer_norm_epsilon", "norm_eps", 1e-5),
        Attribute("tie_word_embeddings", "tied_head", True),
        Attribute("state_size", "ssm_state", 16),
        Attribute("expand", "ssm_expand", 2),
        Attribute("conv_kernel", "ssm_conv", 4),
        Attribute(
            "time_step_rank",
            "ssm_rank",
            "auto",
            lambda r: 0 if r == "auto" else r,
            lambda r: r or "auto",
        ),
    ),
    {
        "norm": "rmsnorm",
        "positions": "none",
        "use_bias": False,
        "num_heads": 1,
        "layer_pattern": ("ssm",),
        "mlp_pattern": ("none",),
        "seq_len": 2048,
    },
    (
        Tensor("embeddings.weight", ("embed/tokens",), False),
        *norm("norm_f", "final_norm"),
        *norm("layers.{i}.norm", "ssm_norm"),
        *linear("layers.{i}.mixer.in_proj", "ssm/in"),
        Tensor("layers.{i}.mixer.conv1d.weight", ("ssm/conv",), squeezed=True),
        Tensor("layers.{i}.mixer.conv1d.bias", ("ssm/conv_bias",), False),
        *linear("layers.{i}.mixer.x_proj", "ssm/select"),
        *linear("layers.{i}.mixer.dt_proj", "ssm/step", bias=True),
        Tensor("layers.{i}.mixer.A_log", ("ssm/state_log_scale",), False),
        Tensor("layers.{i}.mixer.D", ("ssm/skip_scale",), False),
        *linear("layers.{i}.mixer.out_proj", "ssm/out"),
    ),
    only={"use_bias": False, "use_conv_bias": True, "hidden_act": "silu", "rms_norm": True},
    layers="none",
    unused=("num_heads", "num_kv_heads", "head_dim", "mlp", "mlp_width", "expert_width"),
    silent=(
        "d_inner",
        "d_model",
        "n_layer",
        "intermediate_size",
        "fused_add_norm",
        "ssm_cfg",
        "pad_vocab_size_multiple",
        "residual_in_fp32",
        "rescale_prenorm_residual",
        "time_step_scale",
        "time_step_min",
        "time_step_max",
        "time_step_init_scheme",
        "time_step_floor",
        "use_mambapy",
        "use_associative_scan",
    ),
)


def _scale_of_scores(attributes: dict[str, Any]) -> dict[str, Any]:
    """muP divides scores by head_dim / mup_attn_multiplier: the multiplier becomes the scale."""
    found = {"mup_attn_multiplier": 1.0, "mup_use_scaling": True, **attributes}
    if "hidden_size" in found and "num_attention_heads" in found:
        head = found["hidden_size"] // found["num_attention_heads"]
        used = found["mup_use_scaling"]
        found["mup_attn_multiplier"] = found["mup_attn_multiplier"] / head if used else head**-0.5
    return {name: value for name, value in found.items() if name != "mup_use_scaling"}


def _with_mup(attributes: dict[str, Any]) -> dict[str, Any]:
    head = attributes["hidden_size"] // attributes["num_attention_heads"]
    return {
        **attributes,
        "mup_use_scaling": True,
        "mup_attn_multiplier": attributes["mup_attn_multiplier"] * head,
        "blocksparse_triton_kernel_block_size": attributes["blocksparse_block_size"],
    }


# `transformers` has no such class: names, defaults and layouts of the released code of
# Phi-3-small-8k-instruct (modeling_phi3_small.py, configuration_phi3_small.py).
PHI3_SMALL = Family(
    "phi3small",
    "Phi3SmallForCausalLM",
    "model.",
    (
        *_sizes(
            vocab_size="vocab_size",
            width="hidden_size",
            depth="num_hidden_layers",
            num_heads="num_attention_heads",
        ),
        Attribute("num_key_value_heads", "num_kv_heads", 8),
        Attribute("ff_intermediate_size", "mlp_width", 14336),
        Attribute("max_position_embeddings", "seq_len", 8192),
        Attribute("layer_norm_epsilon", "norm_eps", 1e-5),
        Attribute("tie_word_embeddings", "tied_head", True),
        Attribute("hidden_act", "mlp", "gegelu", {"gegelu": "gegelu"}),
        Attribute("gegelu_limit", "mlp_limit", 20.0, lambda c: c or 0.0, lambda c: c or None),
        Attribute(
            "mup_embedding_multiplier", "embedding_scale", 10.0, lambda c: c if c and c > 0 else 1.0
        ),
        Attribute(
            "mup_width_multiplier",
            "logit_scale",
            8.0,
            lambda c: 1 / (c or 1.0),
            lambda scale: 1 / scale,
        ),
        Attribute("mup_attn_multiplier", "attention_scale", REQUIRED),
        Attribute("rope_embedding_base", "rope_base", 1e6, float),
        Attribute("blocksparse_block_size", "sparse_block", 64),
        Attribute("blocksparse_num_local_blocks", "sparse_local_blocks", 16),
        Attribute("blocksparse_vert_stride", "sparse_stride", 8),
    ),
    {"norm": "layernorm", "positions": "rotary", "layer_pattern": ("blocksparse", "global")},
    (
        Tensor("embed_tokens.weight", ("embed/tokens",), False),
        *norm("final_layernorm", "final_norm", bias=True),
        *norm("layers.{i}.input_layernorm", "attention_norm", bias=True),
        *norm("layers.{i}.post_attention_layernorm", "mlp_norm", bias=True),
        *linear(
            "layers.{i}.self_attn.query_key_value",
            "attention/query",
            "attention/key",
            "attention/value",
            bias=True,
            by_head=True,
        ),
        *linear("layers.{i}.self_attn.dense", "attention/out", bias=True, inputs=2),
        *linear("layers.{i}.mlp.up_proj", "mlp/gate", "mlp/up", bias=True, by_column=True),
        *linear("layers.{i}.mlp.down_proj", "mlp/down", bias=True),
    ),
    only={
        "blocksparse_homo_head_pattern": False,
        "ff_dim_multiplier": None,
        "rope_position_scale": 1.0,
        "rope_scaling": None,
    },
    layers="dense_every",
    silent=(
        "attention_bias",  # false in the published file, and the code has biases all the same
        "attention_dropout_prob",
        "blocksparse_triton_kernel_block_size",
        "embedding_dropout_prob",
        "ffn_dropout_prob",
        "gegelu_pad_to_256",
        "pad_sequence_to_multiple_of_64",
    ),
    prepare=_scale_of_scores,
    finish=_with_mup,
)

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        GPT2,
        GPT1,
        LLAMA,
        MISTRAL,
        QWEN2,
        QWEN3,
        GRANITE,
        GEMMA2,
        PHI3,
        COHERE,
        NEOX,
        MPT,
        MIXTRAL,
        DEEPSEEK2,
        MAMBA,
        PHI3_SMALL,
    )
}
