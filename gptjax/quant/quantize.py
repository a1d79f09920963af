"""Quantization of a whole model: which matrix gets how many bits, and the tree that comes of it."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.errors import UserError
from gptjax.models import ModelConfig
from gptjax.models.layer_stack import ByLayer
from gptjax.models.product import dense
from gptjax.models.quantized import is_quantized, kind_of_leaf
from gptjax.quant.calibration import Moments, layer_by_layer
from gptjax.quant.config import QuantizeConfig
from gptjax.quant.matrices import EMBEDDING, Matrix, inside, matrices
from gptjax.quant.methods import KEPT, METHODS, leaf_of


@dataclasses.dataclass(frozen=True)
class Row:
    """One matrix of a quantized model.

    Attributes:
      name: its path with the layer's number.
      bits: of a weight, 16 and 32 where it is a float.
      weights, nbytes: how many, and what they take with scales and zero points.
      error: ‖Ŵᵀx − Wᵀx‖² over ‖Wᵀx‖² on the calibration text, None without.
      nearest: the same of rounding to nearest.
    """

    name: str
    bits: int
    weights: int
    nbytes: int
    error: float | None = None
    nearest: float | None = None


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A model made small.

    Attributes:
      params: the tree of the model, with leaves of `gptjax.models.quantized`.
      rows: its matrices.
      tokens: of calibration that went through every calibrated matrix.
    """

    params: Any
    rows: tuple[Row, ...]
    tokens: int


def quantize(
    config: ModelConfig,
    params: Any,
    settings: QuantizeConfig,
    bits: Mapping[str, int],
    windows_NT: np.ndarray | None = None,
) -> Quantized:
    """The model with every matrix in the bits that it is given.

    Args:
      bits: by the names of `matrices`.
      windows_NT: calibration text, for methods that want one.

    Raises:
      UserError: for a model that is quantized already, and where calibration text is missing.
    """
    check_plain(params)
    leaves, rows, tokens = {}, {}, 0
    for matrix in matrices(config):
        w = _array(params, matrix)
        leaf = leaf_of(
            "affine" if not matrix.layered else settings.method,
            w,
            matrix,
            bits[matrix.name],
            settings,
            None,
        )
        leaves[matrix.name] = _as_table(leaf) if matrix.path == EMBEDDING else leaf
        rows[matrix.name] = _row(matrix, bits, leaf)
    if METHODS[settings.method].calibrated:
        if windows_NT is None or not windows_NT.size:
            raise UserError(_no_text(settings))
        seen: list[int] = []

        def make(matrix: Matrix, w: jax.Array, moments: Moments) -> Any:
            hessian, count = moments.hessian_II, bits[matrix.name]
            leaf = leaf_of(settings.method, w, matrix, count, settings, hessian)
            seen.append(moments.tokens)
            rows[matrix.name] = _row(
                matrix,
                bits,
                leaf,
                error=output_error(w, leaf, hessian),
                nearest=output_error(w, leaves[matrix.name], hessian),
            )
            return leaf

        first = _assembled(config, params, {EMBEDDING: leaves[EMBEDDING]})
        leaves |= layer_by_layer(config, first, windows_NT, make)
        tokens = min(seen, default=0)
        if tokens == 0:
            raise UserError(_no_text(settings))
    return Quantized(_assembled(config, params, leaves), tuple(rows.values()), tokens)


def quantized_shapes(
    config: ModelConfig, params: Any, settings: QuantizeConfig, bits: Mapping[str, int]
) -> Any:
    """Shapes of `quantize(...).params` by a method without calibration, with nothing allocated.

    Args:
      params: shapes of the model's parameters.
    """

    @functools.cache
    def shapes(kind: Matrix, method: str, count: int, shape: tuple[int, ...]) -> Any:
        w = jax.ShapeDtypeStruct(shape, jnp.float32)
        return jax.eval_shape(lambda w: leaf_of(method, w, kind, count, settings, None), w)

    leaves = {}
    for matrix in matrices(config):
        kind = dataclasses.replace(matrix, path="", slice=None, name="", layer=None)
        method = settings.method if matrix.layered else "affine"
        shape = (*matrix.lead, *matrix.inputs, *matrix.outputs)
        leaves[matrix.name] = shapes(kind, method, bits[matrix.name], shape)
    return jax.eval_shape(functools.partial(_from_leaves, config), params, leaves)


def _from_leaves(config: ModelConfig, params: Any, leaves: Mapping[str, Any]) -> Any:
    """The tree with leaves as `leaf_of` gives them."""
    table = {EMBEDDING: _as_table(leaves[EMBEDDING])}
    return _assembled(config, params, {**leaves, **table})


def uniform_bits(config: ModelConfig, settings: QuantizeConfig) -> dict[str, int]:
    """The bits of each matrix by `quantize.rules`, else by `quantize.bits` and embedding_bits.

    Raises:
      UserError: for a rule that is none, or that no matrix matches.
    """
    plain = {m.name: _plain_bits(settings, m) for m in matrices(config)}
    return {**plain, **_ruled(config, settings)}


def ruled_bits(config: ModelConfig, settings: QuantizeConfig) -> dict[str, int]:
    """The bits of matrices that `quantize.rules` or embedding_bits fix, whatever the budget.

    Raises:
      UserError: as `uniform_bits`.
    """
    outside = [matrix for matrix in matrices(config) if not matrix.layered]
    plain = {matrix.name: _plain_bits(settings, matrix) for matrix in outside}
    return {**plain, **_ruled(config, settings)}


