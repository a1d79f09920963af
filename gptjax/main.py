"""Flags, nothing else: python -m gptjax.main --config=experiments/chinchilla_sweep.py"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from gptjax.errors import UserError, nearest

USAGE_STATUS = 2


def main(argv: Sequence[str]) -> int:
    """Run the job that a config names; returns the exit status.

    0: done. 2: a mistake in what the user gave, told in one sentence on standard error.
    75: stopped by a signal with everything saved; the same command continues.
    """
    try:
        values = parse(argv)
        from gptjax import jobs  # after parsing: a wrong flag need not wait for JAX

        return jobs.run(values.config, values.workdir)
    except UserError as error:
        print(f"gptjax: {error}", file=sys.stderr)
        return USAGE_STATUS


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """The flags, with overrides applied to the config.

    Raises:
      UserError: for unknown flags and keys, values of the wrong type and unreadable configs.
    """
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "experiment file", flag_values=values)
    flags.DEFINE_string("workdir", "", "where the run lives", flag_values=values)
    _check_config_file(argv)
    try:
        rest = values(list(argv))
    except flags.Error as error:
        raise UserError(_flag_sentence(str(error), argv)) from error
    except (AttributeError, KeyError, TypeError, ValueError, SyntaxError, ImportError) as error:
        raise UserError(_config_sentence(error, argv)) from error
    if len(rest) > 1:
        raise UserError(f"{rest[1]!r} is not a flag; write --config=FILE --config.key=value")
    if values.config is None:
        raise UserError("--config names no experiment; try --config=experiments/chinchilla_sweep.py")
    return values


def _check_config_file(argv: Sequence[str]) -> None:
    for i, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            path = Path((value if equals else "".join(argv[i + 1 : i + 2])).partition(":")[0])
            if not path.is_file():
                known = sorted(str(file) for file in Path("experiments").glob("*.py"))
                hint = nearest(str(path), known) if known else "check the path"
                raise UserError(f"--config={path} does not exist; {hint}")


def _flag_sentence(message: str, argv: Sequence[str]) -> str:
    first = " ".join(message.split())
    return f"{first}; flags are --config=FILE, --config.<key>=<value> and --workdir=DIR"


def _config_sentence(error: BaseException, argv: Sequence[str]) -> str:
    message = " ".join(str(error.args[0] if error.args else error).split())
    return f"the config cannot be read: {message}"


if __name__ == "__main__":
    sys.exit(main(sys.argv))
