"""Mamba."""

from typing import Any

from gptjax.convert.families.table import Attribute, Family, Tensor, linear, norm, sizes
from gptjax.errors import UserError


def _expanded(attributes: dict[str, Any]) -> dict[str, Any]:
    """A file's own intermediate_size goes before what `expand` makes of the width."""
    inner, width = attributes.get("intermediate_size"), attributes.get("hidden_size")
    if inner is None or width is None:
        return attributes
    if inner % width:
        raise UserError(
            f"config.json has intermediate_size={inner}, no multiple of hidden_size={width}"
        )
    return {**attributes, "expand": inner // width}


MAMBA = Family(
    "mamba",
    "MambaForCausalLM",
    "backbone.",
    (
        *sizes(vocab_size="vocab_size", width="hidden_size", depth="num_hidden_layers"),
        Attribute("layer_norm_epsilon", "norm_eps", 1e-5),
        Attribute("tie_word_embeddings", "tied_head", True),
        Attribute("state_size", "mixer.ssm.state", 16),
        Attribute("expand", "mixer.ssm.expand", 2),
        Attribute("conv_kernel", "mixer.ssm.conv", 4),
        Attribute(
            "time_step_rank",
            "mixer.ssm.rank",
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
    only={"use_bias": False, "use_conv_bias": True, "hidden_act": "silu"},
    layers="none",
    unused=("num_heads", "num_kv_heads", "head_dim", "mlp", "mlp_width", "experts.width"),
    prepare=_expanded,
)
