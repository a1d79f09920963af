"""Checks between the settings of a model; the limits of a single setting are in its declaration."""

from gptjax import ops
from gptjax.errors import UserError
from gptjax.models.config import TRAINS_ROUTERS, ModelConfig
from gptjax.models.mixers.kernels import beyond_blockwise
from gptjax.models.mixers.mixer import MIXERS, mixer_of
from gptjax.models.vision.config import JOINS


def validate(config: ModelConfig) -> None:
    """Check the fields against each other.

    Raises:
      UserError: naming the field, its value and the repair.
    """
    if config.vocab_size == 0:
        raise UserError("model.vocab_size=0 is not filled in; give the tokenizer's vocabulary size")
    if not config.head_dim and config.width % config.num_heads:
        tries = _divisors_near(config.width, config.num_heads)
        raise UserError(
            f"model.width={config.width} is not a multiple of model.num_heads="
            f"{config.num_heads}; try num_heads={tries}, or set model.head_dim"
        )
    if config.num_heads % config.kv_heads:
        tries = _divisors_near(config.num_heads, config.kv_heads)
        raise UserError(
            f"model.num_heads={config.num_heads} is not a multiple of model.num_kv_heads="
            f"{config.kv_heads}; try num_kv_heads={tries}"
        )
    if config.positions == "rotary":
        _check_rotary(config)
    JOINS[config.vision.join].check(config)
    if not config.layer_pattern:
        raise UserError("model.layer_pattern=() names no layer; give ('global',)")
    if not config.mlp_pattern:
        raise UserError("model.mlp_pattern=() names no feed-forward; give ('dense',)")
    _check_experts(config)
    _check_limit(config)
    _check_mixers(config)
    windowed = [kind for kind in config.layer_pattern if MIXERS[kind].windowed]
    if windowed and not config.window:
        raise UserError(
            f"model.window=0 gives the {windowed[0]} layers of model.layer_pattern nothing to see; "
            "set model.window to a number of tokens"
        )
    if config.window and not windowed:
        raise UserError(
            f"model.window={config.window} has no layer to act in; set "
            "model.layer_pattern=('local',) or ('global','local')"
        )
    if config.block != "sequential" and config.norm_place != "pre":
        raise UserError(
            f"model.block={config.block} needs model.norm_place=pre, not {config.norm_place}; "
            "change one of them"
        )
    if config.attention_impl == "blockwise" and beyond_blockwise(config):
        raise UserError(
            f"model.attention_impl=blockwise has no {beyond_blockwise(config)}; set "
            "model.attention_impl=auto"
        )
    if config.softmaxes > 1 and (config.logit_soft_cap or config.logit_scale != 1.0):
        raise UserError(
            f"model.softmaxes={config.softmaxes} mixes probabilities, and model.logit_soft_cap and "
            "model.logit_scale change logits; leave those at their defaults"
        )
    if config.positions == "sinusoidal" and config.width % 2:
        raise UserError(
            f"model.width={config.width} is odd, and sinusoidal positions come in pairs; "
            f"set model.width={config.width + 1}"
        )


def _check_experts(config: ModelConfig) -> None:
    used = "experts" in config.mlp_pattern
    if used != bool(config.experts.count):
        raise UserError(
            f"model.experts.count={config.experts.count} does not fit model.mlp_pattern="
            f"{config.mlp_pattern}; set both or neither"
        )
    if not used:
        _check_no_router(config)
        return
    _check_router(config)
    if config.experts.per_token > config.experts.count:
        raise UserError(
            f"model.experts.per_token={config.experts.per_token} is more than model.experts.count="
            f"{config.experts.count}; give at most that"
        )
    if (
        config.experts.count % config.experts.router_groups
        or config.experts.router_top_groups > config.experts.router_groups
    ):
        raise UserError(
            f"model.experts.router_groups={config.experts.router_groups} does not divide "
            "model.experts.count="
            f"{config.experts.count}, or is less than model.experts.router_top_groups="
            f"{config.experts.router_top_groups}; change one of them"
        )
    if config.mlp_limit or config.mlp == "gegelu":
        raise UserError(
            f"model.mlp={config.mlp} with model.mlp_limit={config.mlp_limit:g} is not built for "
            "experts; set model.mlp=geglu and model.mlp_limit=0"
        )
    if config.has_bias("mlp"):
        raise UserError(
            "model.bias_places has mlp, and experts have no biases; set model.use_bias=false or "
            "leave mlp out"
        )


