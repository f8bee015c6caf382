"""Shows who asks what is refused to ports of this chassis, packet by packet, while he asks: ``dragonflow drops``.

    follow ──> Watched ──> apps.drops: flows ──> Open vSwitch ──(meters)──> sent, received ──> followers
                                                      └── counters of the flows ──> how many were not shown

What is wanted is in the replica (``Watched``), and goes when its last follower goes, or with the controller. A switch shows only
what its meters let through; how many packets there were is what its flows have counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from dragonflow.apps.base import Answer
from dragonflow.apps.drops import Drops
from dragonflow.apps.firewall.why import why
from dragonflow.controller.events import Confirmed
from dragonflow.controller.replica import Replica
from dragonflow.controller.view import View
from dragonflow.model import EVERY_PORT, Binding, LogicalPort, Watched, Zone
from dragonflow.packet import headers
from dragonflow.packet.headers import Headers
from dragonflow.pipeline import DESTINATION, SOURCE, Bits, PacketOut, Punted, PuntKind, Table
from dragonflow.pipeline.fields import FIELDS, Field
from dragonflow.switch import Disconnected

PERIOD = 1.0
"""Seconds of which a follower is told at a time: packets that are alike are one line."""

KEPT = 1_000
"""Different packets that are kept for a follower who doesn't read; those beyond count as not shown."""

Direction = Literal["egress", "ingress"]
"""Whether the port sent it, or would have got it: as a security group's rules call it."""

Packets = Callable[[int], Awaitable[list[tuple[dict[Field, int], int]]]]
"""``Switch.packets``."""

_TABLES: tuple[tuple[Direction, Table, Bits], ...] = (
    ("egress", Drops.sent, SOURCE),
    ("ingress", Drops.received, DESTINATION),
)


class Drop(msgspec.Struct, frozen=True, kw_only=True):
    """``count`` packets that are alike and were refused; the first of them at ``at``, in seconds of the epoch.

    ``port`` is the port that sent them, or would have got them; ``name`` and ``addresses`` are what its owner knows it by.
    """

    at: float
    direction: Direction
    port: str
    name: str
    addresses: tuple[str, ...]
    why: str
    packet: Headers
    count: int = 1


class Unshown(msgspec.Struct, frozen=True):
    """So many packets of a port were refused beside those that were shown."""

    port: str
    direction: Direction
    count: int


class Chunk(msgspec.Struct, frozen=True):
    """What happened within a period. ``watching`` turns true when the switch has the flows that tell of packets."""

    chassis: str
    watching: bool
    drops: list[Drop]
    unshown: list[Unshown]


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of which port a follower wants to know: its id, or how it begins; None: of all."""

    port: str | None = None


class _Side(NamedTuple):
    port: str
    direction: Direction


class _Follower:
    """What one who asks is told next."""

    def __init__(self, watched: str) -> None:
        self.watched = watched
        self._drops: dict[tuple[_Side, str, Headers], Drop] = {}
        self._shown: dict[_Side, int] = {}
        self._counted: Mapping[_Side, int] | None = None
        self._refused: dict[_Side, int] = {}
        self._told: dict[_Side, int] = {}

    def begin(self, counted: Mapping[_Side, int] | None) -> None:
        """So much the flows had counted before; None if that isn't known yet."""
        self._counted = counted

    def take(self, drop: Drop) -> None:
        """A packet."""
        side = _Side(drop.port, drop.direction)
        key = side, drop.why, drop.packet
        known = self._drops.get(key)
        if known is None and len(self._drops) >= KEPT:
            return
        self._drops[key] = drop if known is None else msgspec.structs.replace(known, count=known.count + 1)
        self._shown[side] = self._shown.get(side, 0) + 1

    def next(self, counted: Mapping[_Side, int] | None) -> tuple[list[Drop], list[Unshown]]:
        """What came since the last time; ``counted`` is what the flows count now, None if that isn't known."""
        drops, self._drops = list(self._drops.values()), {}
        return drops, [] if counted is None else list(self._unshown(counted))

    def _unshown(self, counted: Mapping[_Side, int]) -> Iterator[Unshown]:
        """Counters lag behind packets, so only what they are ahead by is told, once. One that fell began anew."""
        before, self._counted = self._counted, counted
        if before is None:
            return
        for side, count in counted.items():
            known = before.get(side, 0)
            refused = self._refused[side] = self._refused.get(side, 0) + (count - known if count >= known else count)
            unshown = refused - self._shown.get(side, 0)
            if (more := unshown - self._told.get(side, 0)) > 0:
                self._told[side] = unshown
                yield Unshown(*side, more)


