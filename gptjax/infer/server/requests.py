"""Requests of OpenAI's completions and chat completions, checked, as prompts and settings."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gptjax.errors import UserError, nearest
from gptjax.infer.generate import encoded
from gptjax.infer.model import Model
from gptjax.infer.prompts import conversation, turn_ends
from gptjax.infer.settings import Sampling, sampling

IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
"""Fields that say nothing to a model."""
OURS = ("top_k", "min_p", "typical_p", "repetition_penalty", "count_power", "penalize")
"""Settings of `Sampling` beyond OpenAI's, under their own names."""
STOPS, CHOICES = 16, 128
WITHIN = {"regex": "response_format", "json_schema": "response_format"}
"""Fields of settings that have another name in a request."""
ROLES = {"developer": "system"}


class BadRequest(UserError):
    """A request that is wrong.

    Attributes:
      param: the field, or None.
      status: of the reply.
      code: OpenAI's word for it, or None.
    """

    def __init__(
        self, words: str, param: str | None = None, *, status: int = 400, code: str | None = None
    ) -> None:
        super().__init__(words)
        self.param, self.status, self.code = param, status, code


@dataclasses.dataclass(frozen=True)
class Asked:
    """A checked request.

    Attributes:
      prompts: token ids.
      settings: of every answer; `max_tokens` 0 where none is wanted.
      n: answers to each prompt.
      stream, usage: whether to stream, and to end the stream with a chunk of usage.
      echo: whether the text of the prompt comes before that of the answer.
      logprobs: None, or how many alternatives to report.
    """

    prompts: tuple[tuple[int, ...], ...]
    settings: Sampling
    n: int = 1
    stream: bool = False
    usage: bool = False
    echo: bool = False
    logprobs: int | None = None


def read_json(body: bytes) -> dict[str, Any]:
    """The object in a body.

    Raises:
      BadRequest: where it is none.
    """
    try:
        found = json.loads(body)
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = str(error).partition(":")[0]
        raise BadRequest(f"the body is not JSON in UTF-8 ({reason}); correct it") from error
    if not isinstance(found, dict):
        raise BadRequest("the body is no JSON object; send {...} with the request's fields")
    return found


def completion(body: Mapping[str, Any], model: Model, room: int) -> Asked:
    """A request to /v1/completions.

    Args:
      room: tokens of the longest prompt and answer.

    Raises:
      BadRequest: for a field that is wrong.
    """
    _known(body, (*COMMON, "prompt", "max_tokens", "echo", "logprobs", "best_of", "suffix"))
    n = _whole(body, "n", 1, 1, CHOICES)
    if body.get("suffix"):
        raise BadRequest("suffix is not offered; leave it out", "suffix")
    if _whole(body, "best_of", n, 1, CHOICES) != n:
        raise BadRequest("best_of other than n is not offered; leave it out", "best_of")
    prompts = tuple(_prompts(body, model))
    logprobs = body.get("logprobs")
    if logprobs is not None:
        logprobs = _whole(body, "logprobs", 0, 0, 20)
    most = _whole(body, "max_tokens", 0, 0) if body.get("max_tokens") is not None else None
    if most is None:
        most = max(1, min(16, room - max(map(len, prompts))))
    return Asked(
        prompts,
        _settings(body, most, logprobs or 0),
        n=n,
        echo=_truth(body, "echo"),
        logprobs=logprobs,
        **_streaming(body),
    )


def chat(body: Mapping[str, Any], model: Model, room: int) -> Asked:
    """A request to /v1/chat/completions.

    Raises:
      BadRequest: for a field that is wrong.
    """
    limits = ("max_tokens", "max_completion_tokens")
    _known(body, (*COMMON, *limits, "messages", "logprobs", "top_logprobs", "tools", "functions"))
    if body.get("tools") or body.get("functions"):
        raise BadRequest("tools are not offered; leave them out", "tools")
    messages = [_message(one) for one in _list(body, "messages")]
    ids = tuple(_told("messages", lambda: conversation(model, messages)))
    name = limits[1] if body.get(limits[1]) is not None else limits[0]
    most = _whole(body, name, 1, 1) if body.get(name) is not None else max(1, room - len(ids))
    logprobs = _whole(body, "top_logprobs", 0, 0, 20) if _truth(body, "logprobs") else None
    if body.get("top_logprobs") and logprobs is None:
        raise BadRequest("top_logprobs needs logprobs=true; set it, or leave both", "top_logprobs")
    return Asked(
        (ids,),
        dataclasses.replace(_settings(body, most, logprobs or 0), stop_ids=turn_ends(model)),
        n=_whole(body, "n", 1, 1, CHOICES),
        logprobs=logprobs,
        **_streaming(body),
    )


