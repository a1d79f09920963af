"""Mixture of experts: a feed-forward whose router sends each token to few of many."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import flax.linen as nn
import jax
import jax.numpy as jnp

from gptjax import ops
from gptjax.fields import setting
from gptjax.models.mlp import MLPS, Mlp, matrices
from gptjax.models.parameters import hidden_init, parameter, residual_init, weight
from gptjax.models.product import multiply_ragged, multiply_slots, product

if TYPE_CHECKING:
    from gptjax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class ExpertsConfig:
    """Mixtures of experts, of the layers that have them in model.mlp_pattern."""

    count: int = setting(0, "experts of a layer that has them", minimum=0, was="num_experts")
    per_token: int = setting(2, "experts that a token passes", minimum=1, was="experts_per_token")
    width: int = setting(
        0, "hidden width of an expert; 0: that of the feed-forward", minimum=0, was="expert_width"
    )
    shared: int = setting(
        0, "experts that every token passes besides", minimum=0, was="shared_experts"
    )
    router: str = setting(
        "renormalised",
        "an expert's weight: its probability over the sum of those chosen (Mixtral), or its "
        "probability (DeepSeek)",
        choices=("renormalised", "softmax"),
        was="router",
    )
    router_scale: float = setting(
        1.0, "multiplies the weights (DeepSeek-V2: 16)", above=0.0, was="router_scale"
    )
    router_groups: int = setting(
        1, "groups of experts; a token looks into few", minimum=1, was="router_groups"
    )
    router_top_groups: int = setting(
        1, "groups that a token looks into", minimum=1, was="router_top_groups"
    )
    router_noise: bool = setting(
        False, "learned noise on the router's logits in training (Shazeer 2017)", was="router_noise"
    )
    capacity_factor: float = setting(
        0.0,
        "slots of an expert in a training sequence, over an even share of its choices; choices "
        "beyond that are dropped (Switch: 1.25); 0: no limit",
        minimum=0.0,
        was="capacity_factor",
    )
    balance_loss: float = setting(
        0.0,
        "weight of E·Σ f·P in the training loss, each layer (Switch: 0.01)",
        minimum=0.0,
        was="balance_loss",
    )
    router_z_loss: float = setting(
        0.0,
        "weight of (log Σ exp logit)² of the routers (ST-MoE: 0.001)",
        minimum=0.0,
        was="router_z_loss",
    )
    importance_loss: float = setting(
        0.0,
        "weight of CV² of the experts' summed weights (Shazeer 2017: 0.1)",
        minimum=0.0,
        was="importance_loss",
    )
    load_loss: float = setting(
        0.0,
        "weight of CV² of the experts' expected loads, with noise (the same: 0.1)",
        minimum=0.0,
        was="load_loss",
    )
    balance_over: str = setting(
        "batch",
        "tokens over which the balance loss is computed: a micro-batch (Switch), or each sequence "
        "(DeepSeek-V2)",
        choices=("batch", "sequence"),
        was="balance_over",
    )


ROUTING = "intermediates", "routing"
"""Collection and name under which a mixture sows its Routing."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Routing:
    """Statistics of the routers on a batch; every leaf has a leading axis of layers.

    All are means over sequences or tokens: those of a batch are the means of its micro-batches'.

    Attributes:
      losses: before their weights, under the names of the settings that weigh them.
      share_E: share of the choices that each expert got, dropped ones counted.
      dropped: share of the choices beyond their expert's capacity.
    """

    losses: dict[str, jax.Array]
    share_E: jax.Array
    dropped: jax.Array


def loss_names(config: "ModelConfig") -> tuple[str, ...]:
    """The losses of `Routing`."""
    names = ("balance_loss", "router_z_loss", "importance_loss")
    estimates_load = config.experts.router_noise and config.experts.per_token < config.experts.count
    return (*names, "load_loss") if estimates_load else names


def router_penalty(config: "ModelConfig", routing: Routing | None) -> jax.Array | float:
    """The routers' part of the training loss: the weighted losses, summed over layers."""
    if routing is None:
        return 0.0
    weights = {name: getattr(config.experts, name) for name in loss_names(config)}
    weighed = {name: weight for name, weight in weights.items() if weight}
    return sum((weight * routing.losses[name].sum() for name, weight in weighed.items()), 0.0)