def _plain_bits(settings: QuantizeConfig, matrix: Matrix) -> int:
    return settings.bits if matrix.layered else settings.embedding_bits


def _ruled(config: ModelConfig, settings: QuantizeConfig) -> dict[str, int]:
    """By the first rule that is found in a name."""
    names = [matrix.name for matrix in matrices(config)]
    found: dict[str, int] = {}
    for expression, bits in parse_rules(settings.rules):
        matched = [name for name in names if re.search(expression, name)]
        if not matched:
            raise UserError(
                f"quantize.rules has {expression!r}, which no matrix of the model matches; its "
                f"matrices are named like {names[0]} and {names[-1]}"
            )
        found = {**dict.fromkeys(matched, bits), **found}
    return found


def parse_rules(texts: tuple[str, ...]) -> list[tuple[str, int]]:
    """(expression, bits) of each EXPRESSION=BITS.

    >>> parse_rules(("mlp/down$=8", "blocks/0/=16"))
    [('mlp/down$', 8), ('blocks/0/', 16)]

    Raises:
      UserError: for a text that is none.
    """
    found = []
    for text in texts:
        expression, _, count = text.rpartition("=")
        bits = int(count) if count.isdecimal() else 0
        try:
            re.compile(expression)
        except re.error as error:
            raise UserError(
                f"quantize.rules has {expression!r}, which is no regular expression ({error}); "
                "correct it"
            ) from error
        if not expression or bits not in (*METHODS["affine"].bits, *KEPT):
            raise UserError(
                f"quantize.rules has {text!r}, which is not EXPRESSION=BITS with 2 to 8, 16 or 32 "
                "bits; write it like mlp/down$=8"
            )
        found.append((expression, bits))
    return found


def check_plain(params: Any) -> None:
    """Refuse parameters that are quantized already.

    Raises:
      UserError: naming one of them.
    """
    flat = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_quantized)
    found = [(path, leaf) for path, leaf in flat if is_quantized(leaf)]
    if found:
        path = jax.tree_util.keystr(found[0][0], simple=True, separator="/")
        raise UserError(
            f"the model is quantized already ({path} is {kind_of_leaf(found[0][1])}); give "
            "quantize.model the folder that it was made from"
        )


def output_error(w: jax.Array, leaf: Any, hessian_II: np.ndarray) -> float:
    """‖Ŵᵀx − Wᵀx‖² / ‖Wᵀx‖² over the tokens of a Hessian."""
    w_IO = np.asarray(w, np.float64).reshape(len(hessian_II), -1)
    values = leaf.values_IO() if is_quantized(leaf) else leaf
    less_IO = np.asarray(values, np.float64).reshape(w_IO.shape) - w_IO
    lost, whole = (float(np.sum(x * (hessian_II @ x))) for x in (less_IO, w_IO))
    return lost / whole if whole else 0.0


def dequantized(params: Any) -> Any:
    """The tree with float32 arrays of the numbers that its leaves stand for."""

    def array(leaf: Any) -> jax.Array:
        if isinstance(leaf, ByLayer):
            return jnp.stack([array(layer) for layer in leaf.layers])
        return dense(leaf, jnp.float32).astype(jnp.float32)

    def is_leaf(leaf: Any) -> bool:
        return is_quantized(leaf) or isinstance(leaf, ByLayer)

    return jax.tree.map(array, params, is_leaf=is_leaf)


def nbytes(params: Any) -> int:
    """Bytes of all arrays of a tree."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def _array(params: Any, matrix: Matrix) -> jax.Array:
    """[*lead, *inputs, *outputs] of one matrix; the embedding as a head has it."""
    w = jnp.asarray(inside(params, matrix.path))
    if matrix.path == EMBEDDING:
        return w.T
    return w if matrix.slice is None else w[matrix.slice]


def _as_table(leaf: Any) -> Any:
    """The embedding's leaf with the vocabulary first."""
    return dataclasses.replace(leaf, transposed=True) if is_quantized(leaf) else leaf.T


def _row(matrix: Matrix, bits: Mapping[str, int], leaf: Any, **errors: float) -> Row:
    return Row(matrix.name, bits[matrix.name], matrix.size, int(leaf.nbytes), **errors)


def _assembled(config: ModelConfig, params: Any, leaves: Mapping[str, Any]) -> Any:
    """The tree with these leaves, those of a stack's layers stacked."""
    stacks: dict[str, list[Any]] = {}
    for matrix in matrices(config):
        if matrix.name in leaves:
            stacks.setdefault(matrix.path, []).append(leaves[matrix.name])
    for path, some in stacks.items():
        params = inside(params, path, _stack(some) if path.startswith("blocks/") else some[0])
    return params


def _stack(leaves: list[Any]) -> Any:
    """Leaves that are alike on one axis; others side by side."""
    kinds = {(jax.tree.structure(leaf), *map(_kind, jax.tree.leaves(leaf))) for leaf in leaves}
    if len(kinds) > 1:
        return ByLayer(tuple(leaves))
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *leaves)


def _kind(array: jax.Array) -> tuple:
    return array.shape, array.dtype


def _no_text(settings: QuantizeConfig) -> str:
    return (
        f"quantize.method={settings.method} has seen no calibration text "
        f"(quantize.calibration_tokens={settings.calibration_tokens}); give it some, for example "
        "32768"
    )
