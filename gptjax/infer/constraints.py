"""Constrained decoding: answers that match a regular expression or a JSON schema.

The grammar is an automaton over the bytes of tokens, kept by llguidance (the extra
gptjax[constrained]): it has regular expressions without look-around, JSON schema and the masks over
a vocabulary, compiled lazily and at some 30 µs a token, all of which an automaton of our own would
have to earn again. Tokens that no text of the grammar goes on with get probability zero, so that a
step draws from the model's distribution given that the text can still be completed. Where the text
can only end, the end of document is all that is left.
"""

import dataclasses
import importlib.util
import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from gptjax.errors import UserError
from gptjax.infer.model import Model
from gptjax.infer.samplers import Rows
from gptjax.infer.settings import Sampling

UNFORCED = '%llguidance {"no_forcing": true}'
"""Without it, text that is certain would have one spelling in tokens, and others no probability."""
WRITTEN = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON as json.dumps writes it: a model of a few million weights would fill its answer with
spaces."""


def check(model: Model, sampling: Sampling) -> None:
    """Refuse a grammar that cannot be read or that no answer of the model matches.

    Raises:
      UserError: for that, for a model without a tokenizer, and without the library.
    """
    constraint_of(model, sampling)


def constraint_of(model: Model, sampling: Sampling) -> "Constraint | None":
    """What the settings ask for; None: nothing.

    Raises:
      UserError: as `check`.
    """
    return Constraint(model, sampling) if sampling.regex or sampling.json_schema else None


class Constraint:
    """What an answer may still become."""

    def __init__(self, model: Model, sampling: Sampling) -> None:
        """Before the first token.

        Raises:
          UserError: as `check`.
        """
        name = _asked(model, sampling)
        vocabulary = _vocabulary(model)
        self._vocab_size, self._ends = model.config.vocab_size, list(model.end_ids)
        import llguidance

        self._matcher = llguidance.LLMatcher(vocabulary, _grammar(name, sampling), log_level=0)
        if self._matcher.is_error():
            raise UserError(
                f"sampling.{name} is not offered: {_reason(self._matcher.get_error())}; give "
                "another"
            )
        stuck = self._matcher.is_stopped() and not self._matcher.is_accepting()
        if stuck or not self._mask().any():
            raise UserError(
                f"sampling.{name} matches no text of {model.name}'s tokens; give another"
            )

    def allowed(self) -> np.ndarray:
        """bool [V]: the tokens that may come next."""
        found_V = np.zeros(self._vocab_size, bool) if self._matcher.is_stopped() else self._mask()
        if not found_V.any():
            found_V[self._ends] = True
        return found_V

    def consume(self, tokens: Sequence[int]) -> None:
        """Go on by the tokens of the answer; none after its end."""
        for token in tokens:
            if token in self._ends or self._matcher.is_stopped():
                return
            self._matcher.consume_token(int(token))

    def _mask(self) -> np.ndarray:
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        found_V = np.unpackbits(bits, bitorder="little")[: self._vocab_size].astype(bool)
        found_V[self._ends] &= self._matcher.is_accepting()
        return found_V


@dataclasses.dataclass
class Constraints:
    """Those of a batch's rows, and what may come next in each.

    Attributes:
      rows: None where a row is free.
      allowed_BV: the tokens that may come next.
      seen: tokens of each answer that were consumed.
    """

    rows: list[Constraint | None]
    allowed_BV: np.ndarray
    seen: list[int]

    @classmethod
    def free(cls, rows: int, vocabulary: int) -> "Constraints":
        """Rows without any."""
        return cls([None] * rows, np.ones((rows, vocabulary), bool), [0] * rows)

    @classmethod
    def of(cls, model: Model, requests: Sequence[Sampling]) -> "Constraints":
        """Those that the requests ask for.

        Raises:
          UserError: as `check`.
        """
        found = cls.free(len(requests), model.config.vocab_size)
        for row, one in enumerate(requests):
            found.put(row, constraint_of(model, one))
        return found

    def put(self, row: int, one: Constraint | None) -> None:
        """Give a row to another answer."""
        self.rows[row], self.seen[row] = one, 0
        self.allowed_BV[row] = True if one is None else one.allowed()

    def __bool__(self) -> bool:
        return any(one is not None for one in self.rows)

    def into(self, rows: Rows) -> Rows:
        """The settings of the rows with what may come next, where any row asks for it."""
        return {**rows, "allowed": jnp.asarray(self.allowed_BV)} if self else rows

    def consume(self, row: int, tokens: Sequence[int]) -> None:
        """Go on to all of the tokens that a row's answer has now."""
        one = self.rows[row]
        if one is not None and len(tokens) > self.seen[row]:
            one.consume(tokens[self.seen[row] :])
            self.seen[row] = len(tokens)
            self.allowed_BV[row] = one.allowed()


