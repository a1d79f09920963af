"""GPTQ: rounding one input after another, the rest of the weights making up for the error.

Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers" (2022), arXiv:2210.17323, algorithm 1: min ‖Ŵᵀx − Wᵀx‖² over the
calibration tokens, with the inverse Hessian's Cholesky factor in the place of its updates.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # its parts are imported at their first use

from gptjax import ops
from gptjax.errors import UserError

BLOCK = 128
"""Inputs after which the rest of a matrix is updated at once (the paper's lazy batches)."""


def gptq(
    w_IO: np.ndarray,
    hessian_II: np.ndarray,
    *,
    bits: int,
    group: int,
    whole: bool = False,
    damping: float = 0.01,
    by_activation: bool = True,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(codes_RO, scale, zero point) of a matrix, R = I in whole groups, as `ops.affine_grid`.

    Args:
      hessian_II: Σ x·xᵀ over the calibration tokens, up to a factor.
      group: inputs that share a scale and a zero point.
      whole: one scale for all of the matrix.
      damping: added to the diagonal, in units of its mean.
      by_activation: take the inputs with the largest Σ x² first (the published code's `act-order`).
        Scales are those of the weights as they were (its `static-groups`); otherwise a group's
        scale is that of its weights when its turn comes.

    Raises:
      UserError: where the damped Hessian has no Cholesky factor.
    """
    I = len(w_IO)
    rows = ops.padded_inputs(I, group)
    h_II = np.asarray(hessian_II, np.float64).copy()
    w_IO = np.array(w_IO, np.float32)
    dead = np.diag(h_II) == 0
    h_II[dead, dead] = 1.0
    w_IO[dead] = 0.0
    order = np.argsort(-np.diag(h_II), kind="stable") if by_activation else np.arange(I)
    factor_RR = np.eye(rows)
    factor_RR[:I, :I] = _inverse_factor(h_II[np.ix_(order, order)], damping)
    order = np.concatenate([order, np.arange(I, rows)])
    w_RO = np.pad(w_IO, [(0, rows - I), (0, 0)])
    scale, zero = ops.affine_grid(ops.in_groups(jnp.asarray(w_IO), group), bits, whole=whole)
    fixed = by_activation or whole or group >= I
    of_row = order // group if scale.shape[0] > 1 else np.zeros(rows, int)
    grid = (np.asarray(x)[of_row] for x in (scale, zero))  # rows are put in order by NumPy
    arrays = w_RO[order], factor_RR.astype(np.float32), *grid
    codes, scales, zeros = _round_in_turn(*arrays, bits=bits, block=_block(rows, group, fixed))
    if not fixed:
        scale, zero = scales, zeros
    return jnp.asarray(np.asarray(codes)[np.argsort(order)]), scale, zero


def _block(rows: int, group: int, fixed: bool) -> int:
    """Rows of a lazy batch; a group, with a sign, where a group's scale waits for its turn."""
    if not fixed:
        return -group
    return next(size for size in range(min(BLOCK, rows), 0, -1) if rows % size == 0)


def _inverse_factor(h_II: np.ndarray, damping: float) -> np.ndarray:
    """U with Uᵀ·U = (H + λ·mean(diag H))⁻¹, upper triangular, float64."""
    damped = h_II + damping * np.mean(np.diag(h_II)) * np.eye(len(h_II))
    try:
        lower = scipy.linalg.cholesky(damped, lower=True)
        inverse = scipy.linalg.cho_solve((lower, True), np.eye(len(h_II)))
        return scipy.linalg.cholesky(inverse, lower=False)
    except np.linalg.LinAlgError as error:
        raise UserError(
            f"the inputs of a matrix are too alike for GPTQ with quantize.damping={damping:g} "
            f"({error}); raise it, or give more quantize.calibration_tokens"
        ) from error


@functools.partial(jax.jit, static_argnames=("bits", "block"))
def _round_in_turn(
    w_RO: jax.Array,
    factor_RR: jax.Array,
    scale_RP: jax.Array,
    zero_RP: jax.Array,
    *,
    bits: int,
    block: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(codes_RO, scales and zero points by block) with the grid of each row, or, where `block` is
    negative, one grid for each block of rows as they are when their turn comes."""
    size = abs(block)

    def one_block(w_RO: jax.Array, number: jax.Array) -> tuple[jax.Array, tuple]:
        start = number * size
        w_SO = jax.lax.dynamic_slice_in_dim(w_RO, start, size)
        factor_SR = jax.lax.dynamic_slice_in_dim(factor_RR, start, size)
        factor_SS = jax.lax.dynamic_slice_in_dim(factor_SR, start, size, axis=1)
        scale, zero = (jax.lax.dynamic_slice_in_dim(x, start, size) for x in (scale_RP, zero_RP))
        if block < 0:
            grid = ops.affine_grid(w_SO[None], bits)
            scale, zero = (jnp.broadcast_to(x, (size, x.shape[-1])) for x in grid)
        codes, errors_SO = _round_block(w_SO, factor_SS, scale, zero, bits)
        return w_RO - factor_SR.T @ errors_SO, (codes, scale[0], zero[0])

    numbers = jnp.arange(w_RO.shape[0] // size)
    _, (codes, scales, zeros) = jax.lax.scan(one_block, w_RO, numbers)
    return codes.reshape(w_RO.shape), scales, zeros


def _round_block(
    w_SO: jax.Array, factor_SS: jax.Array, scale_SP: jax.Array, zero_SP: jax.Array, bits: int
) -> tuple[jax.Array, jax.Array]:
    """(codes, errors over the factor's diagonal) of a block, each row rounded in its turn."""

    def one_row(i: jax.Array, carry: tuple) -> tuple:
        w_SO, codes_SO, errors_SO = carry
        grid = scale_SP[i][None], zero_SP[i][None]
        code_1O = ops.to_codes(w_SO[i][None, None], *grid, bits)
        rounded_O = ops.from_codes(code_1O, *grid)[0, 0]
        error_O = (w_SO[i] - rounded_O) / factor_SS[i, i]
        w_SO = w_SO - factor_SS[i][:, None] * error_O
        return w_SO, codes_SO.at[i].set(code_1O[0, 0]), errors_SO.at[i].set(error_O)

    start = w_SO, jnp.zeros(w_SO.shape, jnp.uint8), jnp.zeros_like(w_SO)
    return jax.lax.fori_loop(0, w_SO.shape[0], one_row, start)[1:]
