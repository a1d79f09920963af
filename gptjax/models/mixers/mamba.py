"""Mamba's mixer (Gu & Dao, 2023, figure 3) in the layout of the published weights."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gptjax import ops
from gptjax.fields import setting
from gptjax.models.mixers.cache import Kept, keep, kept
from gptjax.models.mixers.mixer import Mixer, TokenInfo, register
from gptjax.models.parameters import bias_at, hidden_init, parameter, residual_init, weight
from gptjax.models.product import dense, product
from gptjax.ops.backend import platform

if TYPE_CHECKING:
    from gptjax.models.config import ModelConfig

SCANS = {
    "associative": (ops.selective_scan, ops.selective_scan_from),
    "in_turn": (ops.selective_scan_in_turn, ops.selective_scan_from_in_turn),
}
"""By `model.mixer.ssm.scan`: over all tokens, and on from a state that it gives back."""


@dataclasses.dataclass(frozen=True)
class SsmConfig:
    """Mamba's selective state space, of ssm layers."""

    state: int = setting(16, "mamba: states of a channel", minimum=1, was="ssm_state")
    expand: int = setting(2, "mamba: channels over model.width", minimum=1, was="ssm_expand")
    conv: int = setting(4, "mamba: taps of the convolution", minimum=2, was="ssm_conv")
    rank: int = setting(
        0, "mamba: rank of the step size; 0: width / 16, upwards", minimum=0, was="ssm_rank"
    )
    scan: str = setting(
        "auto",
        "mamba: all tokens at once, or one after the other; auto: the latter on a CPU; the numbers "
        "are the same",
        choices=("auto", *SCANS),
        was="ssm_scan",
    )


STEP_RANGE = (1e-3, 1e-1)  # of Δ at the start (Gu & Dao, 2023, section 3.6)
MATRICES = ("in", "select", "step", "out")
"""Parameters that are multiplied as matrices; the others act on each channel alone."""


class Mamba(nn.Module):
    """Convolution, selective scan and gate, between two projections."""

    config: "ModelConfig"
    kind: str = "ssm"

    @nn.compact
    def __call__(self, x_BTD: jax.Array, info: TokenInfo) -> jax.Array:
        cfg, segment_ids_BT = self.config, info.segment_ids_BT
        D, I = cfg.width, cfg.ssm_width
        w = _weights(self)
        b_2I = bias_at(self, "mlp", "in_bias", (2 * I,), ("mlp",))
        both = product(x_BTD, w["in"], b_2I)
        x_BTI, gate_BTI = both[..., :I], both[..., I:]
        if info.decoding is not None:
            y_BTI = self._with_cache(w, x_BTI, info)
            y_BTI = y_BTI.astype(x_BTD.dtype) * ops.swish(gate_BTI)
            return product(y_BTI, w["out"], bias_at(self, "mlp", "out_bias", (D,), ("embed",)))
        x_BTI = ops.swish(
            ops.causal_convolution(x_BTI, w["conv"], w["conv_bias"], segment_ids_BT=segment_ids_BT)
        )
        step_BTI, b_BTZ, c_BTZ = _select(cfg, w, x_BTI)
        a_IZ = -jnp.exp(w["state_log_scale"])
        y_BTI = _scan_of(cfg)(x_BTI, step_BTI, a_IZ, b_BTZ, c_BTZ, segment_ids_BT=segment_ids_BT)
        y_BTI = (y_BTI + x_BTI * w["skip_scale"]).astype(x_BTD.dtype) * ops.swish(gate_BTI)
        return product(y_BTI, w["out"], bias_at(self, "mlp", "out_bias", (D,), ("embed",)))

    def _with_cache(self, w: Any, x_BTI: jax.Array, info: TokenInfo) -> jax.Array:
        """The scan's output and the skip, from the state that the cache holds.

        A token that does not count has Δ = 0, which leaves the state as it is.
        """
        assert info.positions_BT is not None
        cache, there_BT = kept(self), info.positions_BT >= 0
        C, T = w["conv"].shape[0], x_BTI.shape[1]
        seen_BTI = jnp.concatenate([cache["inputs"].astype(x_BTI.dtype), x_BTI], axis=1)
        convolved = ops.causal_convolution(seen_BTI, w["conv"], w["conv_bias"])[:, C - 1 :]
        x_BTI = ops.swish(convolved)
        step_BTI, b_BTZ, c_BTZ = _select(self.config, w, x_BTI)
        step_BTI = step_BTI * there_BT[..., None]
        y_BTI, h_BIZ = _scan_of(self.config, going_on=True)(
            x_BTI, step_BTI, -jnp.exp(w["state_log_scale"]), b_BTZ, c_BTZ, cache["state"]
        )
        last_BC = jnp.sum(there_BT, axis=1, keepdims=True) + jnp.arange(C - 1)
        inputs_BCI = jnp.take_along_axis(seen_BTI, last_BC[..., None], axis=1)
        keep(self, {"inputs": inputs_BCI.astype(cache["inputs"].dtype), "state": h_BIZ})
        assert y_BTI.shape[1] == T
        return y_BTI + x_BTI * w["skip_scale"]


def initial_state(config: "ModelConfig", batch: int) -> tuple[jax.Array, jax.Array]:
    """(last inputs of the convolution [B, C−1, I], h [B, I, Z]) before the first token."""
    I = config.ssm_width
    window = jnp.zeros((batch, config.mixer.ssm.conv - 1, I), jnp.dtype(config.compute_dtype))
    return window, jnp.zeros((batch, I, config.mixer.ssm.state), jnp.float32)


