"""Finds the MACs of neighbours on physical networks: asks by ARP or ND, listens, keeps asking, and forgets.

::

    punted: nobody knows the next hop ──► wanted ──► a question               the packet waits
    punted: an answer, an announcement ──► heard ──► Neighbour in the replica ──► flows (``apps.external``)
                                                └──► the packets that waited
    every second ──► tick ──┬► questions: gateways, who has not answered yet, who has not been heard of for long
                            └► to senders: there is no such host (``apps.unanswered``)

It speaks in the name of floating IPs that are here, or of the chassis (``apps.door``). What nobody asked for is not believed.
Everything is bounded: how many are known, how many are asked for, how many packets wait; and where there is no more room, it is
taken from the sender who has most of it, so one who looks for a whole prefix keeps no other from its neighbours, and no gateway
is forgotten. Who answers no more is forgotten after three questions, one a second; whose packet waited in vain is told, and the
next packet begins anew. After a restart of the controller it goes on with what the switch has in its flows.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_network

from dragonflow.apps import unanswered
from dragonflow.apps.base import Answer
from dragonflow.apps.delivery import Delivery
from dragonflow.apps.door import voice, voices
from dragonflow.apps.external import Speaker, gateways_of, next_hop, speaker, speakers
from dragonflow.controller.recall import Recalled, recall
from dragonflow.controller.replica import Replica
from dragonflow.controller.view import View
from dragonflow.model import LogicalSwitch, Neighbour, Subnet
from dragonflow.packet import arp, nd
from dragonflow.packet.errors import Malformed
from dragonflow.pipeline import NETWORK, SOURCE, Action, PacketOut, Punted, PuntKind, Resubmit, load
from dragonflow.switch.readback import Found

REACHABLE = 30.0
"""Seconds after which one who answered is asked again (RFC 4861 §10)."""

PERIOD = 1.0
"""Seconds between two questions to one who doesn't answer, and between two calls of ``tick``."""

TRIES = 3
"""Questions without an answer until one is forgotten."""

KNOWN, ASKED, WAITING = 1024, 256, 3
"""At most so many neighbours are known and asked for at a time, and so many packets wait for each."""


SETTLED = 1.0
"""Seconds that a MAC stands before another takes its place: who flaps mustn't have flows change with each packet."""

OURS = None
"""As the one for whom a neighbour is known: the chassis itself, for it is a gateway."""

_For = int | None
"""For whom a neighbour was looked for: the key of a port, 0 of nobody's here; or ``OURS``."""


class _Known:
    """One who has answered: its MAC, since when, when to ask next, and how many questions it has not answered since."""

    def __init__(self, mac: bytes, wanted_by: _For, since: float) -> None:
        self.mac, self.wanted_by, self.since = mac, wanted_by, since
        self.ask, self.unanswered = since + REACHABLE, 0


class _Asked:
    """One who has yet to answer: in whose name it is asked, how often it was, and the packets that wait."""

    def __init__(self, speaker: Speaker, wanted_by: _For) -> None:
        self.speaker, self.wanted_by, self.tries, self.packets = speaker, wanted_by, 0, list[Punted]()


_Address = IPv4Address | IPv6Address

_Id = tuple[str, _Address]
"""The id of the network, and the address."""

_Here = Mapping[tuple[str, int], list[Speaker]]
"""Who may ask, by the id of the network and the IP version."""


