"""job=serve: a model behind HTTP, as OpenAI's clients speak it."""

import dataclasses
import importlib.util
import ipaddress
import sys
from pathlib import Path
from typing import Any

from gptjax.config import Config, enable_compilation_cache
from gptjax.data.chat import FORMATS
from gptjax.engines.devices import start_backend
from gptjax.errors import UserError
from gptjax.fields import section, setting
from gptjax.files import check_plain, user_path
from gptjax.infer.adapters import named
from gptjax.infer.limits import Limits
from gptjax.infer.members import MembersConfig, with_members
from gptjax.job import Job

EXTRA = ("starlette", "uvicorn")


@dataclasses.dataclass(frozen=True)
class Settings(Limits):
    """Which model job=serve answers with, and where."""

    model: str = setting("", "folder of a model with its tokenizer: ours, a run's, Hugging Face's")
    chat: str = setting("", "format of messages; empty: the model's own", choices=("", *FORMATS))
    name: str = setting("", "what clients call the model; empty: its folder's name")
    host: str = setting("127.0.0.1", "address to listen on; 0.0.0.0: every one of this machine")
    port: int = setting(8000, "port; 0: any that is free", minimum=0, maximum=65535)
    token_file: str = setting(
        "", "file whose first line clients send as their API key; empty: none is asked for"
    )
    body_bytes: int = setting(1_000_000, "bytes of the largest request", minimum=1000)
    grace: float = setting(
        30.0, "seconds for answers under way after SIGTERM; the rest is refused", minimum=0.0
    )
    warm: bool = setting(True, "compile all programs before the port opens")
    adapters: tuple[str, ...] = setting(
        (),
        "LoRA adapters of the model, each as NAME=FOLDER; clients ask for one by its name as the "
        "model",
    )
    members: MembersConfig = section(MembersConfig, "further models that answer with the first")


def check(config: Config) -> None:
    """Refuse what can be known before a model is read: no folder, no extra, no key."""
    asked: Settings = config.own["serve"]
    if not asked.model:
        raise UserError(
            "serve.model='' names no folder; give --config.serve.model=DIR with a model"
        )
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"job=serve needs {' and '.join(missing)}; pip install 'gptjax[serve]'")
    named(asked.adapters, "serve.adapters")
    _token(asked)


def main(config: Config, folder: Path) -> int:
    """Serve until a signal ends it."""
    from gptjax.infer import Batcher
    from gptjax.infer.server.app import make_app
    from gptjax.infer.server.run import bind, run
    from gptjax.infer.service import Service

    asked: Settings = config.own["serve"]
    token = _token(asked)
    with bind(asked.host, asked.port) as listening:
        start_backend(config)
        enable_compilation_cache(config)
        batcher = Batcher(_model(asked), asked)
        if asked.warm:
            batcher.warm()
        service = Service(batcher)
        host, port = listening.getsockname()[:2]
        app = make_app(service, token=token, body_bytes=asked.body_bytes)
        listening.listen(128)
        _say(batcher, host, port, token)
        run(app, service, listening, grace=asked.grace)
    print("stopped", flush=True)
    return 0


def _model(asked: Settings) -> Any:
    """The model, with the format and name that were asked for.

    Raises:
      UserError: for a folder without a model or without a tokenizer.
    """
    from gptjax import infer

    model = infer.for_few_rows(infer.load(asked.model))
    if model.tokenizer is None:
        raise UserError(
            f"serve.model={asked.model} has no tokenizer, so texts cannot be served; put the "
            "tokenizer's file into its folder"
        )
    model = with_members(model, asked.members)
    name = asked.name or model.name
    model = dataclasses.replace(model, chat=asked.chat or model.chat, name=name)
    adapters = named(asked.adapters, "serve.adapters")
    return infer.with_adapters(model, adapters) if adapters else model


def _token(asked: Settings) -> str:
    """The key of `token_file`."""
    if not asked.token_file:
        return ""
    path = user_path(asked.token_file)
    check_plain(path)
    try:
        token = path.read_text(encoding="utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"serve.token_file={path} cannot be read; give a file with a key in its first line"
        ) from error
    if not token:
        raise UserError(f"serve.token_file={path} has no key in its first line; write one there")
    return token


def _say(batcher: Any, host: str, port: int, token: str) -> None:
    """Where it is, and how much it holds."""
    shown = f"[{host}]" if ":" in host else host
    names = " and ".join((batcher.model.name, *batcher.model.adapters.names))
    print(
        f"{names}: {batcher.limits.slots} slots of {batcher.length:,} tokens, "
        f"{batcher.cache_bytes / 1e6:,.1f} MB of caches\n"
        f"http://{shown}:{port}/ for a browser, http://{shown}:{port}/v1 for clients",
        flush=True,
    )
    if not token and not ipaddress.ip_address(host).is_loopback:
        print(
            f"gptjax: serve.host={host} answers everybody who reaches it; give serve.token_file",
            file=sys.stderr,
        )


JOB = Job(main, Settings, check, trains=True, writes=False)
