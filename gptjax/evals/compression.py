"""Compression of a file by a model: its code length made real, and the file restored bit for bit.

A file is cut into windows of the model's context, which are coded side by side, a token of each at
a step, by one compiled program whose shape the file keeps. Restoring runs the same program on the
same numbers, so it gives the same bits on the same machine and version; a hash of the file tells if
not.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import models
from gptjax.errors import UserError
from gptjax.evals.arithmetic_coder import Decoder, Encoder, cumulative
from gptjax.evals.text import prefix_of
from gptjax.infer.model import Model

MAGIC = b"gptjax compressed 1\n"
ROWS, WINDOW = 32, 1024
"""Windows that are coded side by side, and their longest length in tokens."""


@dataclasses.dataclass(frozen=True)
class Compressed:
    """A compressed file.

    Attributes:
      data: its bytes, header included.
      payload_bits: of the coded tokens alone.
      ideal_bits: Σ −log2 p of the tokens.
      tokens: how many there are.
    """

    data: bytes
    payload_bits: int
    ideal_bits: float
    tokens: int


def compress(model: Model, content: bytes) -> Compressed:
    """Code a file.

    Raises:
      UserError: for content that the tokenizer does not give back.
    """
    ids = _ids(model, content)
    window = min(model.context or WINDOW, WINDOW)
    rows = max(1, min(ROWS, -(-len(ids) // window)))
    encoder, ideal = Encoder(), 0.0

    def code(row: int, place: int, log_p_V: np.ndarray) -> int:
        nonlocal ideal
        symbol = ids[place]
        table = cumulative(log_p_V)
        encoder.put(table, symbol)
        ideal -= float(log_p_V[symbol] - np.logaddexp.reduce(log_p_V.astype(np.float64)))
        return symbol

    _walk(model, len(ids), window, rows, code)
    payload = encoder.finish()
    header = {
        "model": fingerprint(model),
        "tokens": len(ids),
        "window": window,
        "rows": rows,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    head = MAGIC + json.dumps(header, separators=(",", ":")).encode() + b"\n"
    return Compressed(head + payload, 8 * len(payload), ideal / np.log(2), len(ids))


def decompress(model: Model, data: bytes) -> bytes:
    """The file again.

    Raises:
      UserError: for other data, another model, or a machine whose bits differ.
    """
    said, payload = _header(data)
    if said["model"] != fingerprint(model):
        raise UserError(
            f"the file was compressed by another model than {model.name}; give that one"
        )
    decoder = Decoder(payload)
    ids: dict[int, int] = {}

    def code(row: int, place: int, log_p_V: np.ndarray) -> int:
        ids[place] = decoder.get(cumulative(log_p_V))
        return ids[place]

    _walk(model, said["tokens"], said["window"], said["rows"], code)
    content = model.decode([ids[place] for place in range(said["tokens"])])
    if hashlib.sha256(content).hexdigest() != said["sha256"]:
        raise UserError(
            "the file is damaged, or was compressed on another machine or version of JAX, whose "
            "bits differ; restore it where it was made"
        )
    return content


def fingerprint(model: Model) -> str:
    """16 digits that stand for the parameters and the config."""
    found = hashlib.sha256(repr(model.config).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.params):
        found.update(jax.tree_util.keystr(path).encode())
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()[:16]


def _ids(model: Model, content: bytes) -> list[int]:
    if model.tokenizer is None:
        prefix_of(model)
        raise AssertionError
    try:
        (ids,) = model.tokenizer.encode([content])
        back = model.tokenizer.decode(ids)
    except (UnicodeDecodeError, UserError):
        back = None
    if back != content:
        raise UserError(
            f"the tokenizer of {model.name} does not give this file back bit for bit; give text in "
            "UTF-8, or a model of bytes"
        )
    return np.asarray(ids).tolist()


def _header(data: bytes) -> tuple[dict[str, Any], bytes]:
    start, _, payload = data.removeprefix(MAGIC).partition(b"\n")
    try:
        said = json.loads(start)
        known = {"model", "tokens", "window", "rows", "sha256"} <= said.keys()
    except (ValueError, AttributeError):
        known = False
    if not data.startswith(MAGIC) or not known:
        raise UserError("the file was not written by job=compress; give one that was")
    return said, payload


def _walk(
    model: Model, count: int, window: int, rows: int, code: Callable[[int, int, np.ndarray], int]
) -> None:
    """Call `code` for every token in the order of the file's payload.

    Window number w begins at token w·window; `rows` of them advance together, the k-th token of
    each in turn.
    """
    first = prefix_of(model)
    for begin in range(0, count, rows * window):
        starts = [begin + row * window for row in range(rows)]
        cache = models.init_cache(model.config, rows, window)
        tokens_B = np.full(rows, first, np.int32)
        for step in range(min(window, count - begin)):
            log_p_BV, cache = _step(
                model.config, window, model.params, cache, jnp.asarray(tokens_B)
            )
            values = np.asarray(log_p_BV)
            for row, start in enumerate(starts):
                if start + step < count:
                    tokens_B[row] = code(row, start + step, values[row])


@functools.partial(jax.jit, static_argnames=("config", "window"), donate_argnames=("cache",))
def _step(
    config: models.ModelConfig, window: int, params: Any, cache: models.Cache, tokens_B: jax.Array
) -> tuple[jax.Array, models.Cache]:
    length = models.rope_length(config, window)
    x_B1D, cache = models.decode(config, params, cache, tokens_B[:, None], length=length)
    return jax.nn.log_softmax(models.logits(config, params, x_B1D)[:, 0]), cache
