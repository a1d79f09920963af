"""Schedule of continuous batching: which request waits, which has a slot, whose prefix is reused.

Pure functions from a schedule to the next one, so that what a server does is tested without one.
"""

import dataclasses
from collections.abc import Sequence

from gptjax.errors import UserError

FREE = -1


class Full(UserError):
    """No room for one more request now; later there may be."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """One row of the batch.

    Attributes:
      request: the number of the request that has it, or FREE.
      held: tokens of a prompt that its cache still holds, in whole pieces.
      used: the clock when it was last taken or left.
    """

    request: int = FREE
    held: tuple[int, ...] = ()
    used: int = 0


@dataclasses.dataclass(frozen=True)
class Schedule:
    """All requests that are not answered yet.

    Attributes:
      slots: the rows of the batch.
      waiting: numbers of requests without a slot, the first to enter first.
      most_waiting: how many may wait while no slot is free.
      clock: changes so far.
    """

    slots: tuple[Slot, ...]
    waiting: tuple[int, ...] = ()
    most_waiting: int = 64
    clock: int = 0


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where a request enters, and the first tokens of its prompt that need no computing.

    Attributes:
      slot: its slot.
      source: the slot whose cache holds those tokens; FREE where none does.
      shared: how many they are.
    """

    slot: int
    source: int = FREE
    shared: int = 0


def empty(slots: int, most_waiting: int) -> Schedule:
    """A schedule of free slots."""
    return Schedule((Slot(),) * slots, most_waiting=most_waiting)


def queued(schedule: Schedule, number: int) -> Schedule:
    """The schedule with one more request that waits.

    Raises:
      Full: where as many wait as may.
    """
    free = sum(slot.request == FREE for slot in schedule.slots)
    if len(schedule.waiting) >= schedule.most_waiting + free:
        raise Full(
            f"{len(schedule.waiting)} requests wait already, which is the most; try again later"
        )
    return _after(schedule, waiting=(*schedule.waiting, number))


def entry_of(schedule: Schedule, prompt: Sequence[int], piece: int) -> Entry | None:
    """Where the first request that waits enters; None: no slot is free.

    A free slot whose tokens the prompt begins with is taken over; else the one that was left
    longest ago, those that hold nothing first.

    Args:
      prompt: its tokens.
      piece: tokens that are computed together. Only whole pieces are shared, and never the last
        token of a prompt, so that an answer has the same bits with and without sharing.
    """
    free = [i for i, slot in enumerate(schedule.slots) if slot.request == FREE]
    if not free:
        return None
    shares = [_shared(slot.held, prompt, piece) for slot in schedule.slots]
    shared = max(shares)
    source = shares.index(shared) if shared else FREE

    def cost(i: int) -> tuple[bool, bool, int, int]:
        slot = schedule.slots[i]
        taken_over = 0 < len(slot.held) == shares[i] == shared
        return not taken_over, bool(slot.held), slot.used, i

    return Entry(min(free, key=cost), source, shared)


def entered(schedule: Schedule, entry: Entry) -> Schedule:
    """The schedule in which the first request that waits has its slot, which holds nothing yet."""
    number, *waiting = schedule.waiting
    slot = Slot(number, used=schedule.clock)
    return _after(_with(schedule, entry.slot, slot), waiting=tuple(waiting))


def filled(schedule: Schedule, slot: int, prompt: Sequence[int], piece: int) -> Schedule:
    """The schedule after the cache of a prompt was put into its slot."""
    whole = tuple(prompt[: whole_pieces(prompt, piece)])
    return _with(schedule, slot, dataclasses.replace(schedule.slots[slot], held=whole))


def left(schedule: Schedule, number: int) -> Schedule:
    """The schedule without a request, whether it waited or had a slot; the slot's cache stays."""
    slots = tuple(
        dataclasses.replace(slot, request=FREE, used=schedule.clock)
        if slot.request == number
        else slot
        for slot in schedule.slots
    )
    waiting = tuple(other for other in schedule.waiting if other != number)
    return _after(schedule, slots=slots, waiting=waiting)


def whole_pieces(prompt: Sequence[int], piece: int) -> int:
    """Tokens of a prompt in whole pieces; at least one is left for the last."""
    return (len(prompt) - 1) // piece * piece


def _shared(held: Sequence[int], prompt: Sequence[int], piece: int) -> int:
    most = min(len(held), whole_pieces(prompt, piece))
    for start in range(0, most, piece):
        if tuple(held[start : start + piece]) != tuple(prompt[start : start + piece]):
            return start
    return most // piece * piece


def _with(schedule: Schedule, number: int, slot: Slot) -> Schedule:
    slots = [*schedule.slots]
    slots[number] = slot
    return dataclasses.replace(schedule, slots=tuple(slots))


def _after(schedule: Schedule, **changes: object) -> Schedule:
    return dataclasses.replace(schedule, clock=schedule.clock + 1, **changes)  # type: ignore[arg-type]
