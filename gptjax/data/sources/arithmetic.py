"""The source `arithmetic`: sums of two numbers, one a document, for answers that can be checked.

A document is the line `a+b=c` with a and b below 10^digits, no question twice, in a seeded order.
Documents are split by their hash as any others, so held-out questions were never seen.
"""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from gptjax.data.sources.base import Documents, Source
from gptjax.errors import UserError
from gptjax.fields import setting

if TYPE_CHECKING:
    from gptjax.data.config import DataConfig


@dataclasses.dataclass(frozen=True)
class ArithmeticConfig:
    """The settings of the source `arithmetic`."""

    digits: int = setting(3, "most digits of each number", minimum=1, maximum=8)
    problems: int = setting(200_000, "different questions", minimum=1, maximum=1 << 24)
    seed: int = setting(0, "which questions, and their order", minimum=0, maximum=2**32 - 1)


def problems(own: ArithmeticConfig) -> Iterator[bytes]:
    """The documents: `a+b=c\n` of questions drawn without return.

    >>> len(set(problems(ArithmeticConfig(digits=1, problems=100))))
    100
    """
    below = 10**own.digits
    rng = np.random.default_rng(own.seed)
    drawn = rng.choice(below**2, own.problems, replace=False)
    for question in drawn.tolist():
        a, b = divmod(question, below)
        yield f"{a}+{b}={a + b}\n".encode()


def _open(own: ArithmeticConfig, config: "DataConfig", seq_len: int) -> Documents:
    most = 10 ** (2 * own.digits)
    if own.problems > most:
        raise UserError(
            f"data.arithmetic.problems={own.problems} are more than the {most} different questions "
            f"of data.arithmetic.digits={own.digits}; give fewer, or more digits"
        )
    return Documents(
        stamp={"arithmetic": dataclasses.asdict(own), "document": "a+b=c\n"},
        read=lambda: problems(own),
        field="data.source='arithmetic'",
    )


SOURCE = Source("arithmetic", _open, ArithmeticConfig)
