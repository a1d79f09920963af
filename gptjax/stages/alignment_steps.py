"""Steps that jobs of alignment share: changed configs, a base of given texts, kept seconds."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from gptjax.config import Config, load_corpus, make_run
from gptjax.errors import UserError
from gptjax.fields import replaced
from gptjax.files import read_json, write_atomic, write_json
from gptjax.stages.find_model import trained


def changed(config: Config, **sections: Mapping[str, Any]) -> Config:
    """The config with some settings of some sections changed."""
    own = dict(config.own)
    rooms: dict[str, Any] = {}
    for name, values in sections.items():
        target = own if name in own else rooms
        section = own[name] if name in own else getattr(config, name)
        target[name] = replaced(section, dict(values))
    return dataclasses.replace(config, own=own, **rooms)


def base(config: Config, texts: Path, folder: Path) -> None:
    """A model of a file of texts, trained as `data`, `model`, `optim` and `train` say."""
    made = changed(config, data={"source": "jsonl", "path": str(texts), "deduplicate": False})
    corpus = load_corpus(made)
    trained(made, corpus, make_run(made, corpus), folder)


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """JSON Lines, whole or absent."""
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines))


def timed(place: Path, step: Callable[[], Any]) -> float:
    """Seconds of a step over all commands that worked on it, but for one that was killed.

    Raises:
      UserError: where the step was stopped.
    """
    path, part = (place.parent / f"{place.name}.{kind}.json" for kind in ("seconds", "spent"))
    spent = float(read_json(part)) if part.exists() else 0.0
    started = time.perf_counter()
    try:
        status = step()
    finally:
        spent += time.perf_counter() - started
        if not path.exists():
            write_json(part, spent)
    if status:
        raise UserError(f"{place.name} was stopped; the same command continues from here")
    if not path.exists():
        write_json(path, spent)
    part.unlink(missing_ok=True)
    return float(read_json(path))
