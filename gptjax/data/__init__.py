"""Sources, tokenizers, the token store and the index order. Knows nothing of models."""

from gptjax.data.config import DataConfig
from gptjax.data.corpus import Corpus, load
from gptjax.data.shuffle import (
    batch_numpy,
    gather_jax,
    gather_numpy,
    num_windows,
    window_of_jax,
    window_of_numpy,
    windows_jax,
    windows_numpy,
)

__all__ = [
    "Corpus",
    "DataConfig",
    "batch_numpy",
    "gather_jax",
    "gather_numpy",
    "load",
    "num_windows",
    "window_of_jax",
    "window_of_numpy",
    "windows_jax",
    "windows_numpy",
]
