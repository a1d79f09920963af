"""Doctests of the API pages: examples of docstrings as blocks of code.

Markdown would read the `>>>` of an example as a quotation.
"""

import itertools
from typing import Any

import griffe


class Doctests(griffe.Extension):
    """Puts each paragraph that begins with `>>>` between fences."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Rewrite the docstring of one object, where it has one."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """The text with each doctest, up to the next empty line, as a block of code."""
    paragraphs = itertools.groupby(text.splitlines(), key=lambda line: bool(line.strip()))
    lines: list[str] = []
    for _, group in paragraphs:
        block = list(group)
        indent = block[0][: len(block[0]) - len(block[0].lstrip())]
        example = block[0].lstrip().startswith(">>>")
        lines += [f"{indent}```pycon", *block, f"{indent}```"] if example else block
    return "\n".join(lines)
