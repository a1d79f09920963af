"""job=decompress: a file that job=compress wrote, restored bit for bit by the same model."""

import dataclasses
from pathlib import Path

from gptjax.config import Config, enable_compilation_cache
from gptjax.engines.devices import start_backend
from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.files import user_path, write_atomic
from gptjax.job import Job


@dataclasses.dataclass(frozen=True)
class Settings:
    """A compressed file and the model that coded it."""

    model: str = setting("", "folder of the model")
    input: str = setting("", "the file that job=compress wrote")
    output: str = setting("", "where the restored file goes")


def check(config: Config) -> None:
    """Refuse what is not named, and a target that is there."""
    asked: Settings = config.own["decompress"]
    if not asked.model or not user_path(asked.input).is_file():
        raise UserError(
            f"decompress.model={asked.model!r} and decompress.input={asked.input!r} must name a "
            "model's folder and a file of job=compress"
        )
    if not asked.output or user_path(asked.output).exists():
        raise UserError(
            f"decompress.output={asked.output!r} must name a file that is not there yet; give "
            "another name"
        )


def main(config: Config, folder: Path) -> int:
    """Write the restored file."""
    from gptjax import infer
    from gptjax.evals.compression import decompress

    asked: Settings = config.own["decompress"]
    start_backend(config)
    enable_compilation_cache(config)
    data = user_path(asked.input).read_bytes()
    content = decompress(infer.load(asked.model), data)
    target = user_path(asked.output)
    write_atomic(target, content)
    print(f"{len(content):,} bytes; {target}")
    return 0


JOB = Job(main, Settings, check, writes=False)
