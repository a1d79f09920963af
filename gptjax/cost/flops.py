"""Exact matmul FLOPs of a decoder from plain numbers, with 6 N D beside it.

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
      other: FLOPs of parts of other kinds, as the functions below count them for one layer.
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


def experts_flops(
    *, width: int, hidden: int, matrices: int, num_experts: int, per_token: int, shared: int = 0
) -> float:
    """Forward FLOPs a token of a mixture of experts: the router, and the experts it passes.

    >>> experts_flops(width=2, hidden=4, matrices=3, num_experts=8, per_token=2, shared=1)
    176.0
    """
    return 2.0 * width * (num_experts + matrices * hidden * (per_token + shared))


def latent_flops(
    *,
    width: int,
    num_heads: int,
    head_dim: int,
    rope_dim: int,
    value_dim: int,
    kv_rank: int,
    q_rank: int,
    keys: float,
) -> float:
    """Forward FLOPs a token of multi-head latent attention whose queries see `keys` keys."""
    columns = head_dim + rope_dim
    queries = (width + num_heads * columns) * q_rank if q_rank else width * num_heads * columns
    latents = width * (kv_rank + rope_dim) + kv_rank * num_heads * (head_dim + value_dim)
    scores = keys * num_heads * (columns + value_dim)
    return 2.0 * (queries + latents + num_heads * value_dim * width + scores)


def sparse_flops(
    *,
    width: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    keys: float,
    gated: bool = False,
    shared_keys: bool = False,
    other: float = 0.0,
) -> float:
    """Forward FLOPs a token of attention whose queries see at most `keys` keys.

    Args:
      gated: one more projection of the queries' width.
      shared_keys: queries are the keys (Reformer), one projection less.
      other: what the pattern costs besides, in FLOPs a token: `performer_flops` and such.

    >>> sparse_flops(width=2, num_heads=1, num_kv_heads=1, head_dim=2, keys=3)
    56.0
    """
    inputs = num_heads * (1 + gated) + (1 if shared_keys else 2) * num_kv_heads
    projections = 2 * width * head_dim * (num_heads + inputs)
    return projections + 4.0 * keys * num_heads * head_dim + other


def summarised_keys(seq_len: int, block: int, summary: float) -> float:
    """Keys of a query that sees one block, and `summary` keys of each block; at most all.

    Child et al. (2019): `fixed`, and `strided` with a summary of one.

    >>> summarised_keys(1024, 32, 1), summarised_keys(16, 12, 6)
    (64.0, 16.0)
    """
    return min(float(seq_len), block + summary * seq_len / block)


def blocksparse_keys(seq_len: int, block: int, local_blocks: int, stride: int) -> float:
    """Keys of a query that sees its last blocks, and one of `stride` blocks before them.

    Phi-3-small at its longest text:

    >>> blocksparse_keys(8192, 64, 16, 8)
    1920.0
    """
    near = min(seq_len, local_blocks * block)
    return near + (seq_len - near) / stride


def performer_flops(*, num_heads: int, num_kv_heads: int, head_dim: int, features: int) -> float:
    """FLOPs a token of random features, of the state's update and of its reading, with its sums.

    >>> performer_flops(num_heads=1, num_kv_heads=1, head_dim=2, features=5)
    100.0
    """
    heads = num_heads + num_kv_heads
    return 2.0 * heads * features * (head_dim + head_dim + 1)


def mamba_flops(*, width: int, inner: int, state: int, conv: int, rank: int) -> float:
    """Forward FLOPs a token of Mamba's mixer.

    Projections, convolution, and two multiply-adds for each state: its update and its output.
    """
    projections = 3 * width * inner + inner * (rank + 2 * state) + rank * inner
    return 2.0 * (projections + conv * inner + 2 * inner * state)


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