class Experts(nn.Module):
    """A router over the config's experts, and shared experts that every token passes."""

    config: "ModelConfig"

    @nn.compact
    def __call__(self, x_BTD: jax.Array, seeds_B: jax.Array | None = None) -> jax.Array:
        """The sum of the experts' outputs.

        Args:
          seeds_B: one for each sequence, of the router's noise; without it there is none.
        """
        cfg = self.config
        clean_BTE, noisy_BTE, spread_BTE = self._logits(x_BTD, seeds_B)
        weights_BTk, experts_BTk = self._route(noisy_BTE)
        y_BTD, dropped = self._mix(x_BTD, weights_BTk, experts_BTk)
        losses = self._losses(clean_BTE, noisy_BTE, spread_BTE, weights_BTk, experts_BTk)
        share_E = ops.expert_share(experts_BTk, cfg.experts.count).mean(axis=0)
        self.sow(*ROUTING, Routing(losses, share_E, dropped))
        if cfg.experts.shared:
            y_BTD = y_BTD + self._shared(x_BTD)
        return y_BTD

    def _logits(self, x_BTD: jax.Array, seeds_B: jax.Array | None) -> tuple[jax.Array, ...]:
        """Router logits without and with noise, and the noise's spread, float32.

        Noise as Shazeer et al., "Outrageously Large Neural Networks" (2017), equation 4, with the
        0.01 that their released code adds to its spread.
        """
        cfg = self.config
        x_BTD, shape = x_BTD.astype(jnp.float32), (cfg.width, cfg.experts.count)
        axes = ("embed", "experts_routed")
        clean_BTE = x_BTD @ parameter(self, "router", shape, axes, hidden_init(cfg))
        if not cfg.experts.router_noise:
            return clean_BTE, clean_BTE, clean_BTE
        w_DE = parameter(self, "router_noise", shape, axes, nn.initializers.zeros)
        spread_BTE = jax.nn.softplus(x_BTD @ w_DE) + 0.01
        if seeds_B is None:
            return clean_BTE, clean_BTE, spread_BTE
        draw = jax.vmap(lambda seed: jax.random.normal(jax.random.key(seed), clean_BTE.shape[1:]))
        return clean_BTE, clean_BTE + spread_BTE * draw(seeds_B), spread_BTE

    def _route(self, logits_BTE: jax.Array) -> tuple[jax.Array, jax.Array]:
        cfg, shape = self.config, (*logits_BTE.shape[:2], -1)
        weights_Mk, experts_Mk = ops.route(
            logits_BTE.reshape(-1, cfg.experts.count),
            cfg.experts.per_token,
            renormalise=cfg.experts.router == "renormalised",
            scale=cfg.experts.router_scale,
            groups=cfg.experts.router_groups,
            top_groups=cfg.experts.router_top_groups,
        )
        return weights_Mk.reshape(shape), experts_Mk.reshape(shape)

    def _losses(
        self,
        clean_BTE: jax.Array,
        noisy_BTE: jax.Array,
        spread_BTE: jax.Array,
        weights_BTk: jax.Array,
        experts_BTk: jax.Array,
    ) -> dict[str, jax.Array]:
        cfg = self.config

        def grouped(x: jax.Array) -> jax.Array:
            return x if cfg.experts.balance_over == "sequence" else x.reshape(1, -1, x.shape[-1])

        clean, noisy, spread, weights, experts = map(
            grouped, (clean_BTE, noisy_BTE, spread_BTE, weights_BTk, experts_BTk)
        )
        found = {
            "balance_loss": ops.balance_loss(noisy, experts),
            "router_z_loss": ops.router_z_loss(clean),
            "importance_loss": ops.importance_loss(weights, experts, cfg.experts.count),
        }
        if "load_loss" in loss_names(cfg):
            found["load_loss"] = ops.load_loss(clean, noisy, spread, cfg.experts.per_token)
        return found

    def _mix(
        self, x_BTD: jax.Array, weights_BTk: jax.Array, experts_BTk: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """(weighted sum over each token's experts, share of the choices that were dropped)."""
        cfg = self.config
        D, E, k = cfg.width, cfg.experts.count, cfg.experts.per_token
        feed_forward = self._feed_forward()
        if not cfg.experts.capacity_factor:
            x_MD, weights_Mk = x_BTD.reshape(-1, D), weights_BTk.reshape(-1, k)

            def sorted_tokens(x_SD: jax.Array, sizes_E: jax.Array) -> jax.Array:
                return feed_forward(x_SD, lambda x, leaf: multiply_ragged(leaf, x, sizes_E))

            y_MD = ops.mix_experts(x_MD, weights_Mk, experts_BTk.reshape(-1, k), E, sorted_tokens)
            return y_MD.reshape(x_BTD.shape), jnp.zeros(())
        C = ops.expert_capacity(cfg.experts.capacity_factor, x_BTD.shape[1], k, E)
        slot_BTk = ops.assign_slots(experts_BTk, E, C)
        x_BECD = _to_experts(ops.dispatch(x_BTD, slot_BTk, E, C))
        y_BECD = feed_forward(x_BECD, lambda x, leaf: multiply_slots(leaf, x))
        dropped = jnp.mean(slot_BTk == E * C, dtype=jnp.float32)
        return ops.combine(_to_tokens(y_BECD), slot_BTk, weights_BTk), dropped

    def _feed_forward(self) -> Callable[[jax.Array, Callable], jax.Array]:
        """(x, (x, leaf) → product) → down(activation(gate·x)·up·x), each expert by its matrices."""
        cfg = self.config
        D, E, F = cfg.width, cfg.experts.count, cfg.expert_hidden_width
        activation, gated = ops.FEED_FORWARD[cfg.mlp]
        axes = ("experts", "embed", "mlp")
        up_EDF = weight(self, "experts_up", (E, D, F), axes, hidden_init(cfg))
        if gated:
            gate_EDF = weight(self, "experts_gate", (E, D, F), axes, hidden_init(cfg))
        axes = ("experts", "mlp", "embed")
        down_EFD = weight(self, "experts_down", (E, F, D), axes, residual_init(cfg))

        def apply(x: jax.Array, multiply: Callable) -> jax.Array:
            h = multiply(x, up_EDF)
            h = activation(multiply(x, gate_EDF)) * h if gated else activation(h)
            return multiply(h, down_EFD)

        return apply

    def _shared(self, x_BTD: jax.Array) -> jax.Array:
        cfg = self.config
        D, F = cfg.width, cfg.experts.shared * cfg.expert_hidden_width
        activation, gated = ops.FEED_FORWARD[cfg.mlp]

        def up(name: str) -> jax.Array:
            w_DF = weight(self, name, (D, F), ("embed", "mlp"), hidden_init(cfg))
            return product(x_BTD, w_DF)

        h_BTF = up("shared_up")
        h_BTF = activation(up("shared_gate")) * h_BTF if gated else activation(h_BTF)
        w_FD = weight(self, "shared_down", (F, D), ("mlp", "embed"), residual_init(cfg))
        return product(h_BTF, w_FD)


def _to_experts(x_BECD: jax.Array) -> jax.Array:
    """Slots sharded by sequence, then by expert where the mesh shards experts: an all-to-all."""
    x_BECD = nn.with_logical_constraint(x_BECD, ("batch", None, None, None))
    return nn.with_logical_constraint(x_BECD, ("dispatched", "experts", None, None))


def _to_tokens(y_BECD: jax.Array) -> jax.Array:
    """The way back."""
    y_BECD = nn.with_logical_constraint(y_BECD, ("dispatched", "experts", None, None))
    return nn.with_logical_constraint(y_BECD, ("batch", None, None, None))


def _params(config: "ModelConfig", active: bool) -> int:
    D, F = config.width, config.expert_hidden_width
    count = config.experts.per_token if active else config.experts.count
    routers = D * config.experts.count * (1 + config.experts.router_noise)
    return routers + matrices(config) * D * F * (count + config.experts.shared)


def experts_flops(
    *, width: int, hidden: int, matrices: int, num_experts: int, per_token: int, shared: int = 0
) -> float:
    """Forward FLOPs a token of a mixture of experts: the router, and the experts it passes.

    >>> experts_flops(width=2, hidden=4, matrices=3, num_experts=8, per_token=2, shared=1)
    176.0
    """
    return 2.0 * width * (num_experts + matrices * hidden * (per_token + shared))


def _flops(config: "ModelConfig") -> float:
    return experts_flops(
        width=config.width,
        hidden=config.expert_hidden_width,
        matrices=matrices(config),
        num_experts=config.experts.count * (1 + config.experts.router_noise),
        per_token=config.experts.per_token,
        shared=config.experts.shared,
    )


MLPS["experts"] = Mlp(
    Experts,
    _params,
    _flops,
    held=lambda config: 16.0 * config.experts.per_token * config.expert_hidden_width,
    routes=True,
)
MLPS["none"] = Mlp(None, lambda config, active: 0, lambda config: 0.0, lambda config: 0.0)
