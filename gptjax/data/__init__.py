"""Sources, tokenizers, token files and the shuffle. Knows nothing of models.

What gathers windows on a device is imported when it is first asked for, so that processes that only
tokenize start without JAX.
"""

from typing import TYPE_CHECKING, Any

from gptjax.data.config import DataConfig
from gptjax.data.corpus import Corpus, load
from gptjax.data.token_files import num_windows

if TYPE_CHECKING:
    from gptjax.data.shuffle import (
        batch_numpy,
        calibration_windows,
        cut_jax,
        cut_numpy,
        gather_jax,
        gather_numpy,
        window_of_jax,
        window_of_numpy,
        windows_jax,
        windows_numpy,
    )

__all__ = [
    "Corpus",
    "DataConfig",
    "batch_numpy",
    "calibration_windows",
    "cut_jax",
    "cut_numpy",
    "gather_jax",
    "gather_numpy",
    "load",
    "num_windows",
    "window_of_jax",
    "window_of_numpy",
    "windows_jax",
    "windows_numpy",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gptjax.data import shuffle

    return getattr(shuffle, name)