def step(
    config: "ModelConfig", w: Any, x_BD: jax.Array, state: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """One token through a mixer with the parameters `w`: (output [B, D], the next state)."""
    w = {name: leaf if name in MATRICES else dense(leaf, jnp.float32) for name, leaf in w.items()}
    window_BCI, h_BIZ = state
    I = config.ssm_width
    both = product(x_BD, w["in"], w.get("in_bias"))
    x_BI, gate_BI = both[..., :I], both[..., I:]
    seen_BCI = jnp.concatenate([window_BCI, x_BI[:, None]], axis=1)
    x_BI = ops.swish(jnp.einsum("bci,ci->bi", seen_BCI, w["conv"]) + w["conv_bias"])
    step_BI, b_BZ, c_BZ = _select(config, w, x_BI)
    y_BI, h_BIZ = ops.selective_step(
        h_BIZ, x_BI, step_BI, -jnp.exp(w["state_log_scale"]), b_BZ, c_BZ
    )
    y_BI = (y_BI + x_BI * w["skip_scale"]).astype(x_BD.dtype) * ops.swish(gate_BI)
    return product(y_BI, w["out"], w.get("out_bias")), (seen_BCI[:, 1:], h_BIZ)


def _weights(module: Any) -> dict[str, Any]:
    cfg = module.config
    D, I, Z, C, R = (
        cfg.width,
        cfg.ssm_width,
        cfg.mixer.ssm.state,
        cfg.mixer.ssm.conv,
        cfg.ssm_step_rank,
    )
    shapes: dict[str, tuple] = {
        "in": ((D, 2 * I), ("embed", "mlp"), hidden_init(cfg)),
        "conv": ((C, I), ("conv", "mlp"), _uniform(C**-0.5)),
        "conv_bias": ((I,), ("mlp",), _uniform(C**-0.5)),
        "select": ((I, R + 2 * Z), ("mlp", "state"), hidden_init(cfg)),
        "step": ((R, I), ("rank", "mlp"), _uniform(R**-0.5)),
        "step_bias": ((I,), ("mlp",), _step_bias),
        "state_log_scale": ((I, Z), ("mlp", "state"), _state_log),
        "skip_scale": ((I,), ("mlp",), nn.initializers.ones),
        "out": ((I, D), ("mlp", "embed"), residual_init(cfg)),
    }
    return {
        name: (weight if name in MATRICES else parameter)(module, name, *row)
        for name, row in shapes.items()
    }


def _scan_of(config: "ModelConfig", *, going_on: bool = False) -> Any:
    """The scan over tokens that the config names, or that suits the backend.

    Args:
      going_on: from a state, which it gives back.
    """
    name = config.mixer.ssm.scan
    if name == "auto":
        name = "in_turn" if platform() == "cpu" else "associative"
    return SCANS[name][going_on]


def _select(config: "ModelConfig", w: Any, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Δ, B and C from the convolved input."""
    R, Z = config.ssm_step_rank, config.mixer.ssm.state
    chosen = product(x, w["select"])
    step = product(chosen[..., :R], w["step"], dtype=jnp.float32) + w["step_bias"]
    return jax.nn.softplus(step), chosen[..., R : R + Z], chosen[..., R + Z :]


def _uniform(bound: float) -> Any:
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def _step_bias(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """The inverse softplus of Δ drawn log-uniformly from STEP_RANGE."""
    low, high = map(math.log, STEP_RANGE)
    step = jnp.exp(jax.random.uniform(key, shape, dtype, low, high))
    return step + jnp.log(-jnp.expm1(-step))


def _state_log(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """log 1…Z in every channel: S4D's real initialisation."""
    return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[-1] + 1, dtype=dtype)), shape)


STATES = 8.0
"""Copies of all states that the backward pass holds, measured on a CPU."""


def _held(config: "ModelConfig", segmented: bool) -> float:
    """Bytes of a token where an activation has two: states are float32 beside 16-bit ones too."""
    states = config.ssm_width * config.mixer.ssm.state
    return STATES * states * 4 / jnp.dtype(config.compute_dtype).itemsize


def _params(config: "ModelConfig") -> int:
    D, I, Z = config.width, config.ssm_width, config.mixer.ssm.state
    R, C = config.ssm_step_rank, config.mixer.ssm.conv
    biases = config.has_bias("mlp") * (2 * I + D)
    return 3 * D * I + I * (C + 1) + I * (R + 2 * Z) + R * I + I + I * Z + I + biases


def _flops(config: "ModelConfig") -> float:
    """Projections, convolution, and two multiply-adds for each state: its update and its output."""
    D, I, Z = config.width, config.ssm_width, config.mixer.ssm.state
    R, C = config.ssm_step_rank, config.mixer.ssm.conv
    projections = 3 * D * I + I * (R + 2 * Z) + R * I
    return 2.0 * (projections + C * I + 2 * I * Z)


def _cache_bytes(config: "ModelConfig", context: int) -> int:
    """The convolution's last inputs, and the states in float32, whatever the context."""
    window = (config.mixer.ssm.conv - 1) * jnp.dtype(config.compute_dtype).itemsize
    return config.ssm_width * (window + 4 * config.mixer.ssm.state)


def _cache(config: "ModelConfig", tokens: int) -> dict[str, Kept]:
    I = config.ssm_width
    return {
        "inputs": Kept((config.mixer.ssm.conv - 1, I), (None, "mlp")),
        "state": Kept((I, config.mixer.ssm.state), ("mlp", "state"), jnp.float32),
    }


register(
    "ssm",
    Mixer(
        module=Mamba,
        params=_params,
        flops=_flops,
        cache_bytes=_cache_bytes,
        held=_held,
        cache=_cache,
        rewinds=False,
        name="ssm",
        attends=False,
        only_sequential=True,
    ),
)
