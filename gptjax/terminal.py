"""Standard output and error: streams that are closed, or whose encoding lacks characters."""

import codecs
import os
import sys
from typing import cast

REPLACED = {
    "–": "-",
    "—": "-",
    "−": "-",
    "×": "x",
    "·": "*",
    "±": "+-",
    "…": "...",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "∞": "inf",
    "∝": "~",
    "→": "->",
    "\xa0": " ",
    "β": "beta",
    "α": "alpha",
    "√": "sqrt",
}
"""Replacements for characters that an encoding lacks."""

RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")


def adapt_streams() -> None:
    """Let every text be written: to nowhere where a stream is closed, else as its encoding can."""
    codecs.register_error("gptjax", _in_words)
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
        elif name != "stdin" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="gptjax")


def drop_output() -> None:
    """Send what is left to nowhere: the reader of standard output has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(text: str) -> str:
    r"""A sentence whose control characters, of a value that it repeats, are written as escapes.

    >>> printable("no task a\0b")
    'no task a\\x00b'
    """
    return "".join(
        one if one.isprintable() else " " if one.isspace() else repr(one)[1:-1] for one in text
    )


def _in_words(error: UnicodeError) -> tuple[str, int]:
    found = cast(UnicodeEncodeError, error)
    text = found.object[found.start : found.end]
    plain = text.translate(RAISED)
    if plain != text:
        before = found.object[: found.start][-1:]
        return ("" if before.translate(RAISED) != before else "^") + _ascii(plain), found.end
    return "".join(REPLACED.get(character, "?") for character in text), found.end


def _ascii(text: str) -> str:
    return "".join(one if one.isascii() else REPLACED.get(one, "?") for one in text)
