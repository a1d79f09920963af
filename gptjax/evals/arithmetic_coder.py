"""Arithmetic coder over frequencies: whole numbers in, bits out, and back without loss.

Witten, Neal and Cleary 1987, "Arithmetic Coding for Data Compression", with registers of 48 bits,
so that frequencies may add up to 2^28. A symbol costs −log2(frequency / total) bits but for the
registers' rounding.
"""

import numpy as np

BITS = 48
TOP, HALF, QUARTER = (1 << BITS) - 1, 1 << (BITS - 1), 1 << (BITS - 2)
TOTAL = 1 << 28


def cumulative(log_p_V: np.ndarray) -> np.ndarray:
    """Cumulative frequencies, int64 [V + 1] from 0, each symbol's at least one."""
    p_V = np.exp(log_p_V.astype(np.float64) - np.max(log_p_V))
    room = TOTAL - len(p_V)
    counts_V = np.floor(p_V / p_V.sum() * room).astype(np.int64) + 1
    return np.concatenate([[0], np.cumsum(counts_V)])


class Encoder:
    """Symbols to bytes."""

    def __init__(self) -> None:
        self.low, self.high, self.pending = 0, TOP, 0
        self.bits: list[int] = []

    def put(self, cumulative_V: np.ndarray, symbol: int) -> None:
        """Append a symbol."""
        self.low, self.high = _narrowed(
            self.low,
            self.high,
            cumulative_V,
            int(cumulative_V[symbol]),
            int(cumulative_V[symbol + 1]),
        )
        while (taken := _settled(self.low, self.high)) is not None:
            if taken >= 0:
                self._bit(taken)
            else:
                self.pending += 1
            self.low, self.high = _widened(self.low, self.high, taken)

    def finish(self) -> bytes:
        """All bytes, with as many bits at the end as tell the last symbol."""
        self.pending += 1
        self._bit(int(self.low >= QUARTER))
        return np.packbits(np.array(self.bits, np.uint8)).tobytes()

    def _bit(self, bit: int) -> None:
        self.bits += [bit, *[1 - bit] * self.pending]
        self.pending = 0


class Decoder:
    """Bytes to symbols."""

    def __init__(self, data: bytes) -> None:
        self.bits = iter(np.unpackbits(np.frombuffer(data, np.uint8)).tolist())
        self.low, self.high, self.code = 0, TOP, 0
        for _ in range(BITS):
            self.code = self.code << 1 | next(self.bits, 0)

    def get(self, cumulative_V: np.ndarray) -> int:
        """The next symbol."""
        total, span = int(cumulative_V[-1]), self.high - self.low + 1
        place = ((self.code - self.low + 1) * total - 1) // span
        symbol = int(np.searchsorted(cumulative_V, place, side="right")) - 1
        self.low, self.high = _narrowed(
            self.low,
            self.high,
            cumulative_V,
            int(cumulative_V[symbol]),
            int(cumulative_V[symbol + 1]),
        )
        while (taken := _settled(self.low, self.high)) is not None:
            shift = (0, HALF, QUARTER)[taken]
            self.low, self.high = _widened(self.low, self.high, taken)
            self.code = (self.code - shift) << 1 | next(self.bits, 0)
        return symbol


def _narrowed(
    low: int, high: int, cumulative_V: np.ndarray, first: int, after: int
) -> tuple[int, int]:
    span, total = high - low + 1, int(cumulative_V[-1])
    return low + span * first // total, low + span * after // total - 1


def _settled(low: int, high: int) -> int | None:
    """0 or 1: the first bit is known; −1: it is open and the second is not; None: go on."""
    if high < HALF:
        return 0
    if low >= HALF:
        return 1
    return -1 if low >= QUARTER and high < HALF + QUARTER else None


def _widened(low: int, high: int, taken: int) -> tuple[int, int]:
    shift = (0, HALF, QUARTER)[taken]
    return (low - shift) << 1, (high - shift) << 1 | 1
