"""What the controller tells of itself once the switch has it: models that came, changed or went, and where apps placed ports.

    Engine ── Settled ──> Unconfirmed ── barrier ──> Confirmed ──> subscribers: metrics, EventLog ──> dragonflow events

The controller itself says only ``created``, ``updated`` and ``deleted`` of models, that is of the rows and interfaces that it
knows; ``local_*``, ``remote_*`` and ``distributed_*`` of ports follow from the places that apps give them. Both are differences
between confirmed states, so they balance: what was created is updated or deleted before it is created again. They begin with the
controller: one that starts has everything created. And they are what this chassis sees: if it follows a network no more, that
network's rows are deleted here, though they stand in the DF DB.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import msgspec

from dragonflow.controller.engine import Settled
from dragonflow.controller.locality import LocalityEvent, Moved, difference, plain
from dragonflow.controller.replica import Change, Object
from dragonflow.model import Binding, LogicalPort, OvsPort, PortStatus

LOG = logging.getLogger(__name__)

KEPT = 1_000
"""How many events are remembered for those who ask later."""

BACKLOG = 20_000
"""How many are kept while anybody follows, so that a burst reaches also those who read slower than it came."""

_CHUNK = 100
"""Events in one piece of a stream: well below a millisecond of work."""


class Confirmed(msgspec.Struct, frozen=True):
    """What differs from what the switch had confirmed before.

    ``at`` is when the barrier answered, by the replica's clock. ``broken`` are the objects whose flows had to be left out, by id,
    and why.
    """

    changes: Sequence[Change]
    events: Sequence[LocalityEvent]
    at: float
    broken: Mapping[str, str]


Subscriber = Callable[[Confirmed], None]


class Unconfirmed:
    """Adds settlings up until a barrier confirms them. What came and went meanwhile is not told, and takes no room."""

    def __init__(self) -> None:
        self._changes: dict[tuple[type[Object], str], Change] = {}
        self._moved: dict[str, Moved] = {}

    def add(self, settled: Settled) -> None:
        """The engine has rendered this; it is not on the switch yet."""
        for change in settled.changes:
            key = change.model, change.id
            earlier = self._changes.get(key)
            if earlier is None:
                self._changes[key] = change
            elif earlier.old == change.new:
                del self._changes[key]
            else:
                self._changes[key] = change._replace(old=earlier.old, since=earlier.since)
        for moved in settled.moved:
            before = self._moved.get(moved.port)
            if before is None:
                self._moved[moved.port] = moved
            elif before.before == moved.after:
                del self._moved[moved.port]
            else:
                since = min(before.since, moved.since)
                self._moved[moved.port] = moved._replace(before=before.before, since=since)

    def confirm(self, at: float, broken: Mapping[str, str]) -> Confirmed:
        """The switch has all of it since ``at``, but for what is broken (see ``Confirmed``). Begins anew."""
        events = [event for moved in self._moved.values() for event in difference(moved)]
        confirmed = Confirmed(tuple(self._changes.values()), events, at, broken)
        self._changes, self._moved = {}, {}
        return confirmed


def tell(subscribers: Iterable[Subscriber], confirmed: Confirmed) -> None:
    """Tell each of them; one that fails harms nobody else."""
    for subscriber in subscribers:
        try:
            subscriber(confirmed)
        except Exception:
            LOG.exception("a subscriber of events failed")


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A confirmed change, as `dragonflow events` shows it.

    - ``seq`` counts the events of this run of the controller from 1; ``at`` is when it was confirmed, in seconds of the epoch
    - ``event`` is ``created`` … of the model, or ``local_created`` … of a port; ``chassis`` is whose controller says so
    - ``name`` is what its owner calls the object; ``port`` the logical port that it is about, if it is about one
    - ``revision`` is the store revision that last wrote or deleted the row, 0 where none is known: interfaces have none
    - ``latency`` is seconds from when the news was taken in (the row from the DF DB, the interface from OVSDB) until the barrier
      had confirmed all flows that follow from it. Of an event that follows from several pieces of news the oldest counts; what
      the DF DB and OVSDB took to tell, and what a row waited for its turn, is not in it.
    - ``fields`` are those that differ in an updated model; ``place`` is the place that was created, updated or deleted, and
      ``before`` where an updated one was
    - ``left_out`` says why, if flows of the object are not on the switch: it refused them, or they could not be worked out
    """

    seq: int
    at: float
    chassis: str
    event: str
    model: str
    id: str
    name: str
    port: str | None
    revision: int
    latency: float
    fields: tuple[str, ...] = ()
    place: dict[str, Any] | None = None
    before: dict[str, Any] | None = None
    left_out: str | None = None


class Chunk(msgspec.Struct, frozen=True):
    """A piece of the log of one ``run`` of a chassis's controller.

    ``missed`` events that should have been told before these are not kept any more; ``next`` is the number of the one after them.
    """

    chassis: str
    run: str
    missed: int
    events: Sequence[Event]
    next: int


