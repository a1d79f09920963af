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
from gptjax.ops.affine_quantization import (
    BITS,
    affine_grid,
    from_codes,
    in_groups,
    integer_product,
    pack_codes,
    padded_inputs,
    to_codes,
    unpack_codes,
)
from gptjax.ops.attention import attention
from gptjax.ops.bidirectional_attention import bidirectional_attention
from gptjax.ops.blockwise_attention import blockwise_attention
from gptjax.ops.cached_attention import (
    Sees,
    cached_attention,
    fill_ring,
    ring_positions,
    write_ring,
)
from gptjax.ops.chunked_loss import Head, chunked_cross_entropy
from gptjax.ops.dropout import dropout
from gptjax.ops.expert_dispatch import (
    assign_slots,
    combine,
    dispatch,
    expert_capacity,
    slot_product,
)
from gptjax.ops.experts import mix_experts, ragged_product, route
from gptjax.ops.fused_attention import cudnn_attention, splash_attention
from gptjax.ops.linear import linear
from gptjax.ops.losses import cross_entropy, penalised_cross_entropy
from gptjax.ops.lsh_attention import (
    bucket_factors,
    hash_rotations,
    lsh_attention,
    lsh_buckets,
    lsh_cached_attention,
)
from gptjax.ops.masked_attention import alibi_slopes, masked_attention
from gptjax.ops.mixture_heads import gaussian_mixture, mixture_of_softmaxes
from gptjax.ops.normal_float import (
    dequantize_absmax,
    dequantize_nf4,
    quantize_absmax,
    quantize_nf4,
)
from gptjax.ops.norms import layer_norm, rms_norm
from gptjax.ops.performer_attention import (
    orthogonal_features,
    performer_attention,
    performer_read,
    performer_sums,
)
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
    selective_scan_from,
    selective_scan_from_in_turn,
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
    "BITS",
    "FEED_FORWARD",
    "ROPE_SCALINGS",
    "Head",
    "RopeScaling",
    "Sees",
    "affine_grid",
    "alibi_slopes",
    "assign_slots",
    "attend_by",
    "attention",
    "balance_loss",
    "bidirectional_attention",
    "blocksparse_attention",
    "blockwise_attention",
    "bucket_factors",
    "cached_attention",
    "causal_convolution",
    "chunked_cross_entropy",
    "combine",
    "cross_entropy",
    "cudnn_attention",
    "dequantize_absmax",
    "dequantize_nf4",
    "dispatch",
    "dropout",
    "expert_capacity",
    "expert_share",
    "fill_ring",
    "fixed_attention",
    "from_codes",
    "gated",
    "gaussian_mixture",
    "gelu",
    "gelu_tanh",
    "hash_rotations",
    "importance_loss",
    "in_groups",
    "in_order",
    "integer_product",
    "layer_norm",
    "linear",
    "linformer_attention",
    "linformer_causal_attention",
    "load_loss",
    "longformer_attention",
    "lsh_attention",
    "lsh_buckets",
    "lsh_cached_attention",
    "masked_attention",
    "mix_experts",
    "mixture_of_softmaxes",
    "orthogonal_features",
    "pack_codes",
    "padded_inputs",
    "penalised_cross_entropy",
    "performer_attention",
    "performer_read",
    "performer_sums",
    "quantize_absmax",
    "quantize_nf4",
    "quick_gelu",
    "ragged_product",
    "relu",
    "ring_positions",
    "rms_norm",
    "rotary",
    "route",
    "router_z_loss",
    "seen_blocks",
    "selective_scan",
    "selective_scan_from",
    "selective_scan_from_in_turn",
    "selective_scan_in_turn",
    "selective_step",
    "sinusoids",
    "slot_product",
    "splash_attention",
    "stochastic_round",
    "strided_attention",
    "swish",
    "to_codes",
    "unpack_codes",
    "windowed_attention",
    "write_ring",
]
