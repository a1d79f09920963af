"""Replies as OpenAI's clients read them: completions, chat completions and their chunks."""

import dataclasses
import time
import uuid
from collections.abc import Sequence
from typing import Any

from gptjax.infer.generate import Answer
from gptjax.infer.model import Model
from gptjax.infer.server.requests import Asked
from gptjax.infer.text import places_of


@dataclasses.dataclass(frozen=True)
class Form:
    """What all chunks of one reply have in common.

    Attributes:
      model: that answers.
      asked: the request.
      id, created: of the reply.
    """

    model: Model
    asked: Asked
    id: str
    created: int

    @classmethod
    def new(cls, model: Model, asked: Asked) -> "Form":
        """A form with an id of its own."""
        return cls(model, asked, f"{cls.prefix}-{uuid.uuid4().hex}", int(time.time()))

    prefix = ""
    object = ""
    chunk = ""

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The reply with all choices."""
        choices = [self.choice(index, answer) for index, answer in enumerate(answers)]
        return {**self._head(self.object), "choices": choices, "usage": self.usage(answers)}

    def usage(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """Tokens of prompts, each counted once, and of answers."""
        prompt = sum(map(len, self.asked.prompts))
        made = sum(len(self._tokens(answer)) for answer in answers)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": made,
            "total_tokens": prompt + made,
        }

    def piece(self, *choices: dict[str, Any], usage: Any = None) -> dict[str, Any]:
        """A chunk of a stream; `usage` comes in the last one, where it was asked for."""
        ends = {"usage": usage} if self.asked.usage else {}
        return {**self._head(self.chunk), "choices": list(choices), **ends}

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        """One answer."""
        raise NotImplementedError

    def begin(self, index: int, answer: Answer) -> list[dict[str, Any]]:
        """The chunks before the answer's first text."""
        raise NotImplementedError

    def grow(self, index: int, before: Answer | None, answer: Answer) -> dict[str, Any] | None:
        """The chunk of what is new in an answer; None: nothing is."""
        raise NotImplementedError

    def end(self, index: int, answer: Answer) -> dict[str, Any]:
        """The last chunk of an answer."""
        raise NotImplementedError

    def _tokens(self, answer: Answer) -> tuple[int, ...]:
        return answer.tokens[: self.asked.settings.max_tokens]

    def _text(self, answer: Answer | None) -> str:
        return answer.text if answer and self.asked.settings.max_tokens else ""

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model.name,
        }


class Completion(Form):
    """Replies of /v1/completions."""

    prefix, object, chunk = "cmpl", "text_completion", "text_completion"

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        """One answer, with its prompt where the request echoes."""
        start = self._echo(answer)
        return self._choice(
            index, start + self._text(answer), answer.finish, self._logprobs(answer, 0)
        )

    def begin(self, index: int, answer: Answer) -> list[dict[str, Any]]:
        """The prompt, where the request echoes."""
        if not self.asked.echo:
            return []
        none = dataclasses.replace(answer, tokens=(), logprobs=(), top=(), text="")
        return [self._choice(index, self._echo(answer), None, self._logprobs(none, 0))]

    def grow(self, index: int, before: Answer | None, answer: Answer) -> dict[str, Any] | None:
        """New text and its log-probabilities."""
        text = self._text(answer)[len(self._text(before)) :]
        known = len(before.tokens) if before else 0
        if not text and len(answer.tokens) == known:
            return None
        new = self._logprobs(answer, known, echo=False)
        return self._choice(index, text, None, new)

    def end(self, index: int, answer: Answer) -> dict[str, Any]:
        """No text, and why the answer ended."""
        return self._choice(index, "", answer.finish, None)

    def _choice(self, index: int, text: str, finish: str | None, logprobs: Any) -> dict[str, Any]:
        return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish}

    def _echo(self, answer: Answer) -> str:
        return text_of(self.model.decode(answer.prompt)) if self.asked.echo else ""

    def _logprobs(self, answer: Answer, known: int, *, echo: bool = True) -> Any:
        """The lists of the legacy format; with echo the prompt's tokens come first.

        Offsets are places in the text of the choice.
        """
        if self.asked.logprobs is None:
            return None
        echo = echo and self.asked.echo
        tokens = self._tokens(answer)
        ids = [*answer.prompt, *tokens]
        scores: list[float | None] = [None, *answer.prompt_logprobs] if echo else []
        top: list[Any] = [None, *answer.prompt_top] if echo else []
        scores += answer.logprobs[known : len(tokens)]
        top += answer.top[known : len(tokens)] or [()] * len(tokens[known:])
        first = 0 if echo else len(answer.prompt) + known
        begin = 0 if self.asked.echo else len(answer.prompt)
        places = [(ids[max(0, i - 1) : i], ids[i]) for i in range(first, len(ids))]
        words = [token_text(self.model, *place) for place in places]
        data = [token_bytes(self.model, *place) for place in places]
        likeliest = [self._named(ids[max(0, i - 1) : i], x) for i, x in enumerate(top, first)]
        return {
            "tokens": words,
            "token_logprobs": scores,
            "top_logprobs": likeliest if self.asked.logprobs else None,
            "text_offset": places_of(data, self.model.decode(ids[begin:first])),
        }

    def _named(self, before: Sequence[int], some: Any) -> dict[str, float] | None:
        if some is None:
            return None
        return {token_text(self.model, before, token): value for token, value in some}