class Start(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to begin: with the ``last`` so many events; or, if ``run`` is named, with event ``seq`` of that run.

    If that run of the controller is over, the present one's events are told from its first on.
    """

    last: int = 0
    run: str = ""
    seq: int = 1


class EventLog:
    """The last events, in order, for any number of readers. Being read costs the controller nothing but the reading itself.

    No reader holds anything up: who reads slower than events come finds at last that they are not kept any more, and is told
    how many it missed. ``run`` tells this run of the controller from others; ``name_of`` finds a logical port's name.
    """

    def __init__(
        self, chassis: str, run: str, name_of: Callable[[str], str], *, now: Callable[[], float] = time.time
    ) -> None:
        self._chassis = chassis
        self._run = run
        self._name_of = name_of
        self._now = now
        self._events: deque[_Kept] = deque()
        self._next = 1
        self.readers = 0
        """Who follows now."""
        self._more = asyncio.Event()

    def confirmed(self, confirmed: Confirmed) -> None:
        """Take in what was confirmed; a subscriber of the controller."""
        count = len(confirmed.changes) + len(confirmed.events)
        if not count:
            return
        at = round(self._now(), 6)
        gone = {it.id: it.old.name for it in confirmed.changes if it.new is None and isinstance(it.old, LogicalPort)}
        skipped = max(0, count - self._room)
        fresh: Iterable[Change | LocalityEvent] = chain(confirmed.changes, confirmed.events)
        for it in islice(fresh, skipped, None):
            if isinstance(it, Change):
                about, name = it.id, ""
            else:
                about, name = it.port, gone.get(it.port) or self._name_of(it.port)
            self._events.append(_Kept(it, at, confirmed.at - it.since, confirmed.broken.get(about), name))
        self._next += count
        self._trim()
        self._more.set()
        self._more = asyncio.Event()

    def kept(self) -> Chunk:
        """The last ``KEPT`` events."""
        return self._chunk(max(self._first, self._next - KEPT), KEPT)

    async def follow(self, where: Any) -> AsyncGenerator[Chunk, None]:
        """Events as they are confirmed, for ever, from ``where`` (see ``Start``) on; the first piece comes at once, if empty.

        :raises ValueError: ``where`` says nothing that is understood.
        """
        start = msgspec.convert(where or {}, Start)
        seq = 1
        if not start.run:
            seq = max(self._first, self._next - max(0, start.last))
        elif start.run == self._run:
            seq = min(max(1, start.seq), self._next)
        self.readers += 1
        try:
            while True:
                chunk = self._chunk(seq, _CHUNK)
                seq = chunk.next
                yield chunk
                while seq == self._next:
                    await self._more.wait()
        finally:
            self.readers -= 1
            self._trim()

    def _chunk(self, seq: int, count: int) -> Chunk:
        """Up to so many events from ``seq`` on, or from the first that is kept."""
        first = max(seq, self._first)
        begin = first - self._first
        events = tuple(
            self._event(number, kept) for number, kept in enumerate(islice(self._events, begin, begin + count), first)
        )
        return Chunk(self._chassis, self._run, first - seq, events, first + len(events))

    def _event(self, seq: int, kept: _Kept) -> Event:
        about = _about_change(kept.it) if isinstance(kept.it, Change) else _about_place(kept.it, kept.name)
        return Event(
            seq=seq,
            at=kept.at,
            chassis=self._chassis,
            revision=kept.it.revision,
            latency=round(kept.latency, 6),
            left_out=kept.left_out,
            **about,
        )

    @property
    def _first(self) -> int:
        """The first event that is kept, or would be."""
        return self._next - len(self._events)

    @property
    def _room(self) -> int:
        return BACKLOG if self.readers else KEPT

    def _trim(self) -> None:
        while len(self._events) > self._room:
            self._events.popleft()


class _Kept(NamedTuple):
    """What an ``Event`` is made of when somebody asks: of most nobody does. ``name`` is the port's whose place it is."""

    it: Change | LocalityEvent
    at: float
    latency: float
    left_out: str | None
    name: str


def _about_place(it: LocalityEvent, name: str) -> dict[str, Any]:
    return {
        "event": f"{it.kind}_{it.change}",
        "model": LogicalPort.__name__,
        "id": it.port,
        "name": name,
        "port": it.port,
        "place": plain(it.locality),
        "before": None if it.before is None else plain(it.before),
    }


def _about_change(it: Change) -> dict[str, Any]:
    shown: Any = it.old if it.new is None else it.new
    fields: tuple[str, ...] = ()
    if it.old is None:
        event = "created"
    elif it.new is None:
        event = "deleted"
    else:
        event = "updated"
        fields = tuple(field for field in shown.__struct_fields__ if getattr(it.old, field) != getattr(it.new, field))
    port = None
    if isinstance(shown, LogicalPort | Binding | PortStatus):
        port = shown.id
    elif isinstance(shown, OvsPort):
        port = shown.iface_id
    name = getattr(shown, "name", "")
    return {"event": event, "model": it.model.__name__, "id": it.id, "name": name, "port": port, "fields": fields}