class DropLog:
    """``packets`` asks the switch for counters; ``on_wanted()`` is told when somebody comes or goes."""

    def __init__(
        self,
        chassis: str,
        replica: Replica,
        packets: Packets,
        on_wanted: Callable[[], None],
        *,
        now: Callable[[], float] = time.time,
        period: float = PERIOD,
    ) -> None:
        self._chassis, self._replica, self._packets = chassis, replica, packets
        self._on_wanted, self._now, self._period = on_wanted, now, period
        self._followers: list[_Follower] = []
        self._standing: set[str] = set()

    def handlers(self) -> Mapping[PuntKind, Answer]:
        """For the answerer; none of them answers anything."""
        return {PuntKind.REFUSED_SENT: self.sent, PuntKind.REFUSED_RECEIVED: self.received}

    def sent(self, punted: Punted, view: View) -> Iterator[PacketOut]:
        """A port of this chassis may not send this."""
        self._take("egress", punted, view)
        return iter(())

    def received(self, punted: Punted, view: View) -> Iterator[PacketOut]:
        """A port of this chassis may not get this."""
        self._take("ingress", punted, view)
        return iter(())

    def confirmed(self, confirmed: Confirmed) -> None:
        """What the switch has now; a subscriber of the controller."""
        for change in confirmed.changes:
            if change.model is Watched:
                (self._standing.discard if change.new is None else self._standing.add)(change.id)

    async def follow(self, of: Any) -> AsyncGenerator[Chunk, None]:
        """What is refused from now on, a piece each period, for ever; the first piece comes at once, and is empty.

        :raises ValueError: ``of`` (see ``Asked``) isn't understood, or names no port of this chassis.
        """
        follower = _Follower(self._find(msgspec.convert(of or {}, Asked).port))
        follower.begin(await self._count())
        self._followers.append(follower)
        self._want()
        try:
            yield Chunk(self._chassis, follower.watched in self._standing, [], [])
            while True:
                await asyncio.sleep(self._period)
                drops, unshown = follower.next(await self._count())
                if follower.watched != EVERY_PORT:
                    unshown = [it for it in unshown if it.port == follower.watched]
                yield Chunk(self._chassis, follower.watched in self._standing, drops, unshown)
        finally:
            self._followers.remove(follower)
            self._want()

    def _find(self, asked: str | None) -> str:
        """The id of the port of this chassis that begins so."""
        if asked is None:
            return EVERY_PORT
        found = [it for it in self._here() if it.id.startswith(asked)]
        if len(found) != 1:
            raise ValueError(f"{'several ports' if found else 'no port'} of {self._chassis} begin with {asked!r}")
        return found[0].id

    def _here(self) -> Iterator[LogicalPort]:
        """The ports of this chassis, also those that it is only prepared for."""
        for binding in self._replica.where(Binding, host=self._chassis):
            port = self._replica.get(LogicalPort, binding.id)
            if port is not None:
                yield port

    def _want(self) -> None:
        self._replica.set_watched({it.watched for it in self._followers})
        self._on_wanted()

    def _take(self, direction: Direction, punted: Punted, view: View) -> None:
        port = view.get(LogicalPort, punted.data.decode())
        followers = [it for it in self._followers if port is not None and it.watched in (EVERY_PORT, port.id)]
        if port is None or not followers:  # it was under way when the last of them went
            return
        sent, ready = direction == "egress", view.get(Zone, port.id) is not None
        drop = Drop(
            at=round(self._now(), 3),
            direction=direction,
            port=port.id,
            name=port.name,
            addresses=port.ips,
            why=why(punted, port, sent=sent, ready=ready),
            packet=headers.read(punted.packet),
        )
        for follower in followers:
            follower.take(drop)

    async def _count(self) -> dict[_Side, int] | None:
        """How many packets of each port the flows have counted; None if the switch doesn't tell."""
        names = {port.key: port.id for port in self._here()}
        counted = {}
        try:
            for direction, table, whose in _TABLES:
                for fields, packets in await self._packets(table.number):
                    name = names.get(fields.get(FIELDS[whose.field], 0))
                    if name is not None:
                        counted[_Side(name, direction)] = packets
        except Disconnected:
            return None
        return counted
