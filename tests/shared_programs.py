"""Training programs that all sessions of a test process share.

A session traces and compiles its own, and each call of a job makes a session: a straight run, a
stopped one and its end would pay three times for one program. It is a function of what `shared`
keys it by, so sharing changes no bit.
"""

import contextlib
import dataclasses
import os
from typing import Any

import pytest

from gptjax.train import session
from gptjax.train.feed import TokenFeed
from gptjax.train.pictured import PictureFeed
from gptjax.train.program_cache import Programs

FEEDS = (TokenFeed, PictureFeed)
ENOUGH = 100
MADE: dict[Any, Programs] = {}


@contextlib.contextmanager
def shared():
    """Sessions of one corpus share programs; those of a mesh or with a feed of their own do not."""
    compiled = session.Session._compiled

    def from_all(self: Any, key: Any, lower: Any, layout: Any) -> Any:
        if layout is None and self._corpus is not None and type(self.feed) in FEEDS:
            options = dataclasses.replace(self.options, checkpoint_seconds=0.0)
            what = (type(self), self.fingerprint, options, self.objective_of)
            how = (self.shares_programs, session.MAX_STEPS_PER_CALL, os.environ.get("XLA_FLAGS"))
            self._programs = MADE.setdefault((*what, *how), Programs())
        elif self._programs in MADE.values():
            self._programs = Programs()
        return compiled(self, key, lower, layout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session.Session, "_compiled", from_all)
        yield
    if sum(map(len, MADE.values())) > ENOUGH:
        MADE.clear()
