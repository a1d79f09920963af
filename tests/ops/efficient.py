"""Inputs of the efficient attentions, and the same layers of `transformers`.

`python tests/ops/efficient.py` prints the numbers that `test_sparse_attention.py` stores.
"""

import json
import math
import sys

import numpy as np

B, T, N, H = 2, 16, 2, 4
RADIUS, GLOBAL = 3, 2
CHUNK, FACTORS = 4, (2, 4)


def draw(*names_and_shapes):
    rng = np.random.default_rng(3)
    return [rng.standard_normal(shape).astype(np.float32) for shape in names_and_shapes]


def inputs():
    """x, six projections [D, D] and their biases, and the rotations of one round of hashing."""
    D = N * H
    x, w, b, turns = draw((B, T, D), (6, D, D), (6, D), (N, H, 1, sum(FACTORS) // 2))
    return x, w / math.sqrt(D) * 2, b, turns


def projected(x, w, b):
    return (x @ w + b).reshape(*x.shape[:2], N, H)


def longformer():
    """[B, T, N·H] of an encoder's layer: 3 tokens to either side, the first two global."""
    import torch
    from transformers import LongformerConfig
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    x, w, b, _ = inputs()
    config = LongformerConfig(
        hidden_size=N * H,
        num_attention_heads=N,
        attention_window=[2 * RADIUS],
        attention_probs_dropout_prob=0.0,
    )
    layer = LongformerSelfAttention(config, 0).eval()
    names = ("query", "key", "value", "query_global", "key_global", "value_global")
    for name, matrix, bias in zip(names, w, b, strict=True):
        getattr(layer, name).weight.data = torch.tensor(matrix.T.copy())
        getattr(layer, name).bias.data = torch.tensor(bias)
    first = torch.zeros(B, T, dtype=torch.bool)
    first[:, :GLOBAL] = True
    # A length that is a multiple of the window, as the model's own padding makes it.
    extra = -T % (2 * RADIUS)
    mask = torch.nn.functional.pad(first.float() * 10000, (0, extra), value=-10000.0)
    wide = torch.nn.functional.pad(torch.tensor(x), (0, 0, 0, extra))
    with torch.no_grad():
        return layer(
            wide,
            attention_mask=mask,
            is_index_masked=mask < 0,
            is_index_global_attn=mask > 0,
            is_global_attn=True,
        )[0][:, :T].numpy()


def reformer():
    """[B, T, N·H] of a decoder's layer with one round of hashing."""
    import torch
    from transformers import ReformerConfig
    from transformers.models.reformer.modeling_reformer import LSHSelfAttention

    x, w, _, turns = inputs()
    config = ReformerConfig(
        hidden_size=N * H,
        num_attention_heads=N,
        attention_head_size=H,
        num_hashes=1,
        num_buckets=list(FACTORS),
        lsh_attn_chunk_length=CHUNK,
        is_decoder=True,
        lsh_attention_probs_dropout_prob=0.0,
        max_position_embeddings=T,
        hash_seed=0,
    )
    layer = LSHSelfAttention(config, 0).eval()
    layer.query_key.weight.data = torch.tensor(w[0].T.copy())
    layer.value.weight.data = torch.tensor(w[2].T.copy())
    plain = torch.randn
    torch.randn = lambda *shape, **_: torch.tensor(turns)
    try:
        with torch.no_grad():
            return layer(torch.tensor(x))[0].numpy()
    finally:
        torch.randn = plain


def at_stored_places(array):
    return np.stack([array[0, 0, :5], array[0, 9, :5], array[1, 15, :5]])


if __name__ == "__main__":
    found = {name: globals()[name]() for name in ("longformer", "reformer")}
    json.dump(
        {name: at_stored_places(x).round(5).tolist() for name, x in found.items()}, sys.stdout
    )
