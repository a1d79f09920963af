"""The table of sources, one file each: where documents come from."""

from gptjax.data.sources import (
    arithmetic,
    captioned_shapes,
    jsonl,
    stdlib,
    text,
    tfds,
    zipf_facts,
)
from gptjax.data.sources.base import Documents, Generated, Pictured, Source

SOURCES: dict[str, Source] = {}
"""By name: the choices of `data.source`."""


def register(source: Source) -> Source:
    """Add a source to the table, under its name with hyphens and with underscores."""
    SOURCES[source.name] = SOURCES[source.name.replace("-", "_")] = source
    return source


_OURS = (stdlib, text, jsonl, tfds, zipf_facts, arithmetic, captioned_shapes)
for _source in (module.SOURCE for module in _OURS):
    register(_source)

__all__ = ["SOURCES", "Documents", "Generated", "Pictured", "Source", "register"]
