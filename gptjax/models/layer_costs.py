"""Costs of a model, summed over its layers: forward FLOPs of a token, and bytes of its cache."""

from gptjax.models import heads
from gptjax.models.config import ModelConfig
from gptjax.models.mixers.mixer import mixer_of
from gptjax.models.mlp import MLPS
from gptjax.models.vision.config import JOINS


def forward_flops(config: ModelConfig) -> float:
    """Matmul FLOPs of one token's forward pass, attention over the full square of the context.

    A picture's are spread over the `seq_len` tokens that it stands before.

    >>> small = ModelConfig(depth=1, width=2, num_heads=1, mlp_width=8, seq_len=4, vocab_size=10)
    >>> forward_flops(small)
    168.0
    """
    head = heads.flops(config)
    picture, token = JOINS[config.vision.join].flops(config)
    return (
        head
        + picture / config.seq_len
        + token
        + sum(
            mixer_of(config, layer.mixer).flops(config) + MLPS[layer.mlp].flops(config)
            for layer in config.layers_of_depth
        )
    )


def cache_bytes(config: ModelConfig, context: int) -> int:
    """Bytes that a decoder must keep of `context` tokens to go on, in all its layers.

    Keys, values and latent vectors in the type of the activations, states in float32. What no later
    token can see is not counted: a window keeps its last tokens, `fixed` the last of each block.

    >>> cache_bytes(ModelConfig(depth=1, width=8, num_heads=2, vocab_size=9), 10)
    640
    """
    layers = config.layers_of_depth
    return sum(mixer_of(config, layer.mixer).cache_bytes(config, context) for layer in layers)
