"""The command line: flags and exit statuses, nothing else.

python -m gptjax.main --config=experiments/chinchilla_sweep.py
"""

import dataclasses
import errno
import importlib
import sys
from collections.abc import Iterator, Sequence

from gptjax import terminal
from gptjax.errors import UserError, nearest

USAGE_STATUS = 2
INTERRUPTED_STATUS = 130
NO_READER_STATUS = 141
SHOWN = 80
"""Characters of a name that a sentence repeats."""

USAGE = """\
python -m gptjax.main --config=FILE [--config.<section>.<key>=VALUE ...] [--workdir=DIR]

  --config=FILE     an experiment: a Python file with get_config(), such as
                    experiments/chinchilla_sweep.py; FILE:TEXT calls get_config(TEXT)
  --config.KEY=V    changes one setting; lists as 1e12,3e12; docs/config.md has every key
  --workdir=DIR     where the run lives; default runs/<config.experiment>
"""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)


@dataclasses.dataclass(frozen=True)
class Command:
    """What a command line says.

    Attributes:
      experiment: path of the experiment file, with an optional `:TEXT`.
      overrides: (dotted key, text) in the order given; None where a flag has no value.
      workdir: '' for the default.
    """

    experiment: str
    overrides: tuple[tuple[str, str | None], ...] = ()
    workdir: str = ""


def main(argv: Sequence[str]) -> int:
    """Run the job that a config names; returns the exit status.

    0: done. 2: a mistake in what the user gave, told in one sentence on standard error.
    75: stopped by a signal with everything saved; the same command continues.
    130: interrupted before there was anything to save. 141: nobody reads standard output any more.
    """
    terminal.adapt_streams()
    if any(argument in ("--help", "-help", "-h") for argument in argv[1:]):
        print(USAGE, end="")
        return 0
    try:
        command = parse(argv)
        from gptjax import early

        early.check(command.experiment, [key for key, _ in command.overrides])
        _import_jax()  # only now: a wrong flag need not wait for it
        from gptjax.stages import start

        return start.run_experiment(command.experiment, command.overrides, command.workdir)
    except UserError as error:
        return _refuse(str(error))
    except BrokenPipeError:
        terminal.drop_output()
        return NO_READER_STATUS
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            name = str(error.filename)
            return _refuse(f"{name[:SHOWN]}… is longer than a file's name may be; shorten it")
        if error.errno not in NO_SPACE:
            raise
        place = error.filename or "a file"
        return _refuse(
            f"cannot write {place}: {error.strerror}; free some space or choose another --workdir"
        )
    except KeyboardInterrupt:
        print("gptjax: interrupted; the same command starts it again", file=sys.stderr)
        return INTERRUPTED_STATUS


def _import_jax() -> None:
    """Import JAX, which reads its variables of the shell as it is imported.

    Raises:
      UserError: for a value that it refuses.
    """
    try:
        importlib.import_module("jax")
    except ValueError as error:
        raise UserError(
            f"JAX refuses a variable of the shell ({error}); unset it, or mend its value"
        ) from error


def parse(argv: Sequence[str]) -> Command:
    """Read the flags; the values of overrides are not looked at yet.

    Raises:
      UserError: for unknown flags, stray words and a missing --config.
    """
    experiment, workdir, overrides = "", "", []
    for name, value in _flags(argv[1:]):
        if name == "config":
            experiment = value or ""
        elif name == "workdir":
            if not value:
                raise UserError(
                    "--workdir has no value, perhaps an unset variable of the shell; write "
                    "--workdir=DIR"
                )
            workdir = value
        else:
            overrides.append((name.removeprefix("config."), value))
    if not experiment:
        raise UserError(
            "--config names no experiment; try --config=experiments/chinchilla_sweep.py"
        )
    return Command(experiment, tuple(overrides), workdir)


def _flags(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """(name without dashes, value) of each flag; --name=value and --name value are the same."""
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if not argument.startswith("-"):
            raise UserError(
                f"{argument!r} is not a flag; write --config=FILE --config.<key>=<value>"
            )
        name, equals, value = argument.lstrip("-").partition("=")
        if name not in ("config", "workdir") and not name.startswith("config."):
            raise UserError(f"{argument} is not a flag; {_flag_hint(name)}")
        if equals:
            yield name, value
        elif waiting and not waiting[0].startswith(("--", "-config", "-workdir")):
            yield name, waiting.pop(0)
        else:
            yield name, None


def _flag_hint(name: str) -> str:
    if "." in name or name in ("job", "device", "experiment"):
        return f"did you mean --config.{name.partition('.')[2] if 'conf' in name else name}?"
    hint = nearest(name, ("config", "workdir"))
    if hint.startswith("did"):
        return hint.replace("mean ", "mean --")
    return "flags are --config=FILE, --config.<key>=<value> and --workdir=DIR"


def _refuse(sentence: str) -> int:
    print(f"gptjax: {terminal.printable(' '.join(sentence.split()))}", file=sys.stderr)
    return USAGE_STATUS


def run() -> int:
    """The console script `gptjax`, the same as `python -m gptjax.main`."""
    return main(sys.argv)


if __name__ == "__main__":
    sys.exit(run())
