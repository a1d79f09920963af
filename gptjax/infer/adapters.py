"""Adapters by name on one base: each row of a batch is answered with its own.

The thin matrices of all adapters lie side by side in one leaf (`LowRankByRow`), so that requests of
several adapters share a program and a step, and the base is read once for all of them.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import models
from gptjax.convert import peft
from gptjax.errors import UserError, nearest
from gptjax.models.low_rank import LowRankByRow
from gptjax.quant import Matrix, matrices
from gptjax.quant.matrices import inside

Params = Any
Pairs = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Of an adapter, path → (A_LIR, B_LRO)."""


@dataclasses.dataclass(frozen=True)
class Adapters:
    """Adapters of one base; number 0 is the base alone.

    Attributes:
      names: in the order of their numbers, from 1.
      params: the base's parameters with the adapters' beside them, for no row yet.
    """

    names: tuple[str, ...] = ()
    params: Params = None

    def number(self, name: str) -> int:
        """Of an adapter; "": 0."""
        return self.names.index(name) + 1 if name else 0

    def check(self, name: str) -> None:
        """Refuse a name that is none of them."""
        if name and name not in self.names:
            hint = nearest(name, self.names) if self.names else "the model has none"
            raise UserError(f"the adapter {name!r} is not known; {hint}")

    def params_of(self, names: Sequence[str]) -> Params:
        """The parameters for a batch whose rows have these adapters."""
        row_B = jnp.asarray([self.number(name) for name in names], jnp.int32)
        return _for_rows(self.params, row_B)


NO_ADAPTERS = Adapters()


def named(given: Sequence[str], field: str) -> dict[str, str]:
    """Folders by name, from texts such as "chat=runs/chat/adapter".

    Raises:
      UserError: for a text without a name or a folder, and a name given twice.

    >>> named(("a=x/y", "b=z"), "serve.adapters")
    {'a': 'x/y', 'b': 'z'}
    """
    found: dict[str, str] = {}
    for text in given:
        name, _, folder = (part.strip() for part in text.partition("="))
        if not name or not folder:
            raise UserError(f"{field}={text!r} is no adapter by name; write NAME=FOLDER")
        if name in found:
            raise UserError(f"{field} names {name!r} twice; give each adapter its own name")
        found[name] = folder
    return found


def read_adapters(
    config: models.ModelConfig, params: Params, folders: Mapping[str, Path]
) -> Adapters:
    """The adapters of some folders beside the base's parameters, whose layers are apart.

    Raises:
      UserError: for an adapter of another base, and for a matrix whose products are not by row.
    """
    each = [_pairs(folder, config) for folder in folders.values()]
    blocks = list(params["blocks"])
    for matrix in matrices(config):
        if matrix.layer is None or not any(matrix.path in one for one in each):
            continue
        base = inside(blocks[matrix.layer], matrix.inner)
        leaf = LowRankByRow(base, *_stacked(matrix, each), jnp.zeros(0, jnp.int32))
        blocks[matrix.layer] = inside(blocks[matrix.layer], matrix.inner, leaf)
    found = Adapters(tuple(folders), {**params, "blocks": tuple(blocks)})
    _check_by_row(config, found)
    return found


def _pairs(folder: Path, config: models.ModelConfig) -> Pairs:
    if not peft.is_adapter(folder):
        raise UserError(f"{folder} holds no adapter; give a folder with {peft.CONFIG}")
    adapter = peft.read_adapter(folder, config)
    known = {matrix.path for matrix in matrices(config) if matrix.layered}
    strange = sorted(adapter.matrices.keys() - known)
    if strange:
        raise UserError(
            f"{folder} adapts {strange[0]}, which is no matrix that can be chosen by row; give the "
            "folder as the model, which is then merged"
        )
    return {path: (a, adapter.scale * b) for path, (a, b) in adapter.matrices.items()}


def _stacked(matrix: Matrix, each: Sequence[Pairs]) -> tuple[jax.Array, jax.Array]:
    """(A_KIR, B_KRO) of one matrix: no adapter first, then each."""
    pairs = [one.get(matrix.path) for one in each]
    there = [(a[matrix.slice], b[matrix.slice]) for a, b in filter(None, pairs)]
    rank = max(a.shape[1] for a, _ in there)
    a_KIR = np.zeros((1 + len(each), there[0][0].shape[0], rank), np.float32)
    b_KRO = np.zeros((1 + len(each), rank, there[0][1].shape[1]), np.float32)
    for number, pair in enumerate(pairs, 1):
        if pair is not None:
            a_IR, b_RO = (side[matrix.slice] for side in pair)
            a_KIR[number, :, : a_IR.shape[1]], b_KRO[number, : len(b_RO)] = a_IR, b_RO
    return jnp.asarray(a_KIR), jnp.asarray(b_KRO)


def _for_rows(params: Params, row_B: jax.Array) -> Params:
    def change(leaf: Any) -> Any:
        return dataclasses.replace(leaf, row_B=row_B) if _is_by_row(leaf) else leaf

    return jax.tree.map(change, params, is_leaf=_is_by_row)


def _is_by_row(leaf: Any) -> bool:
    return isinstance(leaf, LowRankByRow)


def _check_by_row(config: models.ModelConfig, found: Adapters) -> None:
    """Refuse adapters of matrices that are used otherwise than in products of the batch."""
    ids_BT = jax.ShapeDtypeStruct((2, 3), jnp.int32)
    counts_BT = jax.ShapeDtypeStruct((2, 3), bool)

    def read(params: Params, ids_BT: jax.Array, counts_BT: jax.Array, *, fresh: bool) -> Any:
        cache = models.init_cache(config, 2, 4)
        return models.decode(config, params, cache, ids_BT, counts_BT, fresh=fresh)

    params = found.params_of(["", ""])
    try:
        for fresh in (True, False):
            jax.eval_shape(functools.partial(read, fresh=fresh), params, ids_BT, counts_BT)
    except (TypeError, AttributeError) as error:
        raise UserError(
            f"the adapters {', '.join(found.names)} change a matrix that cannot be chosen by row "
            f"({error}); give the folder of one adapter as the model, which is then merged"
        ) from error
