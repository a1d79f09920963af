"""The index order: a true permutation, the same in both libraries, exact at any count."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.data import shuffle

SIZES = [1, 2, 3, 5, 7, 16, 17, 100, 1000, 1024, 4099]


@pytest.mark.parametrize("n", SIZES)
def test_each_epoch_reads_every_window_once(n):
    for seed, epoch in itertools.product((0, 1, 2**32 - 1), (0, 1, 12345)):
        windows = shuffle.window_of_numpy(seed, epoch * n + np.arange(n), n)
        assert np.array_equal(np.sort(windows), np.arange(n))


@pytest.mark.parametrize("n", [1000, 2000])
def test_epochs_and_seeds_are_shuffled_differently(n):
    orders = [
        tuple(shuffle.window_of_numpy(seed, epoch * n + np.arange(n), n))
        for seed in range(5)
        for epoch in range(5)
    ]
    assert len(set(orders)) == 25
    fixed = [sum(np.array(a) == np.array(b)) for a, b in itertools.combinations(orders, 2)]
    # Two random permutations agree in one place on average, with variance one.
    assert abs(np.mean(fixed) - 1) < 0.3
    assert max(fixed) < 9


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_orders_of_few_windows_come_equally_often(n):
    """χ² over the n! orders in 24,000 epochs, in deviations from its mean (8 rounds: 77)."""
    epochs, orders = 24_000, math.factorial(n)
    windows = shuffle.window_of_numpy(7, np.arange(epochs * n), n).reshape(epochs, n)
    counts = np.unique(windows @ n ** np.arange(n), return_counts=True)[1]
    assert len(counts) == orders
    expected = epochs / orders
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi2 - (orders - 1)) / math.sqrt(2 * (orders - 1)) < 4


def test_neighbours_are_not_kept_together():
    n = 5000
    windows = shuffle.window_of_numpy(3, np.arange(n), n)
    assert abs(np.corrcoef(windows[:-1], windows[1:])[0, 1]) < 0.05
    assert (np.abs(np.diff(windows)) == 1).sum() < 12


QUICK = (1, 2, 5, 16, 17, 4099, 2**20 + 7, 2**31 - 1)
"""Of the compiled sizes: the least, powers of two, beside them, and the largest."""


@pytest.mark.parametrize(
    "n",
    [
        pytest.param(n, marks=() if n in QUICK else pytest.mark.slow)
        for n in (*SIZES, 93_749, 2**20 + 7, 2**31 - 1)
    ],
)
def test_jax_gives_the_bits_of_numpy(n):
    examples = np.unique(np.linspace(0, 2**32 - 1, 401).astype(np.uint32))
    ours = jax.jit(shuffle.window_of_jax, static_argnums=2)(7, jnp.asarray(examples), n)
    assert np.array_equal(
        np.asarray(ours), shuffle.window_of_numpy(7, examples.astype(np.int64), n)
    )


def test_steps_beyond_32_bits_agree():
    """Global example numbers up to 2^40 and beyond, batches larger than the corpus among them."""
    rng = np.random.default_rng(0)
    cases = [
        (1, 300, 2**31 - 1),
        (2**31 - 1, 512, 2**31 - 1),
        (5, 256, 2**32 - 1),
    ]
    for _ in range(2):
        cases.append(
            (int(rng.integers(1, 2**20)), int(rng.integers(1, 600)), int(rng.integers(2**31)))
        )
    step_windows = jax.jit(shuffle.windows_jax, static_argnums=(2, 3))
    for n, batch, step in cases:
        ours = step_windows(jnp.uint32(11), jnp.uint32(step), batch, n)
        assert np.array_equal(np.asarray(ours), shuffle.windows_numpy(11, step, batch, n)), (
            n,
            batch,
        )


def test_steps_are_consecutive_examples():
    n, batch = 37, 10
    by_step = np.concatenate([shuffle.windows_numpy(4, step, batch, n) for step in range(12)])
    assert np.array_equal(by_step, shuffle.window_of_numpy(4, np.arange(120), n))


def test_works_in_a_scan_and_under_vmap():
    def run(seed):
        body = lambda carry, step: (carry, shuffle.windows_jax(seed, step, 4, 11))  # noqa: E731
        return jax.lax.scan(body, 0, jnp.arange(6))[1]

    seeds = jnp.arange(3)
    found = jax.jit(jax.vmap(run))(seeds)
    for seed in range(3):
        expected = [shuffle.windows_numpy(seed, step, 4, 11) for step in range(6)]
        assert np.array_equal(np.asarray(found[seed]), np.stack(expected))


def test_windows_by_hand():
    """Nine tokens hold two windows of four; targets are inputs one later."""
    tokens = np.arange(9, dtype=np.uint16)
    assert shuffle.num_windows(9, 4) == 2
    assert shuffle.num_windows(8, 4) == 1
    assert shuffle.num_windows(1, 4) == shuffle.num_windows(0, 4) == 0
    inputs, targets = shuffle.gather_numpy(tokens, 4, np.array([0, 1]))
    assert inputs.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert targets.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert inputs.dtype == targets.dtype == np.int32


def test_device_and_host_batches_are_the_same():
    tokens = np.random.default_rng(0).integers(0, 257, 1000).astype(np.uint16)
    n = shuffle.num_windows(1000, 16)
    on_device = jnp.asarray(tokens)
    windows_of = jax.jit(shuffle.windows_jax, static_argnums=(2, 3))
    gather = jax.jit(shuffle.gather_jax, static_argnums=1)
    for step in (0, 3, 2**31 - 1):
        windows = windows_of(jnp.uint32(5), jnp.uint32(step), 6, n)
        for ours, theirs in zip(
            gather(on_device, 16, windows),
            shuffle.batch_numpy(tokens, 16, 5, step, 6),
            strict=True,
        ):
            assert np.array_equal(np.asarray(ours), theirs)
            assert ours.dtype == theirs.dtype == np.int32


def test_no_window_is_our_own_error():
    with pytest.raises(ValueError, match="num_windows=0"):
        shuffle.windows_numpy(0, 0, 4, 0)
    with pytest.raises(ValueError, match="num_windows"):
        shuffle.windows_jax(0, 0, 4, 2**31)


@pytest.mark.parametrize("step", [2**31 - 1, 2**31, 2**32 - 1])
def test_a_step_that_is_a_large_int_reads_the_same_windows_in_both_libraries(step):
    ours = np.asarray(shuffle.windows_jax(3, step, 5, 1000))
    assert np.array_equal(ours, shuffle.windows_numpy(3, step, 5, 1000))


@pytest.mark.parametrize("step", [-1, 2**32])
def test_a_step_beyond_the_word_is_refused(step):
    with pytest.raises(OverflowError):
        shuffle.windows_jax(3, step, 5, 1000)
