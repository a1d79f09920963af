"""The end-of-document token of a loaded tokenizer.

Published tokenizers call it by many names, and a guess would add a second one beside the file's
own. So it is taken from the files that lie beside a `tokenizer.json`, in the order in which
`transformers` has them, then from names that mean nothing else; otherwise the user is asked.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptjax.errors import UserError, nearest

NEW = "new"
"""The value of `data.end_of_document` that adds one more id."""

KNOWN = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]")
"""Names that published tokenizers give it, most specific first."""

SIDECAR = "tokenizer_config.json"
SIDECARS = (SIDECAR, "special_tokens_map.json", "generation_config.json")
"""Files beside a tokenizer's that may name it, in the order of their weight."""


def find(path: str, asked: str, ids: Mapping[str, int], special: Mapping[str, int]) -> int | None:
    """The id of the end of a document; None where it is one more than the file has.

    Args:
      path: of the tokenizer's file; the settings of its folder are read.
      asked: `data.end_of_document`.
      ids: of every token of the file by name.
      special: of those that no text encodes to.

    Raises:
      UserError: for a name that the file does not have, settings that cannot be read, and where
        there are special tokens and none is known to end a document.
    """
    if asked == NEW:
        return None
    if asked:
        return _asked(asked, ids, special)
    for found in _settings(Path(path).parent) if path else ():
        if isinstance(found, str) and found in ids:
            return ids[found]
        if isinstance(found, int) and found in ids.values():
            return found
    known = next((special[name] for name in KNOWN if name in special), None)
    if known is None and special:
        raise UserError(
            f"data.tokenizer_path={path!r} does not say which token ends a document; name it with "
            f"data.end_of_document, one of {_some(special)}, or data.end_of_document={NEW} for one "
            "more id"
        )
    return known


def keep(folder: Path, name: str) -> None:
    """Write the name beside a tokenizer that is kept in `folder`, where `find` looks for it."""
    (folder / SIDECAR).write_text(json.dumps({"eos_token": name}))


def _asked(name: str, ids: Mapping[str, int], special: Mapping[str, int]) -> int:
    if name not in ids:
        raise UserError(
            f"data.end_of_document={name!r} is no token of data.tokenizer_path; "
            f"{nearest(name, special or ids)}"
        )
    return ids[name]


def _some(special: Mapping[str, int]) -> str:
    names = sorted(special, key=special.__getitem__)
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")


def _settings(folder: Path) -> list[str | int]:
    """What the files of a model's folder call it: names and ids, in the order of their weight."""
    found: list[Any] = [
        _read(folder / SIDECAR).get("eos_token"),
        _read(folder / "special_tokens_map.json").get("eos_token"),
        _read(folder / "generation_config.json").get("eos_token_id"),
    ]
    found = [value.get("content") if isinstance(value, Mapping) else value for value in found]
    found = [value[0] if isinstance(value, list) and value else value for value in found]
    return [value for value in found if isinstance(value, str | int)]


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{str(path)!r}, which says how documents end, cannot be read ({error}); mend it, or "
            "name the token with data.end_of_document"
        ) from error
    return found if isinstance(found, dict) else {}