class Neighbours:
    """``on_news`` is called when the replica has learnt something. ``clock`` tells seconds that only ever grow."""

    def __init__(
        self, replica: Replica, on_news: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._replica = replica
        self._on_news = on_news
        self._clock = clock
        self._known: dict[_Id, _Known] = {}
        self._asked: dict[_Id, _Asked] = {}
        self._recalled: Sequence[Recalled] | None = None

    def recall(self, found: Found) -> None:
        """What a switch had when it was read back. Of the first one it is kept, for ``begin``."""
        if self._recalled is None:
            self._recalled = tuple(recall(found.flows))

    def begin(self) -> None:
        """Take over what the controller before knew, so that its flows stay; to be called when all rows are there.

        They are asked again at the next tick, and forgotten if they don't answer.
        """
        networks = {network.key: network.id for network in self._replica.all(LogicalSwitch)}
        for network, address, mac in self._recalled or ():
            if network in networks:
                self._learn((networks[network], address), mac, 0)
                self._known[networks[network], address].ask = self._clock()

    def handlers(self) -> Mapping[PuntKind, Answer]:
        """What it answers; for ``Answerer``."""
        heard = dict.fromkeys((PuntKind.NEIGHBOUR_HEARD, PuntKind.NEIGHBOUR_KEPT), self.heard)
        return {PuntKind.NEIGHBOUR_WANTED: self.wanted, **heard}

    def wanted(self, punted: Punted, view: View) -> Iterator[PacketOut]:
        """A packet for whose next hop there is no flow: ask, and keep it. Its flow names a floating IP's port here, or nobody."""
        version = 6 if _is_ipv6(punted.packet) else 4
        found = _speaker(punted, version, view)
        if found is None:
            return
        it = found.network.id, next_hop(version, punted.read)
        if (known := self._known.get(it)) is not None:  # its flow is on the way to the switch
            yield _send(punted.packet, known.mac, found.network)
            return
        asked = self._asked.get(it)
        if asked is None:
            wanted_by = punted.read(SOURCE)
            if len(self._asked) >= ASKED and not self._make_room(wanted_by):
                return
            asked = self._asked[it] = _Asked(found, wanted_by)
            asked.tries = 1
            yield _ask(found, it[1])
        if len(asked.packets) < WAITING:
            asked.packets.append(punted)

    def _make_room(self, wanted_by: _For) -> bool:
        """Ask no longer for the latest of those that one sender wants who wants more than this one; False if none does."""
        greediest, share = _greediest(self._asked)
        if greediest is OURS or share <= sum(1 for it in self._asked.values() if it.wanted_by == wanted_by) + 1:
            return False
        del self._asked[next(it for it, asked in reversed(self._asked.items()) if asked.wanted_by == greediest)]
        return True

    def heard(self, punted: Punted, view: View) -> Iterator[PacketOut]:
        """Somebody on the physical network says which MAC it has. It counts if it was asked for, now or before."""
        try:
            address, mac, override = _read(punted.packet)
        except Malformed:
            return
        network = view.get(LogicalSwitch, punted.data.decode())
        it = punted.data.decode(), address
        asked, known = self._asked.get(it), self._known.get(it)
        if known is not None and mac is None:
            mac = known.mac
        if network is None or mac is None or (asked is None and known is None):
            return
        if known is not None and mac != known.mac:
            if not override:
                return
            if self._clock() < known.since + SETTLED:
                known.ask, known.unanswered = known.since + SETTLED, 1  # then all are asked
                return
        self._asked.pop(it, None)
        self._learn(it, mac, 0 if asked is None else asked.wanted_by)
        for waited in () if asked is None else asked.packets:
            yield _send(waited.packet, mac, network)

    def tick(self, view: View) -> Iterator[PacketOut]:
        """What to ask now. To be called every ``PERIOD`` seconds."""
        here: dict[tuple[str, int], list[Speaker]] = {}
        for found in (*speakers(view), *voices(view)):
            here.setdefault((found.network.id, found.address.version), []).append(found)
        self._want_gateways(here, view)
        yield from self._ask_on(view)
        yield from self._ask_again(here, view)

    def _want_gateways(self, here: _Here, view: View) -> None:
        """Gateways of external networks are found before a packet wants them."""
        for (network, version), its in here.items():
            for gateway in gateways_of(its[0].network, view):
                it = network, gateway
                if gateway.version != version:
                    continue
                if (found := self._known.get(it) or self._asked.get(it)) is not None:
                    found.wanted_by = OURS
                elif len(self._asked) < ASKED or self._make_room(OURS):
                    self._asked[it] = _Asked(_best(its, gateway, view), OURS)

    def _ask_on(self, view: View) -> Iterator[PacketOut]:
        for it, asked in list(self._asked.items()):
            if asked.tries >= TRIES:
                del self._asked[it]
                for waited in asked.packets:
                    yield from unanswered.tell(waited, view)
                continue
            asked.tries += 1
            yield _ask(asked.speaker, it[1])

    def _ask_again(self, here: _Here, view: View) -> Iterator[PacketOut]:
        now = self._clock()
        for it, known in list(self._known.items()):
            network, address = it
            its = here.get((network, address.version))
            if its is not None and known.ask > now:
                continue
            if its is None or known.unanswered >= TRIES:
                self._forget(it)
            else:
                known.unanswered += 1
                known.ask = now + PERIOD
                to = known.mac if known.unanswered == 1 else None  # it may have moved to another MAC
                yield _ask(_best(its, address, view), address, to)

    def _learn(self, it: _Id, mac: bytes, wanted_by: _For) -> None:
        known = self._known.get(it)
        if known is not None and known.mac == mac:
            known.ask, known.unanswered = self._clock() + REACHABLE, 0
            return
        if known is None and len(self._known) >= KNOWN:
            greediest, _ = _greediest(self._known)
            self._forget(next(other for other, its in self._known.items() if its.wanted_by == greediest))
        self._known[it] = _Known(mac, wanted_by if known is None else known.wanted_by, self._clock())
        network, address = it
        self._replica.upsert_neighbour(
            Neighbour(id=f"{network}/{address}", network=network, address=str(address), mac=mac.hex(":"))
        )
        self._on_news()

    def _forget(self, it: _Id) -> None:
        del self._known[it]
        network, address = it
        self._replica.remove_neighbour(f"{network}/{address}")
        self._on_news()


def _greediest(neighbours: Mapping[_Id, _Known] | Mapping[_Id, _Asked]) -> tuple[_For, int]:
    """For whom most of them are there, and how many; gateways count only where there is nothing else."""
    shares = Counter(it.wanted_by for it in neighbours.values() if it.wanted_by is not OURS)
    return shares.most_common(1)[0] if shares else (OURS, 0)


def _speaker(punted: Punted, version: int, view: View) -> Speaker | None:
    """In whose name to ask: of the port that the packet's flow names, or of any that may in the network where the packet is."""
    if punted.data:
        named = speaker(punted.data.decode(), view)
        return named if named is not None and named.address.version == version else None
    network = next(iter(view.where(LogicalSwitch, key=punted.read(NETWORK))), None)
    if network is None:
        return None
    own = (it for it in speakers(view) if it.network.id == network.id and it.address.version == version)
    return next(own, None) or voice(network, version, view)


def _best(its: list[Speaker], address: _Address, view: View) -> Speaker:
    """One of the same subnet if there is any: not every host answers others."""
    for subnet in view.where(Subnet, network=its[0].network.id):
        prefix = ip_network(subnet.cidr)
        if address in prefix:
            return next((it for it in its if it.address in prefix), its[0])
    return its[0]


def _is_ipv6(frame: bytes) -> bool:
    return frame[12:14] == b"\x86\xdd"


def _read(frame: bytes) -> tuple[_Address, bytes | None, bool]:
    """Who has which MAC, if it says so, and whether that counts more than what was known. :raises Malformed: it says nothing."""
    if _is_ipv6(frame):
        advertised = nd.read(frame)
        return advertised.address, advertised.mac, advertised.override
    told = arp.read(frame)
    return told.address, told.mac, True


def _ask(speaker: Speaker, address: _Address, to: bytes | None = None) -> PacketOut:
    return PacketOut(speaker.asks(address, to), _outside(speaker.network))


def _send(frame: bytes, mac: bytes, network: LogicalSwitch) -> PacketOut:
    """A frame that is whole but for its receiver's MAC."""
    return PacketOut(mac + frame[6:], _outside(network))


def _outside(network: LogicalSwitch) -> tuple[Action, ...]:
    """To the physical network alone: nobody else can answer."""
    return load(NETWORK, network.key), Resubmit(Delivery.outside.number)
