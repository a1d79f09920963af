"""Pure maths on arrays: no parameters, no configs, no files."""

from gptjax.ops.activations import (
    FEED_FORWARD,
    gated,
    gelu,
    gelu_tanh,
    quick_gelu,
    relu,
    swish,
)
from gptjax.ops.attention import attention
from gptjax.ops.bidirectional_attention import bidirectional_attention
from gptjax.ops.blockwise_attention import blockwise_attention
from gptjax.ops.chunked_loss import Head, chunked_cross_entropy
from gptjax.ops.expert_dispatch import (
    apply_experts,
    assign_slots,
    combine,
    dispatch,
    expert_capacity,
)
from gptjax.ops.experts import mix_experts, route
from gptjax.ops.fused_attention import cudnn_attention, splash_attention
from gptjax.ops.linear import linear
from gptjax.ops.losses import cross_entropy, penalised_cross_entropy
from gptjax.ops.lsh_attention import bucket_factors, hash_rotations, lsh_attention
from gptjax.ops.masked_attention import alibi_slopes, masked_attention
from gptjax.ops.norms import layer_norm, rms_norm
from gptjax.ops.performer_attention import orthogonal_features, performer_attention
from gptjax.ops.positions import rotary, sinusoids
from gptjax.ops.rope_scaling import ROPE_SCALINGS, RopeScaling
from gptjax.ops.router_losses import (
    balance_loss,
    expert_share,
    importance_loss,
    load_loss,
    router_z_loss,
)
from gptjax.ops.selective_scan import (
    causal_convolution,
    selective_scan,
    selective_scan_in_turn,
    selective_step,
)
from gptjax.ops.sequence_sharding import attend_by, in_order
from gptjax.ops.sparse_attention import (
    blocksparse_attention,
    fixed_attention,
    linformer_attention,
    linformer_causal_attention,
    longformer_attention,
    seen_blocks,
    strided_attention,
    windowed_attention,
)
from gptjax.ops.stochastic_rounding import stochastic_round

__all__ = [
    "FEED_FORWARD",
    "ROPE_SCALINGS",
    "Head",
    "RopeScaling",
    "alibi_slopes",
    "apply_experts",
    "assign_slots",
    "attend_by",
    "attention",
    "balance_loss",
    "bidirectional_attention",
    "blocksparse_attention",
    "blockwise_attention",
    "bucket_factors",
    "causal_convolution",
    "chunked_cross_entropy",
    "combine",
    "cross_entropy",
    "cudnn_attention",
    "dispatch",
    "expert_capacity",
    "expert_share",
    "fixed_attention",
    "gated",
    "gelu",
    "gelu_tanh",
    "hash_rotations",
    "importance_loss",
    "in_order",
    "layer_norm",
    "linear",
    "linformer_attention",
    "linformer_causal_attention",
    "load_loss",
    "longformer_attention",
    "lsh_attention",
    "masked_attention",
    "mix_experts",
    "orthogonal_features",
    "penalised_cross_entropy",
    "performer_attention",
    "quick_gelu",
    "relu",
    "rms_norm",
    "rotary",
    "route",
    "router_z_loss",
    "seen_blocks",
    "selective_scan",
    "selective_scan_in_turn",
    "selective_step",
    "sinusoids",
    "splash_attention",
    "stochastic_round",
    "strided_attention",
    "swish",
    "windowed_attention",
]
