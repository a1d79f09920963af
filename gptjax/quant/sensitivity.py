"""Mixed precision within a budget: more bits where quantization costs more loss, as measured.

Each matrix is quantized alone to each number of bits, and the loss on calibration text compared.
The effects are taken to add up; since they do not quite, the choice is compared with the best
uniform one that fits, and the better of the two is taken.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import models, ops
from gptjax.errors import UserError
from gptjax.models import ModelConfig
from gptjax.models.quantized import is_quantized
from gptjax.quant.config import QuantizeConfig
from gptjax.quant.matrices import Matrix, inside, matrices
from gptjax.quant.methods import leaf_of

SEQUENCES = 8


@dataclasses.dataclass(frozen=True)
class Option:
    """One matrix in so many bits.

    Attributes:
      nbytes: what it takes.
      cost: nats per token that it adds, alone.
    """

    nbytes: int
    cost: float


def choose_bits(
    config: ModelConfig,
    params: Any,
    settings: QuantizeConfig,
    fixed: Mapping[str, int],
    windows_NT: np.ndarray,
    budget: int,
) -> dict[str, int]:
    """The bits of every matrix, so that all parameters take `budget` bytes at most.

    Args:
      fixed: bits of matrices by `quantize.rules` and embedding_bits; those inside layers that no
        rule names are chosen.

    Raises:
      UserError: where not even the fewest bits fit.
    """
    chosen_ones = [m for m in matrices(config) if m.layered and m.name not in fixed]
    loss_of = _loss(config, windows_NT)
    plain = loss_of(params)
    options: dict[str, dict[int, Option]] = {}
    for matrix in chosen_ones:
        options[matrix.name] = {}
        for bits in sorted(set(settings.budget_bits)):
            leaf = _leaf(params, matrix, bits, settings)
            cost = loss_of(_with(params, matrix, leaf)) - plain
            options[matrix.name][bits] = Option(int(leaf.nbytes), cost)
    rest = _rest(config, params, settings, fixed, {m.name for m in chosen_ones})
    mixed = cheapest(options, budget - rest)
    uniform = _uniform(options, budget - rest)

    def loss(bits: Mapping[str, int]) -> float:
        tree = params
        for matrix in chosen_ones:
            tree = _with(tree, matrix, _leaf(params, matrix, bits[matrix.name], settings))
        return loss_of(tree)

    best = min((one for one in (mixed, uniform) if one), key=loss)
    return {**fixed, **best}


def cheapest(options: Mapping[str, Mapping[int, Option]], budget: int) -> dict[str, int]:
    """Bits of each name with the least summed cost that greedy steps find within the budget.

    From the most bits on, that step down is taken which costs least for each byte it saves.

    >>> one = {4: Option(4, 0.5), 8: Option(8, 0.0)}
    >>> two = {4: Option(4, 0.1), 8: Option(8, 0.0)}
    >>> cheapest({"a": one, "b": two}, 12)
    {'a': 8, 'b': 4}

    Raises:
      UserError: where not even the fewest bits fit.
    """
    bits = {name: max(some) for name, some in options.items()}
    total = sum(options[name][count].nbytes for name, count in bits.items())
    least = sum(min(one.nbytes for one in some.values()) for some in options.values())
    if least > budget:
        raise UserError(
            f"quantize.budget_mb is {(least - budget) / 1e6:.3g} MB too small for the fewest of "
            "quantize.budget_bits; raise it, or allow fewer bits"
        )
    while total > budget:
        steps = [
            (_price(some[bits[name]], some[lower]), name, lower)
            for name, some in options.items()
            for lower in some
            if lower < bits[name]
        ]
        _, name, lower = min(steps)
        total -= options[name][bits[name]].nbytes - options[name][lower].nbytes
        bits[name] = lower
    return bits


def _price(now: Option, lower: Option) -> float:
    return (lower.cost - now.cost) / max(now.nbytes - lower.nbytes, 1)


def _uniform(options: Mapping[str, Mapping[int, Option]], budget: int) -> dict[str, int]:
    """The most bits that fit if all matrices have the same; empty where none do."""
    for bits in sorted(next(iter(options.values())), reverse=True):
        if sum(some[bits].nbytes for some in options.values()) <= budget:
            return dict.fromkeys(options, bits)
    return {}


def _rest(
    config: ModelConfig,
    params: Any,
    settings: QuantizeConfig,
    fixed: Mapping[str, int],
    chosen: set[str],
) -> int:
    """Bytes of everything whose bits are not chosen."""
    own = [matrix for matrix in matrices(config) if matrix.name not in chosen]
    leaves = (_leaf(params, matrix, fixed[matrix.name], settings) for matrix in own)
    arrays = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    return arrays - 4 * sum(m.size for m in matrices(config)) + sum(x.nbytes for x in leaves)


def _leaf(params: Any, matrix: Matrix, bits: int, settings: QuantizeConfig) -> Any:
    w = jnp.asarray(inside(params, matrix.path))
    w = w[matrix.slice] if matrix.layered else w.reshape(*matrix.inputs, *matrix.outputs)
    return leaf_of("affine", w, matrix, bits, settings, None)


def _with(params: Any, matrix: Matrix, leaf: Any) -> Any:
    """The parameters with the numbers that a leaf stands for, in one program for all bits."""
    stack = jnp.asarray(inside(params, matrix.path))
    values = leaf.values_IO() if is_quantized(leaf) else leaf.astype(jnp.float32)
    stack = stack.at[matrix.slice].set(values.reshape(stack.shape[1:]))
    return inside(params, matrix.path, stack)


def _loss(config: ModelConfig, windows_NT: np.ndarray) -> Callable[[Any], float]:
    """Mean nats per token on the windows."""
    count = len(windows_NT) // SEQUENCES * SEQUENCES or len(windows_NT)
    batches = jnp.asarray(
        windows_NT[:count].reshape(-1, min(SEQUENCES, count), windows_NT.shape[1])
    )

    @jax.jit
    def mean(params: Any) -> jax.Array:
        def one(rows_BT: jax.Array) -> jax.Array:
            logits_BTV = models.apply(config, params, rows_BT[:, :-1])
            return jnp.mean(ops.cross_entropy(logits_BTV, rows_BT[:, 1:]))

        return jnp.mean(jax.lax.map(one, batches))

    return lambda params: float(mean(params))
