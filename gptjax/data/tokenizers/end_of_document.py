"""The end-of-document token of a loaded tokenizer.

Published tokenizers call it by many names, and a guess would add a second one beside the file's
own. So it is taken from the files that lie beside a `tokenizer.json`, in the order in which
`transformers` has them, then from names that mean nothing else; otherwise the user is asked.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gptjax.errors import UserError, nearest
from gptjax.files import check_plain

NEW = "new"
"""The value of `data.end_of_document` that adds one more id."""

KNOWN = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]")
"""Names that published tokenizers give it, most specific first."""

SIDECAR = "tokenizer_config.json"
NAMED_BY = (
    (SIDECAR, "eos_token"),
    ("special_tokens_map.json", "eos_token"),
    ("generation_config.json", "eos_token_id"),
    ("config.json", "eos_token_id"),
)
"""Files beside a tokenizer's that may name it, and their keys, in the order of their weight."""
SIDECARS = tuple(name for name, _ in NAMED_BY[:3])
"""Those of them that are kept with a tokenizer."""


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
    said = named_beside(path, ids, set(ids.values()).__contains__)
    if said is not None:
        return said
    known = next((special[name] for name in KNOWN if name in special), None)
    if known is None and special:
        raise UserError(
            f"data.tokenizer_path={path!r} does not say which token ends a document; name it with "
            f"data.end_of_document, one of {_some(special)}, or data.end_of_document={NEW} for one "
            "more id"
        )
    return known


def named_beside(path: str, ids: Mapping[str, int], fits: Callable[[int], bool]) -> int | None:
    """The first id that the files beside a tokenizer's give and that fits.

    Raises:
      UserError: for such a file that cannot be read.
    """
    for found in _settings(Path(path).parent) if path else ():
        number = ids.get(found) if isinstance(found, str) else found
        if number is not None and fits(number):
            return number
    return None


def numbers_beside(path: str) -> dict[str, int]:
    """Ids of tokens by name, as files beside a tokenizer's have them.

    These are `added_tokens.json`, and in later folders `added_tokens_decoder` of
    tokenizer_config.json.
    """
    if not path:
        return {}
    folder = Path(path).parent
    listed = _read(folder / SIDECAR).get("added_tokens_decoder")
    rows = listed.items() if isinstance(listed, Mapping) else ()
    named: list[tuple[Any, Any]] = [*_read(folder / "added_tokens.json").items()]
    named += [(one.get("content"), number) for number, one in rows if isinstance(one, Mapping)]
    return {name: int(number) for name, number in named if isinstance(name, str) and _whole(number)}


def adds_first(path: str) -> bool:
    """Whether the settings beside a tokenizer's file put its first token before each text."""
    return bool(path) and _read(Path(path).parent / SIDECAR).get("add_bos_token") is True


def keep(folder: Path, name: str | int, asked: str = "") -> None:
    """Write name or id beside a tokenizer that is kept in `folder`, where `find` looks for it.

    Args:
      asked: `data.end_of_document`, which an id is kept under too.
    """
    said: dict[str, Any] = {"eos_token": name}
    if asked and isinstance(name, int):
        said["added_tokens_decoder"] = {str(name): {"content": asked}}
    (folder / SIDECAR).write_text(json.dumps(said))


def _asked(name: str, ids: Mapping[str, int], special: Mapping[str, int]) -> int:
    if name not in ids and _whole(name) and int(name) in ids.values():
        return int(name)
    if name not in ids:
        raise UserError(
            f"data.end_of_document={name!r} is no token of data.tokenizer_path; "
            f"{nearest(name, special or ids)}"
        )
    return ids[name]


def _whole(text: Any) -> bool:
    return str(text).isascii() and str(text).isdecimal()


def _some(special: Mapping[str, int]) -> str:
    names = sorted(special, key=special.__getitem__)
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")


def _settings(folder: Path) -> list[str | int]:
    """What the files of a model's folder call it: names and ids, in the order of their weight."""
    found: list[Any] = [_read(folder / name).get(key) for name, key in NAMED_BY]
    found = [value.get("content") if isinstance(value, Mapping) else value for value in found]
    found = [value[0] if isinstance(value, list) and value else value for value in found]
    return [value for value in found if type(value) in (str, int)]


def _read(path: Path) -> dict[str, Any]:
    try:
        check_plain(path)
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{str(path)!r}, which says how documents end, cannot be read ({error}); mend it, or "
            "name the token with data.end_of_document"
        ) from error
    return found if isinstance(found, dict) else {}
