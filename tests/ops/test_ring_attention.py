"""Tables of the ring: every visible pair is visited once, and all devices work the same."""

import numpy as np
import pytest

from gptjax.ops.ring_attention import Ring, balanced_chunks, make_visits

BLOCK = 4


def ring_of(devices, tokens, chunks=None):
    chunks = chunks or balanced_chunks(devices)
    return Ring("seq", chunks, tokens // (devices * len(chunks[0])))


def visited(ring, window):
    """How often query t and key s meet, [T, T], over all devices and offsets."""
    visits = make_visits(ring, BLOCK, window)
    devices, size = len(ring.chunks), ring.size
    count = np.zeros((ring.positions.size,) * 2, int)
    for d in range(devices):
        for o, offset in enumerate(visits.offsets):
            keys = ring.chunks[(d - offset) % devices]
            assert visits.starts_doc[d, o].tolist() == [c * size for c in keys]
            for i, j, real in visits.pairs_dopj[d, o]:
                rows = positions_of_block(ring.chunks[d], size, i)
                columns = positions_of_block(keys, size, j)
                count[np.ix_(rows, columns)] += real
                ago = rows[:, None] - columns
                sees = (ago >= 0) & (ago < (window or ring.positions.size))
                assert not real or sees.any()  # nobody works for nothing
    return count


def positions_of_block(chunks, size, number):
    in_chunk = -(-size // BLOCK)
    chunk, start = chunks[number // in_chunk], number % in_chunk * BLOCK
    return chunk * size + np.arange(start, min(start + BLOCK, size))


@pytest.mark.parametrize("tokens, window", [(64, 0), (72, 0), (64, 5), (64, 6), (72, 23)])
def test_every_visible_pair_is_visited_once(tokens, window):
    count = visited(ring_of(4, tokens), window)
    ago = np.arange(tokens)[:, None] - np.arange(tokens)
    visible = (ago >= 0) & (ago < (window or tokens))
    assert (count[visible] == 1).all()
    assert count.max() == 1
    assert count.sum() < tokens**2  # blocks that nobody sees are left out


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_devices_work_the_same(devices):
    """Pairs of blocks by hand: with m blocks a chunk, m·(2m+1) at home and 2m² with any other."""
    m = 3
    balanced = make_visits(ring_of(devices, 2 * devices * m * BLOCK), BLOCK, 0).work_do
    assert (balanced == [m * (2 * m + 1)] + [2 * m * m] * (devices - 1)).all()
    in_time = tuple((d,) for d in range(devices))
    plain = make_visits(ring_of(devices, 2 * devices * m * BLOCK, in_time), BLOCK, 0).work_do
    assert plain.sum() == balanced.sum()
    # The slowest device sets the pace of every offset.
    assert plain.max(axis=0).sum() > balanced.max(axis=0).sum() * (2 - 1.5 / devices)


def test_a_window_asks_its_neighbours_only():
    visits = make_visits(ring_of(8, 8 * 2 * BLOCK), BLOCK, BLOCK)
    assert visits.offsets == (0, 1, 7)
    assert visits.work_do.sum() < 8 * 2 * 2 * 2
