"""Mixers of tokens: attention of every kind, and state-space models, one file each.

Importing a file registers its mixers; their order is that of the choices in messages and docs.
"""

# isort: off
from gptjax.models.mixers import attention
from gptjax.models.mixers import mamba
from gptjax.models.mixers import strided
from gptjax.models.mixers import fixed
from gptjax.models.mixers import blocksparse
from gptjax.models.mixers import longformer
from gptjax.models.mixers import linformer
from gptjax.models.mixers import performer
from gptjax.models.mixers import reformer

# isort: on
from gptjax.models.mixers.mixer import MIXERS, Mixer, TokenInfo, mixer_of, register

__all__ = [
    "MIXERS",
    "Mixer",
    "TokenInfo",
    "attention",
    "blocksparse",
    "fixed",
    "linformer",
    "longformer",
    "mamba",
    "mixer_of",
    "performer",
    "reformer",
    "register",
    "strided",
]