def _asked(model: Model, sampling: Sampling) -> str:
    """The setting that asks for a constraint."""
    if sampling.regex and sampling.json_schema:
        raise UserError("sampling.regex and sampling.json_schema are both given; leave one out")
    name = "regex" if sampling.regex else "json_schema"
    if model.tokenizer is None:
        raise UserError(
            f"sampling.{name} needs a tokenizer, which {model.name} has not; leave it out"
        )
    if importlib.util.find_spec("llguidance") is None:
        raise UserError(
            f"sampling.{name} needs llguidance; pip install 'gptjax[constrained]', or leave it out"
        )
    return name


def _grammar(name: str, sampling: Sampling) -> str:
    from llguidance import LLMatcher

    if name == "regex":
        grammar = json.loads(LLMatcher.grammar_from_regex(sampling.regex))
        for one in grammar["grammars"]:
            one["lark_grammar"] = f"{UNFORCED}\n{one['lark_grammar']}"
        return json.dumps(grammar)
    try:
        schema = json.loads(sampling.json_schema)
    except (ValueError, RecursionError) as error:
        raise UserError(f"sampling.json_schema is not JSON ({error}); correct it") from error
    if not isinstance(schema, dict):
        raise UserError('sampling.json_schema must be an object, such as {"type": "object"}')
    unknown = next(_unknown(schema), None)
    if unknown:
        raise UserError(
            f"sampling.json_schema has the keyword {unknown!r}, which is not known; take it out"
        )
    options = {**schema, "x-guidance": WRITTEN}
    return LLMatcher.grammar_from_lark(f"{UNFORCED}\nstart: %json {json.dumps(options)}")


KEYWORDS = frozenset(
    (
        *("$schema", "$id", "$defs", "definitions", "$ref", "$anchor", "$comment", "title"),
        *("description", "default", "examples", "deprecated", "readOnly", "writeOnly", "type"),
        *("enum", "const", "anyOf", "oneOf", "allOf", "not", "if", "then", "else", "properties"),
        *("required", "additionalProperties", "patternProperties", "propertyNames"),
        *("minProperties", "maxProperties", "items", "prefixItems", "additionalItems"),
        *("unevaluatedItems", "unevaluatedProperties", "contains", "minContains", "maxContains"),
        *("minItems", "maxItems", "uniqueItems", "minLength", "maxLength", "pattern", "format"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("dependentRequired", "dependentSchemas", "dependencies", "contentEncoding"),
        *("contentMediaType", "contentSchema", "nullable"),
    )
)
"""JSON Schema's own, of drafts 4 to 2020-12; llguidance refuses those that it does not have, and
passes over names that are nobody's."""
NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
LITERAL = ("enum", "const", "default", "examples", "required", "dependentRequired")


def _unknown(schema: Any) -> Iterator[str]:
    """Names in the places of keywords that are none."""
    if isinstance(schema, list):
        for one in schema:
            yield from _unknown(one)
    if not isinstance(schema, dict):
        return
    for name, value in schema.items():
        if name not in KEYWORDS:
            yield name
        elif name in NAMED:
            yield from _unknown([*value.values()] if isinstance(value, dict) else [])
        elif name not in LITERAL:
            yield from _unknown(value)


def _reason(words: str) -> str:
    """The first sentence of an error that draws the expression below it."""
    lines = [line.strip() for line in words.splitlines()]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return told[0] if told else lines[0].rpartition("JSON schema: ")[2].rpartition("): ")[2]


def _vocabulary(model: Model) -> Any:
    """llguidance's view of the tokens, made once for each tokenizer and vocabulary."""
    import llguidance

    key = id(model.tokenizer), model.config.vocab_size
    with _LOCK:
        if key not in _MADE:
            tokens = llguidance.TokenizerWrapper(_Tokens(model))
            made = llguidance.LLTokenizer(tokens, n_vocab=key[1], eos_token=model.end_ids[0])
            _MADE[key] = model.tokenizer, made  # the tokenizer keeps its id
        return _MADE[key][1]


_MADE: dict[tuple[int, int], tuple[Any, Any]] = {}
_LOCK = threading.Lock()


class _Tokens:
    """The bytes of each token; those that are special or no whole text are never allowed."""

    bos_token_id = None

    def __init__(self, model: Model) -> None:
        assert model.tokenizer is not None
        self.eos_token_id = model.end_ids[0]
        added = set(getattr(model.tokenizer, "added", {}).values()) | {*model.end_ids}
        found = [
            b"" if token in added else token_bytes(model, token)
            for token in range(model.config.vocab_size)
        ]
        self.special_token_ids = [token for token, data in enumerate(found) if not data]
        self.tokens = [data or f"<{token}>".encode() for token, data in enumerate(found)]

    def __call__(self, text: bytes) -> list[int]:
        """The tokens of a text, which llguidance asks for where it forces some: nowhere here."""
        return []


def token_bytes(model: Model, token: int) -> bytes:
    """The bytes of a token inside of a text; none where they are not known.

    A tokenizer that writes U+FFFD for the half of a character does not say which half it is.
    """
    try:
        both, one = model.decode([token, token]), model.decode([token])
    except (IndexError, KeyError, OverflowError):  # beyond the tokenizer's own
        return b""
    data = both[len(one) :] if both.startswith(one) else one
    return b"" if "\ufffd".encode() in data else data
