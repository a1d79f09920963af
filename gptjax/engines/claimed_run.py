"""A claimed run: the fence of a job that trains one run, so that two commands never share a folder.

The lease is that of a sweep's bundles (`sweeps/claims.py`). A command that finds the run claimed by
a living one is refused. One that was stopped for longer than the lease and goes on finds that
another has taken over, and leaves before it writes anything.
"""

import contextlib
import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gptjax.errors import UserError
from gptjax.sweeps import Claims
from gptjax.train import Hooks, Superseded

RUN = "run"
POLL_SECONDS = 0.2


class Fence:
    """Asks, before anything is written, whether the run is still this command's."""

    def __init__(self, ask: Callable[[], None] = lambda: None) -> None:
        self.ask = ask

    def around(self, hooks: Hooks) -> Hooks:
        """The hooks, each of which asks first."""
        names = [field.name for field in dataclasses.fields(hooks)]
        there = {name: getattr(hooks, name) for name in names if getattr(hooks, name) is not None}
        return dataclasses.replace(
            hooks, **{name: functools.partial(self._asked, hook) for name, hook in there.items()}
        )

    def _asked(self, hook: Callable[..., Any], *args: Any) -> Any:
        self.ask()
        return hook(*args)


@contextlib.contextmanager
def claimed(folder: Path, claim_seconds: float, *, first: bool = True) -> Iterator[Fence]:
    """Hold the run of a folder; of several processes of one run, the first holds it for all.

    Raises:
      UserError: where another command trains it, or has taken it over.
    """
    if not first:
        yield Fence()
        return
    claims = Claims(folder, stale_seconds=claim_seconds)
    _take(claims, folder, claim_seconds)
    try:
        with claims.holding(RUN):
            try:
                yield Fence(lambda: claims.check(RUN))
            except UserError:
                claims.check(RUN)  # a save fails too where its folder was taken over
                raise
    except Superseded:
        raise UserError(
            f"another command has taken over the run in --workdir={folder}: this one did not "
            "answer for sweep.claim_seconds; it leaves the run to the other"
        ) from None


def _take(claims: Claims, folder: Path, claim_seconds: float) -> None:
    """Claim the run, or wait until it is clear whether the one who has it lives."""
    seen = claims.owner(RUN)
    told = False
    while not claims.take(RUN):
        owner = claims.owner(RUN)
        counts = owner.get("worker") == seen.get("worker") and owner != seen
        if counts or claims.runs_here(RUN):
            raise UserError(
                f"another command trains in --workdir={folder} (process {owner.get('pid')} of "
                f"{owner.get('host')}); wait for it or stop it, or choose another --workdir"
            )
        if not told:
            print(
                f"gptjax: the run in {folder} is claimed by process {owner.get('pid')} of "
                f"{owner.get('host')}; it is taken over after {claim_seconds:g} s without a sign "
                "of life (sweep.claim_seconds)",
                file=sys.stderr,
                flush=True,
            )
        told, seen = True, owner
        time.sleep(POLL_SECONDS)