COMMON = (
    *("model", "n", "stop", "seed", "stream", "stream_options", "logit_bias", "temperature"),
    *("response_format", "top_p", "presence_penalty", "frequency_penalty", *OURS, *IGNORED),
)


def _settings(body: Mapping[str, Any], most: int, logprobs: int) -> Sampling:
    given: dict[str, Any] = {
        name: body[name]
        for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty", *OURS)
        if body.get(name) is not None
    }
    for name in ("presence_penalty", "frequency_penalty"):
        _number(body, name, -2.0, 2.0)
    _number(body, "temperature", 0.0, 2.0)
    if body.get("seed") is not None:
        given["seed"] = _whole(body, "seed", 0, -(2**63), 2**63 - 1) % 2**63
    given |= _response_format(body.get("response_format"))
    stops = body.get("stop")
    if stops is not None:
        given["stop"] = tuple(stops) if isinstance(stops, list) else (stops,)
        if not all(isinstance(stop, str) and stop for stop in given["stop"]):
            raise BadRequest("stop must be texts of one character or more; correct it", "stop")
        if len(given["stop"]) > STOPS:
            raise BadRequest(f"stop has {len(given['stop'])} texts; give {STOPS} at most", "stop")
    asked = _told(
        None,
        lambda: sampling(
            **given, max_tokens=max(1, most), logprobs=logprobs, logit_bias=_bias(body)
        ),
    )
    return dataclasses.replace(asked, max_tokens=most)


def _json_schema(given: Mapping[str, Any]) -> dict[str, str]:
    inside = given.get("json_schema")
    schema = inside.get("schema") if isinstance(inside, dict) else None
    if not isinstance(schema, dict):
        raise BadRequest(
            'response_format must be {"type": "json_schema", "json_schema": {"schema": {…}}}',
            "response_format",
        )
    return {"json_schema": json.dumps(schema)}


def _regex(given: Mapping[str, Any]) -> dict[str, str]:
    if not isinstance(given.get("regex"), str) or not given["regex"]:
        raise BadRequest(
            'response_format must be {"type": "regex", "regex": "…"}', "response_format"
        )
    return {"regex": given["regex"]}


RESPONSE_FORMATS: dict[str, Callable[[Mapping[str, Any]], dict[str, str]]] = {
    "text": lambda given: {},
    "json_object": lambda given: {"json_schema": '{"type": "object"}'},
    "json_schema": _json_schema,
    "regex": _regex,
}
"""Types of response_format; the last is ours."""


def _response_format(given: Any) -> dict[str, str]:
    if given is None:
        return {}
    kind = given.get("type") if isinstance(given, dict) else given
    if not isinstance(kind, str) or kind not in RESPONSE_FORMATS or not isinstance(given, dict):
        raise BadRequest(
            f"response_format has no type that is offered; {nearest(kind, RESPONSE_FORMATS)}",
            "response_format",
        )
    return RESPONSE_FORMATS[kind](given)


def _bias(body: Mapping[str, Any]) -> dict[int, float]:
    bias = body.get("logit_bias") or {}
    wrong = BadRequest(
        "logit_bias must be an object of token ids with numbers from -100 to 100; correct it",
        "logit_bias",
    )
    if not isinstance(bias, dict) or len(bias) > 1024:
        raise wrong
    tokens = all(token.isascii() and token.isdecimal() and len(token) < 20 for token in bias)
    if not tokens or not all(_is_number(x) and -100 <= x <= 100 for x in bias.values()):
        raise wrong
    return {int(token): float(value) for token, value in bias.items()}