class Chat(Form):
    """Replies of /v1/chat/completions."""

    prefix, object, chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        """One message."""
        return {
            "index": index,
            "message": {"role": "assistant", "content": self._text(answer), "refusal": None},
            "logprobs": self._logprobs(answer, 0),
            "finish_reason": answer.finish,
        }

    def begin(self, index: int, answer: Answer) -> list[dict[str, Any]]:
        """The role, once."""
        return [self._delta(index, {"role": "assistant", "content": ""})]

    def grow(self, index: int, before: Answer | None, answer: Answer) -> dict[str, Any] | None:
        """New text."""
        text = self._text(answer)[len(self._text(before)) :]
        known = len(before.tokens) if before else 0
        new = self._logprobs(answer, known)
        if not text and not (new and new["content"]):
            return None
        return self._delta(index, {"content": text}, new)

    def end(self, index: int, answer: Answer) -> dict[str, Any]:
        """An empty delta, and why the answer ended."""
        return {**self._delta(index, {}), "finish_reason": answer.finish}

    def _delta(self, index: int, delta: dict[str, str], logprobs: Any = None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}

    def _logprobs(self, answer: Answer, known: int) -> Any:
        if self.asked.logprobs is None:
            return None
        content = []
        for place in range(known, len(answer.tokens)):
            before = [*answer.prompt[-1:], *answer.tokens[:place]][-1:]
            one = self._token(before, answer.tokens[place], answer.logprobs[place])
            top = answer.top[place] if answer.top else ()
            one["top_logprobs"] = [self._token(before, *other) for other in top]
            content.append(one)
        return {"content": content, "refusal": None}

    def _token(self, before: Sequence[int], token: int, logprob: float) -> dict[str, Any]:
        data = token_bytes(self.model, before, token)
        word = token_text(self.model, before, token)
        return {"token": word, "logprob": logprob, "bytes": list(data or word.encode())}


def token_bytes(model: Model, before: Sequence[int], token: int) -> bytes:
    """The bytes that a token adds after the one before it; none for a special one."""
    context = list(before[-1:])
    start = model.decode(context)
    both = model.decode([*context, token])
    return both[len(start) :] if both.startswith(start) else model.decode([token])


def token_text(model: Model, before: Sequence[int], token: int) -> str:
    """A token as text: `bytes:\\x..` where it is no whole character, `<token n>` without bytes."""
    data = token_bytes(model, before, token)
    if not data:
        return f"<token {token}>"
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def text_of(data: bytes) -> str:
    """Bytes as text, with a mark in place of what is none."""
    return data.decode(errors="replace")


def error_body(
    words: str, kind: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """OpenAI's body of an error."""
    return {"error": {"message": words, "type": kind, "param": param, "code": code}}
