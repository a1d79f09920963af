"""Parameters counted from the settings alone."""

from gptjax import ops
from gptjax.models.config import Layer, ModelConfig
from gptjax.models.experts import experts_size
from gptjax.models.mixers.latent import latent_size
from gptjax.models.mixers.mamba import mamba_size
from gptjax.models.mixers.sparse import extra_size


def sizes(config: ModelConfig, *, active: bool = False) -> tuple[int, int]:
    """(parameters of the embedding, all others but an untied head), without tracing the modules.

    A plan counts hundreds of shapes, and tracing one takes a tenth of a second.

    Args:
      active: of the experts, count only those that one token passes.
    """
    D = config.width
    norm = D * (1 + (config.norm == "layernorm" and config.has_bias("norm")))
    total = 0
    for layer in config.layers_of_depth:
        sublayers = 1 + (layer.mlp != "none")
        norms = sublayers * (2 if config.norm_place == "both" else 1)
        norms -= config.block == "parallel_shared_norm"
        total += norms * norm + _mixer_size(config, layer)
        if layer.mlp == "experts":
            total += experts_size(config, active=active)
        elif layer.mlp == "dense":
            total += _feed_forward_size(config)
    positions = config.seq_len if config.positions == "learned" else 0
    last = norm * (config.norm_place != "post")
    return (config.vocab_size + positions) * D, total + last


def _mixer_size(config: ModelConfig, layer: Layer) -> int:
    if layer.mixer == "ssm":
        return mamba_size(config)
    if config.kv_rank:
        return latent_size(config)
    return _attention_size(config) + extra_size(config, layer.mixer)


def _attention_size(config: ModelConfig) -> int:
    D, N, K, H = config.width, config.num_heads, config.kv_heads, config.head_width
    inputs = N * (1 + config.attention_gate) + 2 * K
    weights = D * H * (inputs + N)
    biases = config.has_bias("qkv") * H * inputs + config.has_bias("out") * D
    head_norms = {"none": 0, "shared": 2 * H, "per_head": (N + K) * H}[config.qk_norm]
    return weights + biases + head_norms + config.attention_sinks * N


def _feed_forward_size(config: ModelConfig) -> int:
    D, F = config.width, config.hidden_width
    up = 2 if ops.FEED_FORWARD[config.mlp][1] else 1
    return D * F * (up + 1) + config.has_bias("mlp") * (up * F + D)
