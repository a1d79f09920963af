"""FLOPs of a model: its layers counted by the formulas of `cost.flops`."""

from gptjax import models, ops
from gptjax.cost import flops
from gptjax.models import SPARSE, Layer, ModelConfig
from gptjax.train import RunSpec


def flops_6nd(run: RunSpec) -> float:
    """6ND of a run, N with the head and, of experts, those that a token passes."""
    active = models.count_active_params(run.model).non_embedding_with_head
    return flops.flops_6nd(active, run.tokens) * run.optim.cost


def training_flops_per_token(model: ModelConfig, cost: float = 1.0) -> float:
    """Exact matmul FLOPs of one training token; `cost` gradients a step (`OptimConfig.cost`)."""
    mixers = [layer.mixer for layer in model.layers_of_depth]
    mlps = [layer.mlp for layer in model.layers_of_depth]
    return cost * flops.training_flops_per_token(
        depth=model.depth,
        width=model.width,
        num_heads=model.num_heads,
        num_kv_heads=model.kv_heads,
        head_dim=model.head_width,
        mlp_width=model.hidden_width,
        mlp_matrices=3 if ops.FEED_FORWARD[model.mlp][1] else 2,
        gated_attention=model.attention_gate,
        local_layers=0 if model.kv_rank else mixers.count("local"),
        window=model.window,
        attention_layers=0 if model.kv_rank else mixers.count("local") + mixers.count("global"),
        mlp_layers=mlps.count("dense"),
        other=_other_flops(model),
        seq_len=model.seq_len,
        vocab_size=model.vocab_size,
    )


def _other_flops(model: ModelConfig) -> float:
    """Forward FLOPs a token of experts, Mamba, latent attention and kinds that leave pairs out."""
    return sum(
        _mixer_flops(model, layer) + (_experts_flops(model) if layer.mlp == "experts" else 0.0)
        for layer in model.layers_of_depth
    )


def _mixer_flops(model: ModelConfig, layer: Layer) -> float:
    if layer.mixer == "ssm":
        return flops.mamba_flops(
            width=model.width,
            inner=model.ssm_width,
            state=model.ssm_state,
            conv=model.ssm_conv,
            rank=model.ssm_step_rank,
        )
    if layer.mixer in SPARSE:
        return _sparse_flops(model, layer.mixer)
    if not model.kv_rank:
        return 0.0
    keys = min(model.window, model.seq_len) if layer.mixer == "local" else model.seq_len
    return flops.latent_flops(
        width=model.width,
        num_heads=model.num_heads,
        head_dim=model.head_width,
        rope_dim=model.rope_dim,
        value_dim=model.value_width,
        kv_rank=model.kv_rank,
        q_rank=model.q_rank,
        keys=keys,
    )


def _sparse_flops(model: ModelConfig, kind: str) -> float:
    """Forward FLOPs a token of one attention of the kinds that leave pairs out."""
    T, N, K, H = model.seq_len, model.num_heads, model.kv_heads, model.head_width
    other = 0.0
    if kind == "linformer":
        other = 2.0 * 2 * model.sparse_summary * K * H
    elif kind == "longformer":
        other = 2.0 * model.width * H * (N + 2 * K) * min(1.0, model.global_tokens / T)
    elif kind == "performer":
        other = flops.performer_flops(
            num_heads=N, num_kv_heads=K, head_dim=H, features=model.feature_count
        )
    elif kind == "reformer":
        turns = sum(ops.bucket_factors(model.bucket_count)) // 2
        other = 2.0 * N * H * turns * model.lsh_rounds
    return flops.sparse_flops(
        width=model.width,
        num_heads=N,
        num_kv_heads=K,
        head_dim=H,
        keys=sparse_keys(model, kind),
        gated=model.attention_gate,
        shared_keys=kind == "reformer",
        other=other,
    )


def sparse_keys(model: ModelConfig, kind: str) -> float:
    """Keys that a query meets, on average; 0 for features in place of keys."""
    T = model.seq_len
    if kind in ("strided", "fixed", "linformer"):
        summary = 1 if kind == "strided" else model.sparse_summary
        return flops.summarised_keys(T, model.block_tokens, summary)
    if kind == "blocksparse":
        return flops.blocksparse_keys(
            T, model.block_tokens, model.sparse_local_blocks, model.sparse_stride
        )
    if kind == "longformer":
        return min(T, model.window + model.global_tokens)
    return model.lsh_rounds * min(T, model.lsh_chunk + 1) if kind == "reformer" else 0.0


def _experts_flops(model: ModelConfig) -> float:
    return flops.experts_flops(
        width=model.width,
        hidden=model.expert_hidden_width,
        matrices=3 if ops.FEED_FORWARD[model.mlp][1] else 2,
        num_experts=model.num_experts * (1 + model.router_noise),
        per_token=model.experts_per_token,
        shared=model.shared_experts,
    )
