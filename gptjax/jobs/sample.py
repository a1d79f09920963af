"""job=sample: text from a model folder, streamed, with its speed."""

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gptjax.config import Config
from gptjax.data.chat import FORMATS
from gptjax.engines.devices import start_backend
from gptjax.errors import UserError, nearest
from gptjax.fields import section, setting
from gptjax.files import user_path
from gptjax.infer.adapters import named
from gptjax.infer.members import MembersConfig, streaming, with_members
from gptjax.infer.prompts import Asked, check_paths, check_request, read_prompts, write_rows
from gptjax.infer.searches import SearchConfig
from gptjax.infer.settings import PRESETS, Sampling, SamplingConfig, with_preset
from gptjax.job import Job


@dataclasses.dataclass(frozen=True)
class Settings:
    """The model, the prompts and the answers of job=sample."""

    model: str = setting(
        "",
        "folder of a model: ours, a run's, Hugging Face's, or a sweep's for its best cell; empty: "
        "a small model of the config's own sections is trained first",
    )
    prompt: str = setting("", "the text to go on from; empty: the start of a document")
    prompts: str = setting(
        "", "file of prompts: a text in each line, or .jsonl with prompt, messages or tokens"
    )
    chat: str = setting("", "format of messages; empty: the model's own", choices=("", *FORMATS))
    answers: int = setting(1, "answers to each prompt", minimum=1, maximum=1_000_000)
    output: str = setting("", ".jsonl file for answers, tokens and log-probabilities")
    batch: int = setting(8, "prompts that are answered together", minimum=1)
    preset: str = setting(
        "", "named settings in place of the defaults below", choices=("", *PRESETS)
    )
    sampling: SamplingConfig = section(SamplingConfig, "how an answer is made")
    search: SearchConfig = section(SearchConfig, "how answers are searched for")
    members: MembersConfig = section(MembersConfig, "further models that answer with the first")
    adapters: tuple[str, ...] = setting(
        (), "LoRA adapters of the model, each as NAME=FOLDER, for one batch of several"
    )
    adapter: str = setting(
        "",
        "name of the adapter that answers; a line of .jsonl may say another as `adapter`; empty: "
        "the model alone",
    )
    recent: int = setting(
        0,
        "text without an end: latest tokens that the cache keeps, besides the sinks; 0: all of the "
        "context",
        minimum=0,
    )
    sinks: int = setting(4, "first tokens that it keeps with them (Xiao et al. 2023)", minimum=1)


def check(config: Config) -> None:
    """Refuse two sources of prompts, an adapter without a folder, and paths that lead nowhere."""
    asked: Settings = config.own["sample"]
    if asked.prompt and asked.prompts:
        raise UserError(
            f"sample.prompt={asked.prompt!r} and sample.prompts={asked.prompts} are both given; "
            "leave one out"
        )
    adapters = named(asked.adapters, "sample.adapters")
    if asked.adapter and asked.adapter not in adapters:
        hint = nearest(asked.adapter, adapters) if adapters else "name its folder there"
        raise UserError(f"sample.adapter={asked.adapter!r} is none of sample.adapters; {hint}")
    check_paths("sample", asked.prompts, asked.output)


def main(config: Config, folder: Path) -> int:
    """Print the answers as they are made, and tokens per second at the end."""
    from gptjax import infer
    from gptjax.stages import find_model

    asked: Settings = config.own["sample"]
    start_backend(config)
    model = infer.for_few_rows(find_model.find(config, asked.model, folder))
    model = _model(model, asked)
    questions = _questions(asked, model)
    request, done = with_preset(asked.sampling, asked.preset), []
    for one in questions[:: asked.answers]:
        check_request(model, one, _request(request, one, asked))
    started, tokens = time.perf_counter(), 0
    for first in range(0, len(questions), asked.batch):
        some = questions[first : first + asked.batch]
        answers = _answer(model, some, request, first, asked)
        done += [_row(one.said, answer, model) for one, answer in zip(some, answers, strict=True)]
        tokens += sum(len(answer.tokens) for answer in answers)
    seconds = time.perf_counter() - started
    write_rows(asked.output, done)
    print(
        f"{tokens:,} tokens in {seconds:.1f} s, {tokens / seconds:.1f} tokens per second with "
        "compiling",
        file=sys.stderr,
    )
    return 0


