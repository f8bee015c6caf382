"""Hears which shared addresses the ports of this chassis hold, and says so in the DF DB (``Holder``), in a scope of its own.

::

    punted: a port says that it has an address ──► heard ──► claimed ──┐
    every second ──► tick ──► questions to the ports                   ├──► what differs is written (``run``)
    rows: what stands, where ports are, what they may hold ────────────┘

Who announces an address has it from then on: the newest announcement wins, at once. What else shows that a port has one (an
answer, a question in its name) counts only while nobody is known to have it whose chassis lives: two who both answer, without
either having announced it, must not make it swing to and fro.

Level-triggered, as ``report``: rows that should stand are compared with those that do. Of a port that is only prepared here (the
target of a live migration) the rows of the chassis where it runs are copied, so they count in the moment in which it moves.

A port that has an address is asked for it every ``REACHABLE`` seconds, and has it no more if it doesn't answer: its word that it
has lost it, or somebody's announcement, may have been lost while the controller was away. Ports that may have an address of which
nobody is known to have it are asked too, for who had it already before anybody listened doesn't announce it. (Of pairs with a
prefix no address is asked for by itself.) Questions come from the chassis's own MAC, and reach no other port.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

import msgspec

from dragonflow.apps.base import Answer
from dragonflow.apps.external import Speaker
from dragonflow.apps.l2 import to_port
from dragonflow.apps.shared import MOST, carrier, holder_of, is_owned, is_routed, may_hold, sharing
from dragonflow.apps.wiring import chassis_mac, is_standby, link_local, plugged
from dragonflow.controller.replica import Replica
from dragonflow.controller.view import View
from dragonflow.model import LAST_TURN, Alive, Holder, LogicalPort, LogicalSwitch, encode, holder_scope, place_of
from dragonflow.observe import metrics
from dragonflow.packet import arp, nd
from dragonflow.packet.errors import Malformed
from dragonflow.pipeline import PacketOut, Punted, PuntKind
from dragonflow.pubsub import news
from dragonflow.pubsub.protocol import PubSub
from dragonflow.store.protocol import Delete, Key, Put, Store, StoreError, Txn

LOG = logging.getLogger(__name__)

PERIOD = 1.0
"""Seconds between two calls of ``tick``, and between two questions to a port that doesn't answer."""

REACHABLE = 10.0
"""Seconds after which a port is asked whether it still has an address."""

TRIES = 5
"""Questions without an answer until a port has an address no more."""

VACANT = 5.0
"""Seconds between two questions to a port that may have an address that nobody is known to have."""

PACE = 0.3
"""Seconds between two transactions: ports that quarrel about an address must not keep the DF DB busy."""

CLAIMS, CLAIMS_AT_ONCE = 2.0, 2 * MOST
"""Claims a second that are written for a port, and at once: all its addresses may go to it twice. Later ones wait for their turn,
each in its latest form, so no guest has the DF DB, and all who follow it, follow its whims."""

_BATCH = 100
"""Rows a transaction (see ``report``)."""

_BACKOFF = (0.1, 1.0)
"""Seconds to wait after the first failed write, and at the most."""

_Address = IPv4Address | IPv6Address


class _Asked:
    """When to ask a port next for an address, and how many questions it has not answered."""

    def __init__(self, ask: float) -> None:
        self.ask, self.unanswered = ask, 0