def _streaming(body: Mapping[str, Any]) -> dict[str, bool]:
    options = {} if body.get("stream_options") is None else body["stream_options"]
    stream = _truth(body, "stream")
    if not isinstance(options, dict) or (options and not stream):
        raise BadRequest(
            "stream_options must be an object beside stream=true; leave it out", "stream_options"
        )
    _known(options, ("include_usage", "include_obfuscation"))
    return {"stream": stream, "usage": _truth(options, "include_usage")}


def _prompts(body: Mapping[str, Any], model: Model) -> Sequence[tuple[int, ...]]:
    """A text, texts, token ids or lists of them."""
    given = body.get("prompt")
    many = given if isinstance(given, list) and given else [given]
    if all(_is_id(one) for one in many):
        many = [many]
    if len(many) > CHOICES:
        raise BadRequest(f"prompt has {len(many)} prompts; give {CHOICES} at most", "prompt")
    return [_prompt(one, model) for one in many]


def _prompt(one: Any, model: Model) -> tuple[int, ...]:
    if isinstance(one, str) and not one and model.end_ids:
        return model.begins or model.end_ids[:1]  # the start of a document
    if isinstance(one, str):
        return tuple(_told("prompt", lambda: encoded(model, one)))
    if isinstance(one, list) and one and all(map(_is_id, one)):
        return tuple(one)
    raise BadRequest(
        "prompt must be a text, a list of texts, token ids or a list of lists of them; correct it",
        "prompt",
    )


def _is_id(one: Any) -> bool:
    return isinstance(one, int) and not isinstance(one, bool)


def _is_number(one: Any) -> bool:
    return isinstance(one, int | float) and not isinstance(one, bool)


def _message(one: Any) -> dict[str, str]:
    if not isinstance(one, dict) or not isinstance(one.get("role"), str):
        raise BadRequest('messages must be objects {"role": …, "content": …}', "messages")
    others = [name for name, value in one.items() if value and name not in ("role", "content")]
    if others:
        raise BadRequest(f"messages with {others[0]!r} are not offered; leave it out", "messages")
    content = one.get("content")
    if isinstance(content, list):
        words = [part.get("text") for part in content if _is_text(part)]
        content = "".join(words) if len(words) == len(content) else None
    if not isinstance(content, str):
        raise BadRequest("the content of a message must be text; correct it", "messages")
    role: str = one["role"]
    return {"role": ROLES.get(role, role), "content": content}


def _is_text(part: Any) -> bool:
    """Whether a part of a message is text and nothing else."""
    kind = part.get("type", "text") if isinstance(part, dict) else None
    return kind == "text" and isinstance(part.get("text"), str)


def _known(body: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in body:
        if name not in names:
            raise BadRequest(f"{name!r} is not a field here; {nearest(name, names)}", name)


def _list(body: Mapping[str, Any], name: str) -> list[Any]:
    if not isinstance(body.get(name), list) or not body[name]:
        raise BadRequest(f"{name} must be a list with one entry or more; correct it", name)
    return body[name]  # type: ignore[no-any-return]


def _truth(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if not isinstance(value, bool | None):
        raise BadRequest(f"{name} must be true or false; correct it", name)
    return bool(value)


def _whole(body: Mapping[str, Any], name: str, default: int, least: int, most: int = 2**31) -> int:
    value = default if body.get(name) is None else body[name]
    if not _is_id(value) or not least <= value <= most:
        raise BadRequest(f"{name} must be a whole number from {least} to {most}", name)
    return int(value)


def _number(body: Mapping[str, Any], name: str, least: float, most: float) -> None:
    value = body.get(name)
    if value is not None and not (_is_number(value) and least <= value <= most):
        raise BadRequest(f"{name} must be a number from {least:g} to {most:g}; correct it", name)


def refused(error: UserError, param: str | None, code: str | None = None) -> BadRequest:
    """The reply to a refusal of the field whose setting it names first, or else of `param`."""
    named = re.search(r"sampling\.(\w+)", str(error))
    if named:
        param = WITHIN.get(named[1], named[1])
    return BadRequest(str(error).replace("sampling.", ""), param, code=code)


def _told(param: str | None, call: Callable[[], Any]) -> Any:
    """What the call gives; what it refuses is the field's fault."""
    try:
        return call()
    except BadRequest:
        raise
    except UserError as error:
        raise refused(error, param) from error
