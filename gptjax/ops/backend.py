"""Backend: its name, and the batch sizes and number type that suit it.

No compiler flag was found that helps.
"""

import contextlib
import functools
import time
from collections.abc import Iterator
from contextvars import ContextVar

import jax
import jax.numpy as jnp

from gptjax import processor

_PLATFORM: ContextVar[str] = ContextVar("platform", default="")


def platform() -> str:
    """Where the programs that are traced now will run: cpu, gpu or tpu.

    The default backend, unless `programs_for` names another.
    """
    return _PLATFORM.get() or jax.default_backend()


@contextlib.contextmanager
def programs_for(name: str) -> Iterator[None]:
    """Within it, programs are traced for that platform, whatever this machine has."""
    token = _PLATFORM.set(name)
    try:
        yield
    finally:
        _PLATFORM.reset(token)


def micro_batches(batch_size: int, seq_len: int, *, tokens: int = 512) -> int:
    """Micro-batches to split a batch into so that activations of one stay in a CPU core's cache.

    The smallest divisor of `batch_size` that leaves at most `tokens` tokens a part, or one
    sequence. Measured on one core with 1 MB of second-level cache at widths 32 to 96: a step in
    parts of 512 tokens is 1.3 to 1.5 times faster than one of 4,096; two threads together do best
    at 1,024. The sum of the parts' gradients rounds differently, so a run must keep its number.

    >>> micro_batches(32, 128), micro_batches(6, 256), micro_batches(4, 1024)
    (8, 3, 4)
    >>> micro_batches(2**50, 128) == 2**48
    True
    """
    for size in range(min(batch_size, tokens // seq_len), 1, -1):
        if batch_size % size == 0:
            return batch_size // size
    return batch_size


NARROW_WIDTH = 256
"""Width from which bfloat16 products pay on a processor that has them; below it conversions cost
more than the products gain."""


def compute_type(width: int) -> str:
    """The type in which a step of a model of this width is fastest where programs run now.

    A function of the device alone and of nothing measured, so that a run that is started again
    computes as before: bfloat16 on accelerators, and from NARROW_WIDTH on on processors with
    bfloat16 matrix units (AMX), where products of 512 and more are four to six times as fast as in
    float32; float32 on all other processors, AVX-512's bfloat16 included.
    """
    if platform() != "cpu":
        return "bfloat16"
    pays = "amx_bf16" in processor.flags() and width >= NARROW_WIDTH
    return "bfloat16" if pays else "float32"


@functools.cache
def product_rate(dtype: str = "float32") -> float:
    """FLOP/s of the best of ten products of two square matrices by the default device.

    What the products of a step can reach here at most, in a process with these threads. On a CPU
    core it takes about a tenth of a second.
    """
    size = 512 if platform() == "cpu" else 4096
    x = jnp.ones((size, size), dtype)
    multiply = jax.jit(lambda x: jnp.matmul(x, x, preferred_element_type=jnp.float32))
    multiply(x).block_until_ready()
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        multiply(x).block_until_ready()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)
