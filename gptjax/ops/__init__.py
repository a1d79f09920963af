"""Pure maths on arrays: no parameters, no configs, no files."""

from gptjax.ops.activations import FEED_FORWARD, gelu, gelu_tanh, relu, swish
from gptjax.ops.attention import attention
from gptjax.ops.linear import linear
from gptjax.ops.losses import cross_entropy
from gptjax.ops.norms import layer_norm, rms_norm
from gptjax.ops.positions import rotary, sinusoids

__all__ = [
    "FEED_FORWARD",
    "attention",
    "cross_entropy",
    "gelu",
    "gelu_tanh",
    "layer_norm",
    "linear",
    "relu",
    "rms_norm",
    "rotary",
    "sinusoids",
    "swish",
]
