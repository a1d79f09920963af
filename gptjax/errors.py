"""User errors: the one exception that users read, and the helpers that word it."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what the user gave: one sentence with the field, the value and the repair.

    `gptjax.main` prints it on standard error and exits with status 2; no traceback is shown.
    Anything else that escapes is a bug of ours and keeps its traceback.
    """


def nearest(word: object, choices: Iterable[object]) -> str:
    """A hint that names the closest of `choices`, or lists them all when none is close.

    >>> nearest("cosin", ["cosine", "wsd"])
    'did you mean cosine?'
    >>> nearest("zzz", ["cosine", "wsd"])
    'choose one of: cosine, wsd'
    """
    names = [str(choice) for choice in choices]
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"choose one of: {', '.join(names)}"
