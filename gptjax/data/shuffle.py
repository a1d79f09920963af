"""The shuffle: the windows that a step reads, a pure function of (seed, step) in NumPy and in JAX.

Window w of a token array covers tokens w·T to w·T + T: its first T are inputs, its last T are
targets. Example number e of a run belongs to epoch e // n, at position e % n, and reads window
P(position), where P is a pseudo-random permutation of the n windows keyed by (seed, epoch). Nothing
is stored: P is a Feistel network over a grid of a × b ≥ n cells with cycle walking (Black and
Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). The grid has fewer than √n + 1 spare cells,
so a second walk is rare.

All arithmetic is on uint32, and a step's first example is split into (epoch, position) without
forming step · batch, so counts beyond 2^32 are exact although JAX has no 64-bit integers unless
they are asked for.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int32, UInt32

from gptjax.data.token_files import num_windows

MAX_WINDOWS = 2**31 - 1
_GOLDEN = 0x9E3779B9


def windows_numpy(seed: int, step: int, batch: int, num_windows: int) -> np.ndarray:
    """The windows that step `step` reads, int64 of shape (batch,), for step · batch below 2^63."""
    first = int(step) * batch
    return window_of_numpy(seed, first + np.arange(batch, dtype=np.int64), num_windows)


def window_of_numpy(seed: int, examples: Any, num_windows: int) -> np.ndarray:
    """The windows of global example numbers (int64 or ints), as int64 of the same shape."""
    n = _checked(num_windows)
    examples = np.asarray(examples, dtype=np.int64)
    epoch = (examples // n).astype(np.uint32).reshape(-1)
    position = (examples % n).astype(np.uint32).reshape(-1)
    keys = _round_keys(np, np.array([_seed_word(seed)], np.uint32), epoch, n)
    window = _feistel(keys, position, n)
    while (outside := window >= n).any():
        inside_keys = [key[outside] for key in keys]
        window[outside] = _feistel(inside_keys, window[outside], n)
    return window.astype(np.int64).reshape(examples.shape)


def window_of_each_numpy(
    seed: int, examples: np.ndarray, which: np.ndarray, sizes: Sequence[int]
) -> np.ndarray:
    """The windows of examples of several token arrays: example `examples[i]` of array `which[i]`,
    which has `sizes[which[i]]` windows; what `window_of_numpy` says of each array alone."""
    n, epoch, position = _epochs_of_each(np, examples, which, sizes)
    keys = _round_keys(np, np.array([_seed_word(seed)], np.uint32), epoch, 1)
    window = _feistel_of_each(np, keys, position, which, sizes)
    while (outside := window >= n).any():
        again = _feistel_of_each(np, keys, window, which, sizes)
        window = np.where(outside, again, window)
    return window.astype(np.int64)


def window_of_each_jax(
    seed: Any, examples: Array, which: Array, sizes: Sequence[int]
) -> UInt32[Array, " B"]:
    """`window_of_each_numpy` inside a compiled step; `sizes` is static."""
    n, epoch, position = _epochs_of_each(jnp, examples, which, sizes)
    word = jnp.uint32(_seed_word(seed)) if isinstance(seed, int) else seed.astype(jnp.uint32)
    keys = _round_keys(jnp, word, epoch, 1)

    def walk(state: tuple[Array, Array]) -> tuple[Array, Array]:
        window, done = state
        window = jnp.where(done, window, _feistel_of_each(jnp, keys, window, which, sizes))
        return window, window < n

    start = (position, jnp.zeros(position.shape, bool))
    return lax.while_loop(lambda state: ~jnp.all(state[1]), walk, start)[0]


def windows_jax(seed: Any, step: Any, batch: int, num_windows: int) -> UInt32[Array, " B"]:
    """The windows that step `step` reads; `seed` and `step` may be traced, the rest is static.

    Args:
      seed: an int, or an int32/uint32 scalar.
      step: an int below 2^32, or an int32/uint32 scalar.
      batch: examples in a step (all hosts together).
      num_windows: windows of the token array.
    """
    n = _checked(num_windows)
    epoch, position = _epoch_and_position(_step_word(step), batch, n)
    position = position + jnp.arange(batch, dtype=jnp.uint32)
    epoch, position = epoch + position // n, position % n
    return _permute_jax(seed, epoch, position, n)


def window_of_jax(seed: Any, examples: Any, num_windows: int) -> UInt32[Array, "..."]:
    """The windows of global example numbers below 2^32 (an int32 or uint32 array)."""
    n = _checked(num_windows)
    examples = jnp.asarray(examples).astype(jnp.uint32)
    return _permute_jax(seed, examples // n, examples % n, n)


def batch_numpy(
    tokens: np.ndarray, seq_len: int, seed: int, step: int, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of one step from a host array, int32 of shape (batch, seq_len) each."""
    windows = windows_numpy(seed, step, batch, num_windows(len(tokens), seq_len))
    return gather_numpy(tokens, seq_len, windows)


