"""job=compress: a file coded by a model, its size beside gzip's, xz's and zstd's."""

import dataclasses
import gzip
import lzma
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gptjax.config import Config, enable_compilation_cache
from gptjax.engines.devices import start_backend
from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.files import user_path, write_atomic
from gptjax.job import Job


@dataclasses.dataclass(frozen=True)
class Settings:
    """A file and the model that codes it."""

    model: str = setting("", "folder of the model")
    input: str = setting("", "the file that is compressed")
    output: str = setting("", "where it goes; '': beside it, with .gptjax after its name")


def check(config: Config) -> None:
    """Refuse a file or model that is not named."""
    asked: Settings = config.own["compress"]
    check_files("compress", asked.model, asked.input)


def check_files(job: str, model: str, source: str) -> None:
    """Refuse what is not there, for both directions."""
    if not model:
        raise UserError(f"{job}.model='' names no model; give --config.{job}.model=DIR")
    if not user_path(source).is_file():
        raise UserError(f"{job}.input={source} is no file; give --config.{job}.input=FILE")


def main(config: Config, folder: Path) -> int:
    """Write the compressed file, print sizes."""
    from gptjax import infer
    from gptjax.evals.compression import compress

    asked: Settings = config.own["compress"]
    start_backend(config)
    enable_compilation_cache(config)
    source = user_path(asked.input)
    content = source.read_bytes()
    made = compress(infer.load(asked.model), content)
    target = user_path(asked.output or f"{source}.gptjax")
    write_atomic(target, made.data)
    over = made.payload_bits / max(made.ideal_bits, 1e-9) - 1
    rows = {"this model": len(made.data), **others(content)}
    table = Table(title=f"{source.name}: {len(content):,} bytes, {made.tokens:,} tokens")
    for name in ("coder", "bytes", "bits a byte"):
        table.add_column(name)
    for name, size in rows.items():
        table.add_row(name, f"{size:,}", f"{8 * size / max(len(content), 1):.3f}")
    Console(width=100).print(table)
    print(f"coded tokens take {over:+.3%} against the sum of -log2 p; {target}")
    return 0


def others(content: bytes) -> dict[str, int]:
    """Bytes by the usual coders, at their highest levels; zstd where Python has it."""
    found = {
        "gzip -9": len(gzip.compress(content, 9)),
        "xz -9e": len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)),
    }
    try:
        import zstandard

        found["zstd -19"] = len(zstandard.ZstdCompressor(level=19).compress(content))
    except ImportError:
        pass
    return found


JOB = Job(main, Settings, check, writes=False)
