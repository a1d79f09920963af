"""Tokens of a text, counted by a tokenizer's file, for the waterfall of a cleaning."""

import functools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gptjax.data.tokenizers import TOKENIZERS, Tokenizer, content_of, read
from gptjax.data.tokenizers.base import kind_of
from gptjax.data.tokenizers.end_of_document import NEW
from gptjax.errors import UserError
from gptjax.files import user_path

OF_TRAINING = r" but looks like [^;]*|, or leave it empty to train \w+( \w+)?"
"""Repairs that are none of a cleaning."""


@functools.lru_cache(maxsize=4)
def counter(path: str) -> Callable[[str], int]:
    """The function that counts the tokens of a text; always 0 where no file is named.

    Raises:
      UserError: for a file that cannot be read, or is none of a tokenizer.
    """
    if not path:
        return lambda text: 0
    try:
        tokenizer = _tokenizer(path)
    except UserError as error:
        words = re.sub(OF_TRAINING, "", str(error))
        raise UserError(words.replace("data.tokenizer_path", "clean.tokenizer_path")) from error

    def count(text: str) -> int:
        (ids,) = tokenizer.encode([text.encode("utf-8", "replace")])
        return len(np.asarray(ids))

    return count


def _tokenizer(path: str) -> Tokenizer:
    """The tokenizer of a file, of the kind that its beginning shows before that of its name."""
    from gptjax.data.config import DataConfig

    file = str(user_path(path))
    kinds = {Path(kind.file).suffix: name for name, kind in TOKENIZERS.items() if kind.file}
    if Path(file).suffix not in kinds:
        raise UserError(
            f"clean.tokenizer_path={path} is no tokenizer's file; give one that ends in "
            f"{' or '.join(sorted(kinds))}"
        )
    content = content_of(path)
    kind = kind_of(content, kinds[Path(file).suffix])
    settings = DataConfig(tokenizer=kind, tokenizer_path=file, end_of_document=NEW, lossy=True)
    return read(settings, content, file)
