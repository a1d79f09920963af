"""Phi-3-small's forward pass by others: mlx-lm's port, and a plain one in NumPy.

python tests/convert/phi3small.py measures both and prints the logits that test_phi3small.py stores
(needs the extra `parity` for mlx-lm). `transformers` has no such class, and the released code runs
on GPUs only.
"""

import json
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
from flat_settings import changed

from gptjax import convert, models
from gptjax.convert import tensor_files

sys.path.insert(0, str(Path(__file__).parent))
import tiny

# A sparse layer and a dense one; two local blocks, and from afar one of three, of four heads.
# mlx-lm has blocks of 32 or 64 tokens only, and is right for whole blocks: of other lengths its
# mask is that of later queries.
CONFIG = changed(
    models.ModelConfig(),
    vocab_size=13,
    depth=2,
    width=16,
    num_heads=4,
    num_kv_heads=2,
    mlp_width=20,
    seq_len=256,
    mlp="gegelu",
    mlp_limit=0.9,
    norm_eps=1e-4,
    positions="rotary",
    rope_base=500.0,
    layer_pattern=("blocksparse", "global"),
    sparse_block=32,
    sparse_local_blocks=2,
    sparse_stride=3,
    embedding_scale=1.7,
    attention_scale=0.6 / 4,
    logit_scale=1 / 2.5,
)


def tokens(T=192):
    return np.random.default_rng(1).integers(0, 13, (2, T)).astype(np.int32)


def folder_of(config, folder):
    convert.to_huggingface(config, tiny.parameters(config), folder)
    return Path(folder)


def in_mlx(folder, batch):
    """float32 logits by the layers of mlx-lm, with a causal mask from here.

    Its own (0.32.2) is boolean, and the sparse layers add it to the scores. Its
    `dense_attention_every_n_layers` means the published one for a value of 2 alone. That unused
    tokens of the published vocabulary have no logit is left out.
    """
    import mlx.core as mx
    from mlx_lm.models import phi3small

    mx.set_default_device(mx.cpu)
    attributes = json.loads((folder / "config.json").read_text())
    model = phi3small.Model(phi3small.ModelArgs.from_dict(attributes))
    model.load_weights(str(folder / "model.safetensors"))
    T, inner = batch.shape[1], model.model
    mask = mx.where(mx.tri(T, dtype=mx.bool_), 0.0, -mx.inf)
    x = inner.mup_embedding_multiplier * inner.embed_tokens(mx.array(batch))
    for layer in inner.layers:
        x = layer(x, mask, None)
    logits = inner.embed_tokens.as_linear(inner.final_layernorm(x))
    logits = logits / attributes["mup_width_multiplier"]
    return np.array(logits)


def in_numpy(folder, batch):
    """Logits in float64, written from the formulas of the released code, all keys and a mask."""
    a = json.loads((folder / "config.json").read_text())
    stored = tensor_files.open_folder(folder)
    w = {name: tensor.read().astype(np.float64) for name, tensor in stored.items()}

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + a["layer_norm_epsilon"])
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    x = a["mup_embedding_multiplier"] * w["model.embed_tokens.weight"][batch]
    for i in range(a["num_hidden_layers"]):
        at = f"model.layers.{i}"
        h = norm(x, f"{at}.input_layernorm")
        every = a["dense_attention_every_n_layers"]
        dense = bool(every) and (i + 1) % every == 0
        h = _attention(linear(h, f"{at}.self_attn.query_key_value"), a, dense)
        x = x + linear(h, f"{at}.self_attn.dense")
        h = linear(norm(x, f"{at}.post_attention_layernorm"), f"{at}.mlp.up_proj")
        gate, other = h[..., 0::2], h[..., 1::2]
        limit = a["gegelu_limit"]
        gate, other = np.minimum(gate, limit), np.clip(other, -limit, limit)
        h = gate / (1 + np.exp(-1.702 * gate)) * (other + 1)
        x = x + linear(h, f"{at}.mlp.down_proj")
    x = norm(x, "model.final_layernorm")
    return x @ w["model.embed_tokens.weight"].T / a["mup_width_multiplier"]


def _attention(mixed, a, dense):
    """Of [B, T, (queries of a key head, key, value) of each key head]."""
    B, T = mixed.shape[:2]
    N, K = a["num_attention_heads"], a["num_key_value_heads"]
    mixed = mixed.reshape(B, T, K, N // K + 2, -1)
    H = mixed.shape[-1]
    q = _turned(mixed[..., :-2, :].reshape(B, T, N, H), a["rope_embedding_base"])
    k = np.repeat(_turned(mixed[..., -2, :], a["rope_embedding_base"]), N // K, axis=2)
    v = np.repeat(mixed[..., -1, :], N // K, axis=2)
    scores = np.einsum("btnh,bsnh->bnts", q, k) * a["mup_attn_multiplier"] / H
    visible = np.tri(T, dtype=bool) if dense else _visible(T, N, a)
    scores = np.where(visible, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bnts,bsnh->btnh", weights, v).reshape(B, T, N * H)


def _turned(x, base):
    """Rotary positions, pairs half a head apart."""
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None] * base ** (-np.arange(half) / half)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    one, two = x[..., :half], x[..., half:]
    return np.concatenate([one * cos - two * sin, two * cos + one * sin], axis=-1)


def _visible(T, N, a):
    """[N, T, T]: the last blocks, and of those before one of every stride, by head."""
    size, stride = a["blocksparse_block_size"], a["blocksparse_vert_stride"]
    step = max(1, int(stride / N))
    count = math.ceil(T / size)
    shown = np.zeros((N, count, count), bool)
    for h, i, j in np.ndindex(*shown.shape):
        local = i - j < a["blocksparse_num_local_blocks"]
        shown[h, i, j] = j <= i and (local or (j + h * step + 1) % stride == 0)
    spread = shown.repeat(size, axis=1).repeat(size, axis=2)
    return spread[:, :T, :T] & np.tri(T, dtype=bool)


def stored_places(logits):
    """Five logits at the first token, in the fourth block, and at the last token."""
    return np.stack([logits[0, 0, :5], logits[1, 120, :5], logits[0, -1, :5]])


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = folder_of(CONFIG, name)
        ours = tiny.logits(CONFIG, tiny.parameters(CONFIG), tokens())
        for by in (in_numpy, in_mlx):
            wanted = by(folder, tokens())
            print(f"{by.__name__} {tiny.error(ours, wanted):.1e}")
        print(stored_places(wanted).astype(float).round(5).tolist())


if __name__ == "__main__":
    main()
