"""A thread that owns the device: requests come from any thread, answers go to their listeners.

Everything between two turns happens in this one thread, so that the batcher needs no lock, and a
slow listener stops nobody.
"""

import collections
import dataclasses
import logging
import threading
import time
from collections.abc import Callable

from gptjax.infer.batching import Batcher
from gptjax.infer.generate import Answer, Prompt
from gptjax.infer.schedule import Full
from gptjax.infer.settings import Sampling

LOG = logging.getLogger(__name__)


class Stopped(Exception):
    """The service has ended, or failed, before the answer was complete; the sentence says which."""


Listener = Callable[[Answer | Stopped], None]
"""Called in the service's thread with an answer as far as it is, the last one with its `finish`."""


@dataclasses.dataclass(eq=False)
class Ticket:
    """A request that was taken; `cancel` of the service takes it back."""

    ids: tuple[int, ...]
    sampling: Sampling
    scores: bool
    listener: Listener
    number: int = -1


class Service:
    """A batcher and its thread.

    Attributes:
      batcher: for its numbers; only the thread may call it.
    """

    def __init__(self, batcher: Batcher) -> None:
        self.batcher = batcher
        self._changed = threading.Condition()
        self._new: collections.deque[Ticket] = collections.deque()
        self._cancelled: list[Ticket] = []
        self._tickets: dict[int, Ticket] = {}
        self._ends = ""  # why no request is taken any more
        self._finishes = True
        self._thread = threading.Thread(target=self._run, name="gptjax-batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests without a slot."""
        return len(self._new) + len(self.batcher.schedule.waiting)

    @property
    def refuses(self) -> str:
        """Why no request is taken any more; "" while they are."""
        return self._ends

    def check(self, prompt: Prompt, sampling: Sampling) -> tuple[tuple[int, ...], Sampling]:
        """As `Batcher.checked`, from any thread."""
        return self.batcher.checked(prompt, sampling)

    def submit(
        self, requests: list[tuple[tuple[int, ...], Sampling, bool, Listener]]
    ) -> list[Ticket]:
        """Take all of these checked requests (ids, settings, scored or not, listener).

        Raises:
          Full: where they are more than may wait; none is taken.
          Stopped: where the service has ended.
        """
        tickets = [Ticket(*one) for one in requests]
        limits = self.batcher.limits
        with self._changed:
            if self._ends:
                raise Stopped(self._ends)
            room = limits.waiting + limits.slots - self.batcher.taken - self.waiting
            if len(tickets) > room:
                raise Full(
                    f"{self.waiting} requests wait already, and {len(tickets)} more do not fit; "
                    "try again later"
                )
            self._new.extend(tickets)
            self._changed.notify()
        return tickets

    def cancel(self, tickets: list[Ticket]) -> None:
        """Take requests back; their slots are free at the next turn."""
        with self._changed:
            self._cancelled += tickets
            self._changed.notify()

    def refuse(self, why: str) -> None:
        """Take no request from now on, and finish those that were taken."""
        with self._changed:
            self._ends = self._ends or why
            self._changed.notify()

    def close(self, why: str = "the server has stopped", *, seconds: float = 0.0) -> None:
        """End the thread, after up to `seconds` for the answers that are under way."""
        self.refuse(why)
        deadline = time.monotonic() + seconds
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._thread.join(timeout=0.02)
        with self._changed:
            self._finishes = False
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._next():
                for number, answer in self.batcher.turn().items():
                    ticket = self._tickets[number]
                    if answer.finish:
                        del self._tickets[number]
                    ticket.listener(answer)
        except Exception as error:  # told to all who wait, then raised for the log
            self.refuse(f"the model failed ({type(error).__name__}); see the server's log")
            raise
        finally:
            self._tell_all()

    def _next(self) -> bool:
        """Wait for work; False: the thread ends."""
        with self._changed:
            while not (self._new or self._cancelled or self.batcher.busy or self._ends):
                self._changed.wait()
            while self._new:
                ticket = self._new.popleft()
                if ticket not in self._cancelled:
                    self._enqueue(ticket)
            for ticket in self._cancelled:
                self.batcher.cancel(ticket.number)
                self._tickets.pop(ticket.number, None)
            self._cancelled.clear()
            return not self._ends or (self._finishes and self.batcher.busy)

    def _enqueue(self, ticket: Ticket) -> None:
        """Hand a request to the batcher; one that cannot be taken is told, and no other."""
        try:
            ticket.number = self.batcher.enqueue(ticket.ids, ticket.sampling, scores=ticket.scores)
        except Exception as error:
            LOG.exception("a request was not taken")
            ticket.listener(Stopped(f"the request was not taken ({type(error).__name__})"))
        else:
            self._tickets[ticket.number] = ticket

    def _tell_all(self) -> None:
        with self._changed:
            left = [*self._tickets.values(), *self._new]
            self._tickets.clear()
            self._new.clear()
        for ticket in left:
            ticket.listener(Stopped(self._ends))