class Holders:
    """``on_news`` is called when the replica has learnt something; ``clock`` tells seconds that only ever grow, ``now`` those of
    the epoch."""

    def __init__(
        self,
        store: Store,
        bus: PubSub,
        replica: Replica,
        chassis: str,
        on_news: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._bus = bus
        self._replica = replica
        self._chassis = chassis
        self._on_news = on_news
        self._clock = clock
        self._now = now
        self._claimed: dict[str, Holder] = {}
        """What was heard and isn't written yet, by place; turns are given when it is."""
        self._paid: dict[str, float] = {}
        """Until when each port has used up its claims, at ``CLAIMS`` a second; not of those that have all left."""
        self._asked: dict[str, _Asked] = {}
        """The ports that are asked, by the id of the row that they have, or might have."""
        self._wake = asyncio.Event()
        self.trouble: str | None = None
        """Why the rows can't be written now; None while they can."""

    def handlers(self) -> Mapping[PuntKind, Answer]:
        """What it answers; for ``Answerer``."""
        return {PuntKind.ADDRESS_HELD: self.heard}

    def heard(self, punted: Punted, view: View) -> Iterator[PacketOut]:
        """A port of this chassis says that it has an address; nothing is to be answered."""
        port = view.get(LogicalPort, punted.data.decode())
        try:
            address, mac, announced = _read(punted.packet)
        except Malformed:
            return iter(())
        if port is not None and plugged(port, view) is not None and may_hold(port, address, mac):
            self._take(port, address, mac, announced, view)
        return iter(())

    def _take(self, port: LogicalPort, address: _Address, mac: str, announced: bool, view: View) -> None:
        row = Holder(
            id=Holder.name(self._chassis, port.id, str(address)),
            chassis=self._chassis,
            network=port.network,
            port=port.id,
            address=str(address),
            mac=mac,
            turn=0,
            at=self._now(),
        )
        if (asked := self._asked.get(row.id)) is not None:
            asked.ask, asked.unanswered = self._clock() + REACHABLE, 0
        known = self._claimed.get(row.place) or holder_of(row.network, row.address, view)
        if known is not None and (
            (known.id, known.mac) == (row.id, mac) or not (announced or self._is_lost(known, view))
        ):
            return
        if not any(address in prefix for prefix in sharing(port, view)):
            return
        held = self._held(port.id)
        if row.id in held or len(held) < MOST:
            self._claimed[row.place] = row
            self._wake.set()

    def tick(self, view: View) -> Iterator[PacketOut]:
        """What to ask now. To be called every ``PERIOD`` seconds, when places are known."""
        self._wake.set()
        self._paid = {port: until for port, until in self._paid.items() if until > self._clock()}
        now, wanted = self._clock(), dict[str, tuple[LogicalPort, _Address, bool]]()
        for port in view.where(LogicalPort, chassis=self._chassis):
            if port.address_pairs:
                for address, has_it in self._to_ask(port, view):
                    wanted[Holder.name(self._chassis, port.id, str(address))] = port, address, has_it
        self._asked = {name: self._asked.get(name) or _Asked(now) for name in wanted}
        for name, (port, address, has_it) in wanted.items():
            asked, network = self._asked[name], view.get(LogicalSwitch, port.network)
            if asked.ask > now or network is None:
                continue
            asked.ask = now + (PERIOD if has_it else VACANT)
            asked.unanswered = asked.unanswered + 1 if has_it else 0
            if plugged(port, view) is not None:
                yield PacketOut(_question(network, self._chassis, address), to_port(port))

    def _to_ask(self, port: LogicalPort, view: View) -> Iterator[tuple[_Address, bool]]:
        """The addresses for which a port is to be asked, and whether it is known to have them."""
        asked = set[str]()
        for row in view.where(Holder, port=port.id):
            if row.chassis == self._chassis and row.address not in asked:
                asked.add(row.address)
                yield ip_address(row.address), True
        for prefix in sharing(port, view):
            address = prefix.network_address
            if prefix.num_addresses == 1 and str(address) not in asked:
                said = holder_of(port.network, str(address), view)
                if said is None or self._is_lost(said, view):
                    yield address, False

    def _is_lost(self, row: Holder, view: View) -> bool:
        """Whether nobody looks after the row any more: its chassis is dead."""
        return row.chassis != self._chassis and view.get(Alive, row.chassis) is None

    def _held(self, port: str) -> set[str]:
        """The ids of the rows that the port has, or will have."""
        rows = self._replica.where(Holder, port=port)
        return {row.id for row in (*rows, *self._claimed.values()) if row.port == port and row.chassis == self._chassis}

    # What is written

    async def run(self) -> None:
        """Write what differs, as often as something changes; failed writes are tried again with backoff and jitter."""
        delay, most = _BACKOFF
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                changed = await self._write()
            except StoreError as error:
                metrics.STORE_FAILURES.inc()
                if self.trouble is None:
                    LOG.warning("who holds shared addresses can't be written, trying on: %s", error)
                self.trouble = str(error)
                self._wake.set()
                await asyncio.sleep(delay * random.uniform(0.8, 1.2))
                delay = min(delay * 2, most)
                continue
            if self.trouble is not None:
                LOG.info("who holds shared addresses is written again")
            self.trouble, delay = None, _BACKOFF[0]
            if changed:
                self._on_news()
                await asyncio.sleep(PACE)

    async def _write(self) -> bool:
        """Write what differs; what was claimed meanwhile waits for the next time. Returns whether anything did."""
        if holder_scope(self._chassis) not in self._replica.scopes:
            return False
        claimed, paid = self._affordable()
        standing = {row.id: row for row in self._replica.where(Holder, chassis=self._chassis)}
        wanted = {row.id: row for row in self._wanted(standing.values(), claimed.values())}
        changes = [(row, True) for row in wanted.values() if standing.get(row.id) != row]
        changes += [(row, False) for row in standing.values() if row.id not in wanted]
        for start in range(0, len(changes), _BATCH):
            batch = changes[start : start + _BATCH]
            writes = (Put(_key(row), encode(row)) if stands else Delete(_key(row)) for row, stands in batch)
            revision = await news.commit(self._store, self._bus, Txn(tuple(writes)))
            for row, stands in batch:
                if stands:
                    self._replica.upsert(row, revision)
                else:
                    self._replica.remove(Holder, row.id, revision, row.scope)
        self._paid.update(paid)
        for place, row in claimed.items():
            if self._claimed.get(place) is row:
                del self._claimed[place]
        return bool(changes)

    def _affordable(self) -> tuple[dict[str, Holder], dict[str, float]]:
        """What is claimed and may be written now, and what ports have used up once it is."""
        now, claimed, paid = self._clock(), dict[str, Holder](), dict[str, float]()
        for place, row in self._claimed.items():
            until = max(paid.get(row.port, self._paid.get(row.port, now)), now) + 1 / CLAIMS
            if until - now <= CLAIMS_AT_ONCE / CLAIMS:
                claimed[place], paid[row.port] = row, until
        return claimed, paid

    def _wanted(self, standing: Iterable[Holder], claimed: Iterable[Holder]) -> Iterator[Holder]:
        """The rows that should stand."""
        found = [row for row in standing if self._stands(row)]
        found += self._copies()
        for row in claimed:
            others = self._replica.where(Holder, place=row.place)
            if carrier(row, self._replica) is not None:
                turn = 1 + max((other.turn for other in others), default=0)
                found.append(msgspec.structs.replace(row, turn=min(turn, LAST_TURN)))
        owned = self._owned({row.network for row in found})
        return (row for row in found if row.place not in owned)

    def _stands(self, row: Holder) -> bool:
        """Whether a row of this chassis goes on to stand: it is the one that counts, and its port has not fallen silent."""
        network, asked = self._replica.get(LogicalSwitch, row.network), self._asked.get(row.id)
        if network is None or not is_routed(network, self._replica) or (asked and asked.unanswered > TRIES):
            return False
        return holder_of(row.network, row.address, self._replica) == row

    def _copies(self) -> Iterator[Holder]:
        """Of ports that are only prepared here, what the chassis says where they run."""
        for row in self._replica.all(Holder):
            port = self._replica.get(LogicalPort, row.port)
            if port is None or row.chassis != port.chassis or not is_standby(port, self._chassis):
                continue
            if holder_of(row.network, row.address, self._replica) == row:
                name = Holder.name(self._chassis, row.port, row.address)
                yield msgspec.structs.replace(row, id=name, chassis=self._chassis)

    def _owned(self, networks: Collection[str]) -> set[str]:
        """The addresses of these networks, as places, that ports have as their own, which nobody else may hold."""
        return {
            place_of(network, ip)
            for network in networks
            for name in self._replica.ids(LogicalPort, network=network)
            if (port := self._replica.get(LogicalPort, name)) is not None and is_owned(port)
            for ip in port.ips
        }


def _key(row: Holder) -> Key:
    return Key(row.scope, Holder.__name__, row.id)


def _read(frame: bytes) -> tuple[_Address, str, bool]:
    """Who says that it has which address, with which MAC, and whether unasked. :raises Malformed: it says nothing of the kind."""
    if frame[12:14] == b"\x86\xdd":
        advertised = nd.read(frame)
        if advertised.mac is None:
            raise Malformed("a neighbour advertisement without a MAC")
        return advertised.address, advertised.mac.hex(":"), advertised.announced
    told = arp.read(frame)
    return told.address, told.mac.hex(":"), told.announced


def _question(network: LogicalSwitch, chassis: str, address: _Address) -> bytes:
    """The frame that asks who has the address, in nobody's name, or as the link-local address of the chassis's own MAC."""
    own = chassis_mac(chassis)
    own_address = IPv4Address(0) if address.version == 4 else IPv6Address(link_local(own))
    return Speaker(network, own, own_address).asks(address)
