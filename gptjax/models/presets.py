"""Presets: published models as data, with the source of each table."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from gptjax.errors import UserError, nearest
from gptjax.fields import flat, replaced
from gptjax.models.config import ModelConfig
from gptjax.models.experts import ExpertsConfig
from gptjax.models.mixers.blocksparse import BlocksparseConfig
from gptjax.models.mixers.config import MixerConfig
from gptjax.models.mixers.latent import LatentConfig
from gptjax.models.mixers.pattern import SparseConfig
from gptjax.models.rope import RopeConfig

_GPT2_COMMON = ModelConfig(
    vocab_size=50257, seq_len=1024, positions="learned", mlp="gelu_tanh", tied_head=True
)

# Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), table 2, with the
# parameter counts of the released weights (the paper's first two are miscounted).
_GPT2 = {  # name: (depth, width, num_heads)
    "gpt2": (12, 768, 12),
    "gpt2-medium": (24, 1024, 16),
    "gpt2-large": (36, 1280, 20),
    "gpt2-xl": (48, 1600, 25),
}

# Brown et al., "Language Models are Few-Shot Learners" (2020), table 2.1. Dense attention
# throughout: the paper alternates dense and banded layers, which changes no parameter. Two rows
# of the table contradict themselves: XL has 24 heads of 128 at width 2048 (taken as 16 heads,
# which gives its 1.3B), 13B has width 5140 with 40 heads of 128 (taken as 5120).
_GPT3 = {  # name: (depth, width, num_heads, head_dim)
    "gpt3-small": (12, 768, 12, 64),
    "gpt3-medium": (24, 1024, 16, 64),
    "gpt3-large": (24, 1536, 16, 96),
    "gpt3-xl": (24, 2048, 16, 128),
    "gpt3-2.7b": (32, 2560, 32, 80),
    "gpt3-6.7b": (32, 4096, 32, 128),
    "gpt3-13b": (40, 5120, 40, 128),
    "gpt3-175b": (96, 12288, 96, 128),
}

_LLAMA_COMMON = ModelConfig(
    norm="rmsnorm",
    positions="rotary",
    mlp="swiglu",
    use_bias=False,
    tied_head=False,
)

# Touvron et al., "LLaMA" (2023), table 2; "Llama 2" (2023), table 1 and the released
# configurations; AI@Meta, "The Llama 3 Herd of Models" (2024), table 3. Of the first LLaMA only
# 65B was released with an epsilon of 1e-5.
_LLAMA = {  # name: (depth, width, num_heads, num_kv_heads, mlp_width, vocab, context, base, eps)
    "llama-7b": (32, 4096, 32, 32, 11008, 32000, 2048, 1e4, 1e-6),
    "llama-13b": (40, 5120, 40, 40, 13824, 32000, 2048, 1e4, 1e-6),
    "llama-33b": (60, 6656, 52, 52, 17920, 32000, 2048, 1e4, 1e-6),
    "llama-65b": (80, 8192, 64, 64, 22016, 32000, 2048, 1e4, 1e-5),
    "llama2-7b": (32, 4096, 32, 32, 11008, 32000, 4096, 1e4, 1e-5),
    "llama2-13b": (40, 5120, 40, 40, 13824, 32000, 4096, 1e4, 1e-5),
    "llama2-70b": (80, 8192, 64, 8, 28672, 32000, 4096, 1e4, 1e-5),
    "llama3-8b": (32, 4096, 32, 8, 14336, 128256, 8192, 5e5, 1e-5),
    "llama3-70b": (80, 8192, 64, 8, 28672, 128256, 8192, 5e5, 1e-5),
}
# Llama 3.1 and 3.2 (the text parts of 3.2 11B and 90B Vision are those of 3.1 8B and 70B, whose
# weights their adapters left as they were; section 7.2 of the paper): the same with
# frequencies stretched from 8,192 to 131,072 positions.
_LLAMA31_COMMON = dataclasses.replace(
    _LLAMA_COMMON,
    vocab_size=128256,
    seq_len=131072,
    rope=RopeConfig(base=5e5, scaling="llama3", trained_len=8192, slow=1.0, fast=4.0),
)
_LLAMA31 = {  # name: (depth, width, num_heads, num_kv_heads, mlp_width, rope_factor, tied head)
    "llama3.1-8b": (32, 4096, 32, 8, 14336, 8.0, False),
    "llama3.1-70b": (80, 8192, 64, 8, 28672, 8.0, False),
    "llama3.1-405b": (126, 16384, 128, 8, 53248, 8.0, False),
    "llama3.2-11b-text": (32, 4096, 32, 8, 14336, 8.0, False),
    "llama3.2-90b-text": (80, 8192, 64, 8, 28672, 8.0, False),
    "llama3.2-1b": (16, 2048, 32, 8, 8192, 32.0, True),
    "llama3.2-3b": (28, 3072, 24, 8, 8192, 32.0, True),
}

# Radford et al., "Improving Language Understanding by Generative Pre-Training" (2018), section
# 4.1; post-norm, and the released vocabulary of 40,478.
_GPT1 = ModelConfig(
    preset="gpt1",
    vocab_size=40478,
    depth=12,
    width=768,
    num_heads=12,
    seq_len=512,
    norm_place="post",
    mlp="gelu_tanh",
    tied_head=True,
)

# Jiang et al., "Mistral 7B" (2023), table 1, its window included; Mistral Large 2 (2407): the
# released configuration.
_MISTRAL = {
    "mistral-7b": dataclasses.replace(
        _LLAMA_COMMON,
        depth=32,
        width=4096,
        num_heads=32,
        num_kv_heads=8,
        mlp_width=14336,
        vocab_size=32000,
        seq_len=32768,
        norm_eps=1e-5,
        layer_pattern=("local",),
        window=4096,
    ),
    "mistral-large-2": dataclasses.replace(
        _LLAMA_COMMON,
        depth=88,
        width=12288,
        num_heads=96,
        num_kv_heads=8,
        head_dim=128,
        mlp_width=28672,
        vocab_size=32768,
        seq_len=131072,
        norm_eps=1e-5,
        rope=RopeConfig(base=1e6),
    ),
}

# Qwen Team, "Qwen2.5 Technical Report" (2024), table 1, and the released configurations (base
# models; vocabularies are padded as released). Queries, keys and values have biases.
_QWEN25_COMMON = dataclasses.replace(
    _LLAMA_COMMON,
    use_bias=True,
    bias_places=("qkv",),
    norm_eps=1e-6,
    rope=RopeConfig(base=1e6),
)
_QWEN25 = {  # name: (depth, width, num_heads, num_kv_heads, mlp_width, vocab, context, tied)
    "qwen2.5-0.5b": (24, 896, 14, 2, 4864, 151936, 32768, True),
    "qwen2.5-1.5b": (28, 1536, 12, 2, 8960, 151936, 131072, True),
    "qwen2.5-3b": (36, 2048, 16, 2, 11008, 151936, 32768, True),
    "qwen2.5-7b": (28, 3584, 28, 4, 18944, 152064, 131072, False),
    "qwen2.5-14b": (48, 5120, 40, 8, 13824, 152064, 131072, False),
    "qwen2.5-32b": (64, 5120, 40, 8, 27648, 152064, 131072, False),
    "qwen2.5-72b": (80, 8192, 64, 8, 29568, 152064, 131072, False),
}

# Gemma Team, "Gemma 2" (2024), table 1 and section 2; 27B divides its queries by
# √(width / heads), the others by √head_dim.
_GEMMA2_COMMON = ModelConfig(
    vocab_size=256000,
    seq_len=8192,
    norm="rmsnorm",
    norm_place="both",
    norm_plus_one=True,
    norm_eps=1e-6,
    positions="rotary",
    mlp="geglu_tanh",
    use_bias=False,
    tied_head=True,
    layer_pattern=("local", "global"),
    window=4096,
    embedding_scale=0.0,
    attention_soft_cap=50.0,
    logit_soft_cap=30.0,
)
_GEMMA2 = {  # name: (depth, width, num_heads, num_kv_heads, head_dim, mlp_width, attention_scale)
    "gemma2-2b": (26, 2304, 8, 4, 256, 9216, 256**-0.5),
    "gemma2-9b": (42, 3584, 16, 8, 256, 14336, 256**-0.5),
    "gemma2-27b": (46, 4608, 32, 16, 128, 36864, 144**-0.5),
}

# Abdin et al., "Phi-3 Technical Report" (2024), and the released configurations of 4k (small: 8k)
# tokens. Phi-3-small has the scales of muP: 10 on embeddings, 1/head_dim on scores, 1/8 on logits.
_PHI3_COMMON = dataclasses.replace(
    _LLAMA_COMMON, vocab_size=32064, seq_len=4096, layer_pattern=("local",), window=2047
)
_PHI3 = {  # name: (depth, width, num_heads, num_kv_heads, mlp_width)
    "phi3-mini": (32, 3072, 32, 32, 8192),
    "phi3-medium": (40, 5120, 40, 10, 17920),
}
_PHI3_SMALL = ModelConfig(
    vocab_size=100352,
    seq_len=8192,
    depth=32,
    width=4096,
    num_heads=32,
    num_kv_heads=8,
    mlp_width=14336,
    mlp="gegelu",
    mlp_limit=20.0,
    norm="layernorm",
    norm_eps=1e-5,
    positions="rotary",
    layer_pattern=("blocksparse", "global"),
    embedding_scale=10.0,
    attention_scale=1 / 128,
    logit_scale=1 / 8,
    use_bias=True,
    tied_head=True,
    rope=RopeConfig(base=1e6),
    mixer=MixerConfig(
        sparse=SparseConfig(block=64), blocksparse=BlocksparseConfig(local_blocks=16, stride=8)
    ),
)

# Cohere, Command R+ (2024), the released configuration.
_COMMAND = {
    "command-r-plus": ModelConfig(
        vocab_size=256000,
        seq_len=131072,
        depth=64,
        width=12288,
        num_heads=96,
        num_kv_heads=8,
        mlp_width=33792,
        norm="layernorm",
        norm_eps=1e-5,
        positions="rotary",
        block="parallel_shared_norm",
        qk_norm="per_head",
        mlp="swiglu",
        use_bias=False,
        tied_head=True,
        logit_scale=0.8333333333333334,
        rope=RopeConfig(base=75e6, layout="interleaved"),
    ),
}

# Jiang et al., "Mixtral of Experts" (2024), table 1; 8x22B: the released configuration.
_MIXTRAL_COMMON = dataclasses.replace(
    _LLAMA_COMMON,
    mlp_pattern=("experts",),
    norm_eps=1e-5,
    num_kv_heads=8,
    experts=ExpertsConfig(count=8, per_token=2),
    rope=RopeConfig(base=1e6),
)
_MIXTRAL = {
    "mixtral-8x7b": dataclasses.replace(
        _MIXTRAL_COMMON,
        depth=32,
        width=4096,
        num_heads=32,
        mlp_width=14336,
        vocab_size=32000,
        seq_len=32768,
    ),
    "mixtral-8x22b": dataclasses.replace(
        _MIXTRAL_COMMON,
        depth=56,
        width=6144,
        num_heads=48,
        mlp_width=16384,
        vocab_size=32000,
        seq_len=65536,
    ),
}

# DeepSeek-AI, "DeepSeek-V2" (2024), section 3.1.2; V2.5 has the same shape and configuration. Of
# its three balance losses the one over experts is built.
_DEEPSEEK = {
    "deepseek-v2.5": dataclasses.replace(
        _LLAMA_COMMON,
        depth=60,
        width=5120,
        num_heads=128,
        head_dim=128,
        mlp_width=12288,
        vocab_size=102400,
        seq_len=163840,
        norm_eps=1e-6,
        mlp_pattern=("experts",),
        dense_layers=1,
        rope=RopeConfig(
            layout="interleaved",
            scaling="yarn",
            factor=40.0,
            trained_len=4096,
            mscale=1.0,
            mscale_all_dim=1.0,
        ),
        experts=ExpertsConfig(
            count=160,
            per_token=6,
            width=1536,
            shared=2,
            router="softmax",
            router_scale=16.0,
            router_groups=8,
            router_top_groups=3,
            balance_loss=0.003,
            balance_over="sequence",
        ),
        mixer=MixerConfig(
            latent=LatentConfig(kv_rank=512, q_rank=1536, rope_dim=64, value_dim=128)
        ),
    ),
}

# Gu & Dao, "Mamba" (2023), table 12, with the released vocabulary of 50,280.
_MAMBA = {  # name: (depth, width)
    "mamba-130m": (24, 768),
    "mamba-370m": (48, 1024),
    "mamba-790m": (48, 1536),
    "mamba-1.4b": (48, 2048),
    "mamba-2.8b": (64, 2560),
}
_MAMBA_COMMON = ModelConfig(
    vocab_size=50280,
    seq_len=2048,
    norm="rmsnorm",
    positions="none",
    use_bias=False,
    tied_head=True,
    layer_pattern=("ssm",),
    mlp_pattern=("none",),
    num_heads=1,
)


SHAPE = ("depth", "width", "num_heads")
GROUPED = (*SHAPE, "num_kv_heads", "mlp_width")

# (what a family has in common, the fields of its table, the table)
_TABLES: tuple[tuple[ModelConfig, tuple[str, ...], Mapping[str, tuple]], ...] = (
    (_GPT2_COMMON, SHAPE, _GPT2),
    (dataclasses.replace(_GPT2_COMMON, seq_len=2048), (*SHAPE, "head_dim"), _GPT3),
    (
        _LLAMA_COMMON,
        (*GROUPED, "vocab_size", "seq_len", "rope.base", "norm_eps"),
        _LLAMA,
    ),
    (_LLAMA31_COMMON, (*GROUPED, "rope.factor", "tied_head"), _LLAMA31),
    (_QWEN25_COMMON, (*GROUPED, "vocab_size", "seq_len", "tied_head"), _QWEN25),
    (
        _GEMMA2_COMMON,
        (*SHAPE, "num_kv_heads", "head_dim", "mlp_width", "attention_scale"),
        _GEMMA2,
    ),
    (_PHI3_COMMON, GROUPED, _PHI3),
    (_MAMBA_COMMON, ("depth", "width"), _MAMBA),
)


def _build() -> dict[str, ModelConfig]:
    alone = {"gpt1": _GPT1, "phi3-small": _PHI3_SMALL}
    presets = {**alone, **_MISTRAL, **_COMMAND, **_MIXTRAL, **_DEEPSEEK}
    for common, fields, table in _TABLES:
        for name, row in table.items():
            changes: dict[str, Any] = dict(zip(fields, row, strict=True))
            presets[name] = replaced(common, changes)
    return {name: dataclasses.replace(model, preset=name) for name, model in presets.items()}


PRESETS: dict[str, ModelConfig] = _build()


def preset(name: str) -> ModelConfig:
    """The published model of that name.

    Raises:
      UserError: for an unknown name, with the nearest known one.
    """
    if name not in PRESETS:
        raise UserError(f"model.preset={name!r} is not known; {nearest(name, PRESETS)}")
    return PRESETS[name]


def resolve(config: ModelConfig) -> ModelConfig:
    """`config` with its preset's values wherever it still has the plain default.

    So `preset='gpt2'` with `depth=6` is a GPT-2 of six blocks. A field cannot be set back to the
    plain default this way: start from `preset(name)` and `dataclasses.replace` for that.

    Raises:
      UserError: for an unknown preset.
    """
    if not config.preset:
        return config
    plain = flat(ModelConfig())
    chosen = {key: value for key, value in flat(config).items() if value != plain[key]}
    return replaced(preset(config.preset), chosen)