def gather_numpy(
    tokens: np.ndarray, seq_len: int, windows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of the given windows from a host array, int32 of shape (B, T) each."""
    return cut_numpy(tokens, seq_len, np.asarray(windows, dtype=np.int64) * seq_len)


def cut_numpy(
    tokens: np.ndarray, seq_len: int, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of the windows that begin at these tokens, int32 of shape (B, T) each."""
    rows = tokens[starts[:, None] + np.arange(seq_len + 1)].astype(np.int32)
    return rows[:, :-1], rows[:, 1:]


def calibration_windows(tokens: np.ndarray, seq_len: int, count: int, seed: int) -> np.ndarray:
    """Windows of about `count` tokens, each once, int32 [n, T]; none where none is whole."""
    there = num_windows(len(tokens), seq_len)
    some = min(max(1, count // seq_len), there) if count else 0
    if not some:
        return np.zeros((0, seq_len), np.int32)
    return gather_numpy(tokens, seq_len, windows_numpy(seed, 0, some, there))[0]


def gather_jax(
    tokens: Array, seq_len: int, windows: Array
) -> tuple[Int32[Array, "B T"], Int32[Array, "B T"]]:
    """Inputs and targets of the given windows from a device array of fewer than 2^31 tokens."""
    return cut_jax(tokens, seq_len, windows.astype(jnp.int32) * seq_len)


def cut_jax(
    tokens: Array, seq_len: int, starts: Array
) -> tuple[Int32[Array, "B T"], Int32[Array, "B T"]]:
    """`cut_numpy` of a device array of fewer than 2^31 tokens."""
    if tokens.shape[0] > MAX_WINDOWS:
        raise ValueError("a device array of 2^31 tokens or more needs the host loader")
    rows = jax.vmap(lambda start: lax.dynamic_slice(tokens, (start,), (seq_len + 1,)))(starts)
    rows = rows.astype(jnp.int32)
    return rows[:, :-1], rows[:, 1:]


def _checked(num_windows: int) -> int:
    if not 1 <= num_windows <= MAX_WINDOWS:
        raise ValueError(f"num_windows={num_windows} must be in 1 … {MAX_WINDOWS}")
    return int(num_windows)


def _seed_word(seed: Any) -> int:
    return int(seed) & 0xFFFFFFFF


def _step_word(step: Any) -> Array:
    """A uint32 scalar; an int goes by NumPy, since JAX takes it for an int32, which ends at 2^31.

    Raises:
      OverflowError: for an int of 2^32 or more, or below 0.
    """
    if isinstance(step, int | np.integer):
        return jnp.asarray(np.uint32(int(step)))
    return jnp.asarray(step).astype(jnp.uint32)


def _epoch_and_position(step: Array, batch: int, n: int) -> tuple[Array, Array]:
    """(step · batch) divmod n without the product: Horner's rule over the bits of `batch`.

    With step = q·n + r, the quotient is q·batch plus that of r·batch; the latter is built by
    doubling and adding r, each followed by at most one subtraction of n < 2^31. Epochs wrap
    at 2^32.
    """
    whole, remainder = step // n, step % n
    epoch = jnp.zeros_like(step)
    position = jnp.zeros_like(step)
    for bit in bin(batch)[2:]:
        epoch, position = _carry(epoch * 2, position * 2, n)
        if bit == "1":
            epoch, position = _carry(epoch, position + remainder, n)
    return epoch + whole * jnp.uint32(batch & 0xFFFFFFFF), position


def _carry(epoch: Array, position: Array, n: int) -> tuple[Array, Array]:
    over = position >= jnp.uint32(n)
    return epoch + over, jnp.where(over, position - jnp.uint32(n), position)


def _permute_jax(seed: Any, epoch: Array, position: Array, n: int) -> Array:
    word = jnp.uint32(_seed_word(seed)) if isinstance(seed, int) else seed.astype(jnp.uint32)
    keys = _round_keys(jnp, word, epoch, n)

    def walk(state: tuple[Array, Array]) -> tuple[Array, Array]:
        window, done = state
        window = jnp.where(done, window, _feistel(keys, window, n))
        return window, window < n

    # The first walk is inside the loop too, so that the rounds are compiled once.
    start = (position, jnp.zeros(position.shape, bool))
    return lax.while_loop(lambda state: ~jnp.all(state[1]), walk, start)[0]


def _grid(n: int) -> tuple[int, int]:
    """The sides (a, b) of the smallest nearly square grid that holds n cells."""
    a = math.isqrt(n - 1) + 1
    return a, -(-n // a)


def _rounds(n: int) -> int:
    """Small grids mix slowly: with 8 rounds the orders of 5 or 6 windows came unequally often (χ²
    35 and 77 deviations above its mean in 24,000 epochs), with 16 they do not. Each round costs
    about 20 ms of compilation, so large grids keep to 8.
    """
    return 16 if n < 1024 else 8


def _round_keys(xp: Any, seed: Any, epoch: Any, n: int) -> list[Any]:
    """One uint32 key for each round, from two independent mixtures of (seed, epoch)."""
    first = _mix(xp, _mix(xp, seed ^ xp.uint32(0x243F6A88)) ^ epoch)
    second = _mix(xp, _mix(xp, seed ^ xp.uint32(0x85A308D3)) + epoch)
    both = (first, second)
    return [both[r % 2] + xp.uint32((r + 1) * _GOLDEN & 0xFFFFFFFF) for r in range(_rounds(n))]


def _feistel(keys: list[Any], x: Any, n: int) -> Any:
    """One walk: a permutation of the a·b cells of the grid, on uint32 arrays of either library."""
    xp = np if isinstance(x, np.ndarray) else jnp
    a, b = (xp.uint32(side) for side in _grid(n))
    high, low = x // b, x % b
    for r, key in enumerate(keys):
        if r % 2 == 0:
            high = (high + _mix(xp, low + key) % a) % a
        else:
            low = (low + _mix(xp, high + key) % b) % b
    return high * b + low


def _epochs_of_each(xp: Any, examples: Any, which: Any, sizes: Sequence[int]) -> tuple[Any, ...]:
    """The size of each example's array, and its epoch and place there, uint32."""
    n = xp.asarray(np.array([_checked(size) for size in sizes], np.uint32))[which]
    examples = xp.asarray(examples).astype(xp.uint32)
    return n, examples // n, examples % n


def _feistel_of_each(xp: Any, keys: list[Any], x: Any, which: Any, sizes: Sequence[int]) -> Any:
    """`_feistel` with the grid of each example's array; the later rounds are for small grids."""
    grids = np.array([_grid(size) for size in sizes], np.uint32)
    a, b = (xp.asarray(grids[:, side])[which] for side in (0, 1))
    rounds = xp.asarray(np.array([_rounds(size) for size in sizes]))[which]
    high, low = x // b, x % b
    for r, key in enumerate(keys):
        used = r < rounds
        if r % 2 == 0:
            high = xp.where(used, (high + _mix(xp, low + key) % a) % a, high)
        else:
            low = xp.where(used, (low + _mix(xp, high + key) % b) % b, low)
    return high * b + low


def _mix(xp: Any, x: Any) -> Any:
    """A bijection of uint32 whose output bits each depend on all input bits (lowbias32 of
    C. Wellons' hash prospector)."""
    x = x ^ (x >> xp.uint32(16))
    x = x * xp.uint32(0x7FEB352D)
    x = x ^ (x >> xp.uint32(15))
    x = x * xp.uint32(0x846CA68B)
    return x ^ (x >> xp.uint32(16))