def _model(model: Any, asked: Settings) -> Any:
    """The model with its members and adapters, and a cache that forgets where it was asked for."""
    from gptjax.infer import with_adapters

    model = with_members(model, asked.members)
    adapters = named(asked.adapters, "sample.adapters")
    model = with_adapters(model, adapters) if adapters else model
    return streaming(model, first=asked.sinks, last=asked.recent) if asked.recent else model


def _questions(asked: Settings, model: Any) -> list[Any]:
    """Prompts in their order, each as often as it is answered."""
    if asked.prompts:
        found = read_prompts(user_path(asked.prompts), model, asked.chat)
    elif asked.prompt:
        found = [Asked(asked.prompt, {"prompt": asked.prompt})]
    elif model.end_ids:
        found = [Asked(model.begins or model.end_ids, {"prompt": ""})]
    else:
        raise UserError(
            f"sample.prompt='' begins a document, and {model.name} has no tokenizer that says "
            "how; give sample.prompts with tokens"
        )
    return [one for one in found for _ in range(asked.answers)]


def _answer(
    model: Any, some: Sequence[Any], request: Sampling, first: int, asked: Settings
) -> list[Any]:
    """The answers of one batch; a single one streams where it is made token by token."""
    import jax

    from gptjax.infer.generate import key_of
    from gptjax.infer.searches import search

    key = jax.random.fold_in(key_of(max(request.seed, 0)), first)
    requests = [_request(request, one, asked) for one in some]
    if len(some) == 1 and asked.search.kind == SearchConfig().kind:
        return _streamed(model, some[0], requests, key)
    answers, said = search(model, [one.prompt for one in some], requests, key, asked.search)
    for one, answer in zip(some, answers, strict=True):
        print(f"--- {_shown(one.said)}\n{_words(model, answer)}", flush=True)
    if said:
        print(said, file=sys.stderr)
    return answers


def _request(request: Sampling, one: Asked, asked: Settings) -> Sampling:
    """The settings of one prompt: those of all, its own ends and its own adapter."""
    return dataclasses.replace(
        request,
        seed=-1,
        stop_ids=(*request.stop_ids, *one.ends),
        adapter=one.said.get("adapter", asked.adapter),
    )


def _streamed(model: Any, one: Any, requests: Sequence[Sampling], key: Any) -> list[Any]:
    """The answer to one prompt, printed as it is made."""
    from gptjax import infer

    shown, answers = 0, []
    print(_shown(one.said), end="", flush=True)
    for answers in infer.stream(model, [one.prompt], requests, key):
        text = _words(model, answers[0])
        print(text[shown:], end="", flush=True)
        shown = len(text)
    print(flush=True)
    return answers


def _words(model: Any, answer: Any) -> str:
    return answer.text if model.tokenizer else " ".join(map(str, answer.tokens))


def _shown(said: dict[str, Any]) -> str:
    """The prompt as it stands before its answer."""
    if "messages" in said:
        return f"{said['messages'][-1]['content']}\n"
    return said.get("prompt") or ""


def _row(said: dict[str, Any], answer: Any, model: Any) -> dict[str, Any]:
    """A line of the output."""
    row = {
        **said,
        "text": answer.text,
        "tokens": list(answer.tokens),
        "logprobs": [round(x, 6) for x in answer.logprobs],
        "finish": answer.finish,
    }
    if any(answer.top):
        row["top"] = [[[i, round(x, 6)] for i, x in place] for place in answer.top]
    return row


JOB = Job(main, Settings, check, one_run=True, trains=True)
