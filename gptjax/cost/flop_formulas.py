"""FLOPs formulas of a dense decoder, from plain numbers, with 6 N D beside them.

A second count of what `cost/flops.py` sums over the layers of a config; tests compare the two.

A multiplication and an addition count as two operations. Only matrix products are counted:
norms, softmax, positions and the embedding lookup are left out, as everybody does. Attention is
counted over the full T x T square, as a dense implementation executes it; `causal=True` counts the
lower half instead. A query of a layer with a window is counted with at most that many keys. A
training token costs three times its forward pass.
"""

import dataclasses
import math

from gptjax.errors import UserError

TRAINING_OVER_FORWARD = 3


@dataclasses.dataclass(frozen=True)
class ForwardFlops:
    """FLOPs of one token's forward pass, by part."""

    attention_projections: float
    attention_scores: float
    mlp: float
    head: float
    other: float = 0.0

    @property
    def total(self) -> float:
        """The sum of the parts."""
        dense = self.attention_projections + self.attention_scores + self.mlp + self.head
        return dense + self.other


def forward_flops(
    *,
    depth: int,
    width: int,
    num_heads: int,
    mlp_width: int,
    seq_len: int,
    vocab_size: int,
    num_kv_heads: int = 0,
    head_dim: int = 0,
    mlp_matrices: int = 2,
    gated_attention: bool = False,
    local_layers: int = 0,
    window: int = 0,
    attention_layers: int | None = None,
    mlp_layers: int | None = None,
    other: float = 0.0,
    causal: bool = False,
) -> ForwardFlops:
    """Forward matmul FLOPs per token of a decoder.

    Args:
      depth, width, num_heads, mlp_width, seq_len, vocab_size: the shape of the model.
      num_kv_heads: key/value heads; 0 means num_heads.
      head_dim: width of a head; 0 means width / num_heads.
      mlp_matrices: 2 for GELU and ReLU, 3 for gated MLPs.
      gated_attention: one more projection of the queries' width in every layer.
      local_layers, window: layers whose queries see at most `window` keys.
      attention_layers, mlp_layers: layers that have such a part; None means depth.
      other: FLOPs of parts of other kinds.
      causal: count the lower half of the score matrix (with its diagonal).

    >>> forward_flops(depth=1, width=2, num_heads=1, mlp_width=8, seq_len=4, vocab_size=10).total
    168.0
    """
    num_kv_heads = num_kv_heads or num_heads
    head_dim = head_dim or width // num_heads
    shape = {"depth": depth, "width": width, "num_heads": num_heads, "seq_len": seq_len}
    for name, value in shape.items():
        if value < 1:
            raise UserError(f"{name}={value} is not a size; give at least 1")
    keys = (seq_len + 1) / 2 if causal else seq_len
    inputs = num_heads * (1 + gated_attention) + 2 * num_kv_heads
    projections = 2 * width * head_dim * (num_heads + inputs)
    attending = depth if attention_layers is None else attention_layers
    feeding = depth if mlp_layers is None else mlp_layers
    key_sum = (attending - local_layers) * keys + local_layers * _windowed(seq_len, window, causal)
    scores = 2 * 2 * key_sum * num_heads * head_dim
    return ForwardFlops(
        attention_projections=float(attending * projections),
        attention_scores=float(scores),
        mlp=float(feeding * 2 * mlp_matrices * width * mlp_width),
        head=float(2 * width * vocab_size),
        other=float(other),
    )


def _windowed(seq_len: int, window: int, causal: bool) -> float:
    """Mean keys of a query with a window: w, or exactly, w − w(w − 1)/2T."""
    seen = min(window, seq_len)
    return seen - seen * (seen - 1) / (2 * seq_len) if causal else seen


def training_flops_per_token(**shape) -> float:
    """Training FLOPs per token (forward and backward); arguments as in `forward_flops`."""
    return TRAINING_OVER_FORWARD * forward_flops(**shape).total


def flops_6nd(params: float, tokens: float) -> float:
    """C = 6 N D, the rule of thumb (Kaplan et al. 2020, section 2.1)."""
    return 6.0 * params * tokens


def tokens_for_budget(flops: float, **shape) -> float:
    """Tokens that a budget of training FLOPs pays for, under the exact count.

    Raises:
      UserError: if the budget is not a positive number.
    """
    if not (math.isfinite(flops) and flops > 0):
        raise UserError(f"flops={flops} is not a budget; give a positive number")
    return flops / training_flops_per_token(**shape)


def model_flops_utilization(tokens_per_s: float, peak_flops_per_s: float, **shape) -> float:
    """Achieved training FLOP/s over the device's peak (MFU)."""
    return tokens_per_s * training_flops_per_token(**shape) / peak_flops_per_s
