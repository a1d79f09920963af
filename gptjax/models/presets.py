"""Published models as data. Sources are named beside each table."""

import dataclasses

from gptjax.errors import UserError, nearest
from gptjax.models.config import ModelConfig

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

# Touvron et al., "Llama 2" (2023), table 1 and the released configurations; AI@Meta, "The Llama 3
# Herd of Models" (2024), table 3.
_LLAMA = {  # name: (depth, width, num_heads, num_kv_heads, mlp_width, vocab, context, base, eps)
    "llama2-7b": (32, 4096, 32, 32, 11008, 32000, 4096, 1e4, 1e-5),
    "llama2-13b": (40, 5120, 40, 40, 13824, 32000, 4096, 1e4, 1e-5),
    "llama2-70b": (80, 8192, 64, 8, 28672, 32000, 4096, 1e4, 1e-5),
    "llama3-8b": (32, 4096, 32, 8, 14336, 128256, 8192, 5e5, 1e-5),
    "llama3-70b": (80, 8192, 64, 8, 28672, 128256, 8192, 5e5, 1e-5),
    # 3.1: trained to 131,072 positions; its frequency scaling beyond 8,192 is not built in yet.
    "llama3.1-405b": (126, 16384, 128, 8, 53248, 128256, 8192, 5e5, 1e-5),
}


def _build() -> dict[str, ModelConfig]:
    presets = {}
    for name, (depth, width, heads) in _GPT2.items():
        presets[name] = dataclasses.replace(
            _GPT2_COMMON, preset=name, depth=depth, width=width, num_heads=heads
        )
    for name, (depth, width, heads, head_dim) in _GPT3.items():
        presets[name] = dataclasses.replace(
            _GPT2_COMMON,
            preset=name,
            depth=depth,
            width=width,
            num_heads=heads,
            head_dim=head_dim,
            seq_len=2048,
        )
    for name, (depth, width, heads, kv, mlp, vocab, context, base, eps) in _LLAMA.items():
        presets[name] = dataclasses.replace(
            _LLAMA_COMMON,
            preset=name,
            depth=depth,
            width=width,
            num_heads=heads,
            num_kv_heads=kv,
            mlp_width=mlp,
            vocab_size=vocab,
            seq_len=context,
            rope_base=base,
            norm_eps=eps,
        )
    return presets


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
    plain = ModelConfig()
    chosen = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != getattr(plain, field.name)
    }
    return dataclasses.replace(preset(config.preset), **chosen)
