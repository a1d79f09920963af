"""Tokens of a text, counted by a tokenizer's file, for the waterfall of a cleaning."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gptjax.errors import UserError
from gptjax.files import user_path


@functools.lru_cache(maxsize=4)
def counter(path: str) -> Callable[[str], int]:
    """The function that counts the tokens of a text; always 0 where no file is named.

    Raises:
      UserError: for a file that cannot be read, or is none of a tokenizer.
    """
    if not path:
        return lambda text: 0
    from gptjax.data.config import DataConfig
    from gptjax.data.tokenizers import TOKENIZERS, read

    file = user_path(path)
    kinds = {Path(kind.file).suffix: name for name, kind in TOKENIZERS.items() if kind.file}
    if file.suffix not in kinds:
        raise UserError(
            f"clean.tokenizer_path={path} is no tokenizer's file; give one that ends in "
            f"{' or '.join(sorted(kinds))}"
        )
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(
            f"clean.tokenizer_path={path} cannot be read ({error.strerror}); name a file"
        ) from error
    settings = DataConfig(tokenizer=kinds[file.suffix], tokenizer_path=str(file), lossy=True)
    tokenizer = read(settings, content, str(file))

    def count(text: str) -> int:
        (ids,) = tokenizer.encode([text.encode("utf-8", "replace")])
        return len(np.asarray(ids))

    return count