def _check_limit(config: ModelConfig) -> None:
    if config.mlp_limit and not ops.FEED_FORWARD[config.mlp][1]:
        raise UserError(
            f"model.mlp_limit={config.mlp_limit:g} limits gates, and model.mlp={config.mlp} has "
            "none; set model.mlp_limit=0, or model.mlp=gegelu"
        )


def _check_no_router(config: ModelConfig) -> None:
    for name in TRAINS_ROUTERS:
        given = getattr(config.experts, name)
        if given:
            raise UserError(
                f"model.experts.{name}={given} has no experts to act on; set it to 0, or "
                "model.mlp_pattern=('experts',) and model.experts.count"
            )


def _check_router(config: ModelConfig) -> None:
    """The load loss compares a choice with the next one, by noise."""
    estimable = config.experts.router_noise and config.experts.per_token < config.experts.count
    if config.experts.load_loss and not (estimable and config.experts.router_groups == 1):
        raise UserError(
            f"model.experts.load_loss={config.experts.load_loss:g} needs noise and a choice among "
            "all experts; set "
            "model.experts.router_noise=true, model.experts.per_token below model.experts.count "
            "and "
            "model.experts.router_groups=1, or model.experts.load_loss=0"
        )


def _check_mixers(config: ModelConfig) -> None:
    """Each by its own rules, and those that fit one order of norms and sublayers only."""
    for kind in (kind for kind in MIXERS if kind in config.layer_pattern):
        mixer_of(config, kind).check(config)
        if config.dropout.attention and MIXERS[kind].attends and not MIXERS[kind].shares_kernels:
            raise UserError(
                f"model.dropout.attention={config.dropout.attention:g} is not built for {kind} in "
                "model.layer_pattern; set it to 0, or model.layer_pattern=('global',)"
            )
    ordered = [kind for kind in config.layer_pattern if MIXERS[kind].only_sequential]
    special = ordered or "none" in config.mlp_pattern
    if special and (config.block, config.norm_place) != ("sequential", "pre"):
        raise UserError(
            f"{ordered[0] if ordered else 'ssm'} in model.layer_pattern and none in "
            "model.mlp_pattern need "
            f"model.block=sequential and model.norm_place=pre, not {config.block} and "
            f"{config.norm_place}; change them"
        )


def _check_rotary(config: ModelConfig) -> None:
    if config.head_width % 2:
        raise UserError(
            f"model.head_dim={config.head_width} is odd, and rotary positions rotate pairs; "
            f"set model.head_dim={config.head_width + 1}"
        )
    if config.rotary_width % 2 or config.rotary_width == 0:
        raise UserError(
            f"model.rope.fraction={config.rope.fraction:g} rotates {config.rotary_width} of "
            f"{config.head_width} columns, which are not pairs; give another fraction"
        )
    if config.rope.scaling in ("yarn", "llama3") and config.rope.fast <= config.rope.slow:
        raise UserError(
            f"model.rope.fast={config.rope.fast:g} is not above model.rope.slow="
            f"{config.rope.slow:g}; give a larger one"
        )
    if config.rope.scaling in ("ntk", "dynamic") and config.rotary_width < 4:
        raise UserError(
            f"model.rope.scaling={config.rope.scaling} needs at least two pairs, and "
            f"model.head_dim={config.head_width} has one; give a wider head"
        )
    if config.rope.scaling == "longrope":
        for name in ("short_factors", "long_factors"):
            given = len(getattr(config.rope, name))
            if given != config.rotary_width // 2:
                raise UserError(
                    f"model.rope.{name} has {given} numbers for {config.rotary_width // 2} pairs; "
                    "give "
                    "one for each pair"
                )


def _divisors_near(number: int, wanted: int) -> str:
    """The divisors of `number` just below and above `wanted`, as words."""
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    below = [d for d in divisors if d < wanted][-1:]
    above = [d for d in divisors if d > wanted][:1]
    return " or ".join(str(d) for d in below + above)
