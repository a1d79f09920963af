"""The library `tokenizers`' own format: any `tokenizer.json`, whoever made it."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gptjax.data.tokenizers import end_of_document
from gptjax.data.tokenizers.base import batches, other_kind
from gptjax.errors import UserError

END = "<|endoftext|>"
BATCH_BYTES = 1 << 20  # of text at once: encodings take far more room than ids


class JsonTokenizer:
    """A tokenizer.json, with an end-of-document id that no text encodes to.

    Attributes:
      special: ids of its special tokens by name, which no text encodes to.
      added: ids of all tokens that its file adds to its vocabulary, special or not.
      begins: ids that its file puts before each text, as `transformers` does; documents that our
        models train on are encoded without.
      unknown: the id of all that it does not know; None: it has none.
      end_name: the file's name for the end of a document, or its id where it has no names; "" where
        it has none.
    """

    def __init__(
        self, tokenizer: Any, path: str = "", end: str = "", end_id: int | None = None
    ) -> None:
        """Find the end of a document: `end` is `data.end_of_document`, `path` the file's.

        `end_id` is it for a file without names.
        """
        # Otherwise the text "<|endoftext|>" would become the special token.
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        unknown = getattr(tokenizer.model, "unk_token", None)
        self.unknown = tokenizer.token_to_id(unknown) if unknown else None
        found = tokenizer.get_added_tokens_decoder()
        self.added = {token.content: number for number, token in found.items()}
        special = {token.content: number for number, token in found.items() if token.special}
        ids = tokenizer.get_vocab(with_added_tokens=True)
        size = max(ids.values(), default=-1) + 1
        self.special = special
        self.begins = _begins(tokenizer)
        self.end_name: str | int
        if end_id is None:
            found_end = end_of_document.find(path, end, ids, special)
            self.end_of_document = size if found_end is None else found_end
            self.end_name = next((name for name, i in ids.items() if i == found_end), "")
        else:
            self.end_of_document = self.end_name = end_id
        self.vocab_size = max(size, self.end_of_document + 1)

    def encode(self, documents: Sequence[bytes]) -> Iterator[np.ndarray]:
        """The ids of each document (UTF-8), as uint32 arrays."""
        for batch in batches(documents, BATCH_BYTES):
            texts = [document.decode() for document in batch]
            for found in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False):
                yield self._checked(np.array(found.ids, dtype=np.uint32))

    def _checked(self, ids: np.ndarray) -> np.ndarray:
        if (ids == self.end_of_document).any():
            raise UserError(
                f"the text {self.end_name!r} in a document becomes the end of a document, because "
                'the tokenizer\'s file does not call it special; write "special": true there, or '
                "set data.end_of_document=new"
            )
        return ids

    def encode_text(self, text: str) -> list[int]:
        """The ids of plain text; never those of `special`, whatever it says."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The text of the ids as UTF-8; bytes that are none become U+FFFD."""
        kept = [int(number) for number in np.asarray(ids).reshape(-1)]
        kept = [number for number in kept if number != self.end_of_document]
        return self._tokenizer.decode(kept, skip_special_tokens=False).encode()


def _begins(tokenizer: Any) -> tuple[int, ...]:
    """The ids that the file's post-processor puts before a text."""
    plain, whole = (tokenizer.encode("a", add_special_tokens=on) for on in (False, True))
    marks = whole.special_tokens_mask
    count = marks.index(0) if 0 in marks else 0
    return tuple(whole.ids[:count]) if len(whole.ids) > len(plain.ids) else ()


def read_json(content: bytes, path: str, end: str = "") -> JsonTokenizer:
    """The tokenizer in the content of a tokenizer.json.

    Args:
      path: of the file, beside which settings may name the end of a document.
      end: `data.end_of_document`.

    Raises:
      UserError: where the content is no tokenizer, or does not say what ends a document.
    """
    from tokenizers import Tokenizer

    try:
        json.loads(content)
        tokenizer = Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises bare Exception
        raise UserError(
            f"data.tokenizer_path={path!r} is not a tokenizer.json that `tokenizers` can read "
            f"({_first_line(error)}){other_kind(content)}; name another file, or leave it empty to "
            "train one"
        ) from error
    return JsonTokenizer(tokenizer, path, end)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
