"""Mixture of softmaxes as a head: log-probabilities whose rank the width does not bound."""

from typing import Any

import flax.linen as nn
import jax

from gptjax import ops
from gptjax.models.config import ModelConfig
from gptjax.models.parameters import initializer, weight
from gptjax.models.product import dense


class SoftmaxMixture(nn.Module):
    """log Σ_k π_k softmax(tanh(x·P_k)·W), π = softmax(x·G): Yang et al. (2018), equation 2."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array, w_DV: Any) -> jax.Array:
        """float32 log-probabilities [B, T, V]."""
        D, K = self.config.width, self.config.softmaxes
        init = initializer(self.config)
        gate_DK = weight(self, "gate", (D, K), ("embed", "softmaxes"), init)
        axes = ("embed", "softmaxes", "projected")
        project_DKD = weight(self, "project", (D, K, D), axes, init)
        each = (dense(leaf, x_BTD.dtype) for leaf in (gate_DK, project_DKD, w_DV))
        return ops.mixture_of_softmaxes(x_BTD, *(leaf.astype(x_BTD.dtype) for leaf in each))


def size(config: ModelConfig) -> int:
    """Parameters beside the matrix that the softmaxes share."""
    D, K = config.width, config.softmaxes
    return (D + D * D) * K if K > 1 else 0


def flops(config: ModelConfig) -> float:
    """Of one token: K products with the head, and those that make their inputs.

    >>> flops(ModelConfig(width=2, num_heads=1, vocab_size=10))
    40.0
    """
    K = config.softmaxes
    return float(K * 2 * config.width * config.vocab_size + 2 * size(config))
