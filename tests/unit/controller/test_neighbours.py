"""Asking for, hearing of and forgetting neighbours, by hand and with a clock of its own."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

import pytest
from msgspec.structs import replace

from dragonflow.apps import APPS
from dragonflow.apps.delivery import Delivery
from dragonflow.apps.wiring import chassis_mac, link_local
from dragonflow.controller import neighbours
from dragonflow.controller.engine import Engine
from dragonflow.controller.neighbours import ASKED, KNOWN, PERIOD, REACHABLE, SETTLED, TRIES, WAITING, Neighbours
from dragonflow.controller.replica import Object, Replica
from dragonflow.controller.view import View
from dragonflow.model import LogicalPort, Neighbour
from dragonflow.packet import arp, icmpv6, nd
from dragonflow.pipeline import NETWORK, SOURCE, PacketOut, Punted, PuntKind, Resubmit, load
from dragonflow.pipeline.fields import FIELDS
from dragonflow.pipeline.registers import NEXT_HOP
from dragonflow.testing import worlds

MAC = "02:ee:00:00:00:01"
GATEWAY, OTHER = "203.0.113.1", "203.0.113.9"
EXT = worlds.external()
OURS = next(it for it in worlds.FLOATING if isinstance(it, LogicalPort) and it.id == "port-fa")
FRAME = bytes.fromhex("ffffffffffff" + OURS.mac.replace(":", "") + "0800") + b"what a guest says"


def octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


class Ground:
    """A chassis with a floating IP, or what else the world has, and time."""

    def __init__(self, world: Sequence[Object] = worlds.FLOATING) -> None:
        self.now = 1000.0
        self.news = 0
        self.replica = Replica()
        worlds.load(self.replica, *(it for it in world if not isinstance(it, Neighbour)))
        self.engine = Engine(APPS, self.replica, worlds.ME)
        self.engine.settle()
        self.it = Neighbours(self.replica, self._told, clock=lambda: self.now)

    def _told(self) -> None:
        self.news += 1

    def view(self) -> View:
        return View(self.replica, self.engine.places, worlds.ME, self.engine.serving)

    def wanted(self, address: str, frame: bytes = FRAME, by: int = 11) -> list[PacketOut]:
        hop = {FIELDS[NEXT_HOP[0].field]: int(IPv4Address(address)), FIELDS[SOURCE.field]: by}
        return list(self.it.wanted(Punted(PuntKind.NEIGHBOUR_WANTED, b"port-fa", frame, 1, hop), self.view()))

    def heard(self, address: str, mac: str = MAC, network: bytes = b"ext") -> list[PacketOut]:
        frame = arp.announcement(octets(mac), IPv4Address(address))
        return list(self.it.heard(Punted(PuntKind.NEIGHBOUR_HEARD, network, frame, 110, {}), self.view()))

    def tick(self, seconds: float = PERIOD) -> list[PacketOut]:
        self.now += seconds
        return list(self.it.tick(self.view()))

    def known(self) -> dict[str, str]:
        return {it.address: it.mac for it in self.replica.all(Neighbour)}


@pytest.fixture
def ground() -> Ground:
    return Ground()


OUT = (load(NETWORK, EXT.key), Resubmit(Delivery.outside.number))


def question(address: str, to: bytes = arp.BROADCAST) -> PacketOut:
    return PacketOut(arp.request(octets(OURS.mac), IPv4Address("203.0.113.61"), IPv4Address(address), to), OUT)


def packet(mac: str, frame: bytes = FRAME) -> PacketOut:
    return PacketOut(octets(mac) + frame[6:], OUT)


def test_packets_wait_for_the_answer_and_go_out_by_it(ground: Ground) -> None:
    assert ground.wanted(OTHER) == [question(OTHER)]
    frames: Sequence[bytes] = [FRAME + bytes([number]) for number in range(5)]
    for frame in frames:
        assert ground.wanted(OTHER, frame) == [], "it was asked for already"
    waited = [FRAME, *frames][:WAITING]
    assert ground.heard(OTHER) == [packet(MAC, frame) for frame in waited]
    assert (ground.known(), ground.news) == ({OTHER: MAC}, 1)
    assert ground.wanted(OTHER) == [packet(MAC)], "until the switch has the flow"


def test_only_what_was_asked_for_is_believed(ground: Ground) -> None:
    assert ground.heard(OTHER) == []
    ground.wanted(OTHER)
    assert ground.heard(GATEWAY) == []
    assert ground.heard(OTHER, network=b"elsewhere") == []
    assert ground.known() == {}
    ground.heard(OTHER)
    assert ground.known() == {OTHER: MAC}


def test_one_that_moves_to_another_mac_is_followed(ground: Ground) -> None:
    ground.wanted(OTHER)
    ground.heard(OTHER)
    ground.heard(OTHER)
    assert ground.news == 1, "nothing new"
    ground.now += SETTLED
    ground.heard(OTHER, "02:ee:00:00:00:02")
    assert (ground.known(), ground.news) == ({OTHER: "02:ee:00:00:00:02"}, 2)


def test_one_that_moves_to_and_fro_is_asked_which_it_is(ground: Ground) -> None:
    ground.wanted(OTHER)
    ground.heard(OTHER)
    for number in range(100):
        ground.heard(OTHER, f"02:ee:00:00:00:{number:02x}")
    assert (ground.known(), ground.news) == ({OTHER: MAC}, 1), "no flow changes with each packet"
    assert question(OTHER) in ground.tick()
    ground.heard(OTHER, "02:ee:00:00:00:02")
    assert (ground.known(), ground.news) == ({OTHER: "02:ee:00:00:00:02"}, 2)


def test_who_looks_for_very_many_takes_no_room_from_others(ground: Ground) -> None:
    many = [str(IPv4Address("203.0.113.0") + number) for number in range(64, 64 + ASKED + 50)]
    for address in many[:ASKED]:
        assert ground.wanted(address, by=1) == [question(address)]
    assert ground.wanted(many[ASKED], by=1) == [], "no more of one than there is room"
    assert ground.tick()[0] == question(many[0])
    for address in many[ASKED + 1 : ASKED + 11]:
        assert ground.wanted(address, by=2) == [question(address)]
    assert question(GATEWAY) in ground.tick(), "a gateway finds room too"


def test_who_knows_very_many_makes_nobody_forget_others_nor_a_gateway(ground: Ground) -> None:
    ground.tick()
    ground.heard(GATEWAY)
    ground.wanted(OTHER, by=1)
    ground.heard(OTHER)
    ground.tick()
    for number in range(KNOWN + 50):
        address = str(IPv4Address("10.9.0.0") + number)
        ground.wanted(address, by=2)
        ground.heard(address)
    assert len(ground.known()) == KNOWN
    assert {GATEWAY, OTHER} <= ground.known().keys()


def test_who_does_not_answer_is_asked_thrice_and_given_up(ground: Ground) -> None:
    ground.it.tick = lambda view: iter(it for it in Neighbours.tick(ground.it, view) if it != question(GATEWAY))  # type: ignore[method-assign]
    asked = ground.wanted(OTHER)
    for _ in range(10):
        asked += ground.tick()
    assert asked == [question(OTHER)] * TRIES
    assert ground.heard(OTHER) == [], "nobody waits any more"
    assert ground.wanted(OTHER) == [question(OTHER)], "and begins anew"


def test_gateways_are_asked_for_before_anybody_wants_them(ground: Ground) -> None:
    assert ground.tick() == [question(GATEWAY)]
    ground.heard(GATEWAY)
    assert ground.tick() == []
    assert ground.known() == {GATEWAY: MAC}


def test_who_is_known_is_asked_again_and_forgotten_when_silent(ground: Ground) -> None:
    ground.tick()
    ground.heard(GATEWAY)
    assert ground.tick(REACHABLE - 1) == []
    assert ground.tick() == [question(GATEWAY, octets(MAC))], "first it alone"
    ground.heard(GATEWAY)
    assert ground.tick() == []
    ground.now += REACHABLE
    asked = [it for _ in range(TRIES) for it in ground.tick()]
    assert asked == [question(GATEWAY, octets(MAC)), question(GATEWAY), question(GATEWAY)]
    assert ground.known() == {GATEWAY: MAC}, "the last one may still be answered"
    ground.tick()
    assert ground.known() == {}


def test_without_a_way_there_nobody_is_asked_and_all_are_forgotten(ground: Ground) -> None:
    ground.tick()
    ground.heard(GATEWAY)
    ground.replica.remove_port("df-int-br-ex")
    ground.engine.settle()
    assert ground.tick() == []
    assert ground.known() == {}
    assert ground.wanted(OTHER) == []


def test_one_asks_in_the_name_of_the_same_subnet(ground: Ground) -> None:
    second, own = worlds.floating("f2", 64, "198.51.100.5", router="r", fixed_port="a", fixed_ip="10.0.0.11")
    own = replace(own, mac="02:00:00:00:00:99")
    subnet = worlds.subnet("ext5", "198.51.100.0/24", "ext", gateway_ip="198.51.100.1")
    worlds.load(ground.replica, second, own, subnet)
    ground.engine.settle()
    asks = arp.request(octets(own.mac), IPv4Address(second.address), IPv4Address("198.51.100.1"))
    assert ground.tick() == [question(GATEWAY), PacketOut(asks, OUT)]


def test_all_of_it_is_bounded(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "ASKED", 4)
    monkeypatch.setattr(neighbours, "KNOWN", 3)
    addresses = [f"203.0.113.{number}" for number in range(100, 110)]
    assert sum(len(ground.wanted(address)) for address in addresses) == 4
    for address in addresses[:4]:
        ground.heard(address)
    assert list(ground.known()) == addresses[1:4], "the one that was learnt first has gone"


def test_what_is_no_arp_is_nothing(ground: Ground) -> None:
    punted = Punted(PuntKind.NEIGHBOUR_HEARD, b"ext", b"nonsense", 110, {})
    assert list(ground.it.heard(punted, ground.view())) == []
    assert list(ground.it.wanted(replace(punted, data=b"gone"), ground.view())) == []


SIX, OURS_6 = IPv6Address("fd01::99"), IPv6Address(link_local(chassis_mac(worlds.ME.chassis)))
OWN, PEER, MOVED = octets(chassis_mac(worlds.ME.chassis)), octets(MAC), octets("02:ee:00:00:00:02")
GUESTS = bytes(12) + bytes.fromhex("86dd") + b"what a guest says"
OUT_6 = (load(NETWORK, 4), Resubmit(Delivery.outside.number))


class Ground6(Ground):
    """A chassis with a router on a VLAN, on which machines have IPv6 addresses."""

    def __init__(self) -> None:
        super().__init__(worlds.DOOR)

    def wants(self, frame: bytes = GUESTS) -> list[PacketOut]:
        words = (int.from_bytes(SIX.packed[at : at + 4], "big") for at in range(0, 16, 4))
        hop = {FIELDS[bits.field]: word for bits, word in zip(NEXT_HOP, words, strict=True) if word}
        hop[FIELDS[NETWORK.field]] = 4
        return list(self.it.wanted(Punted(PuntKind.NEIGHBOUR_WANTED, b"", frame, 1, hop), self.view()))

    def hears(self, mac: bytes | None = PEER, flags: int = nd.SOLICITED | nd.OVERRIDE) -> list[PacketOut]:
        option = b"" if mac is None else b"\x02\x01" + mac
        body = flags.to_bytes(4, "big") + SIX.packed + option
        frame = icmpv6.write((PEER, OWN), (SIX.packed, OURS_6.packed), 136, 0, body)
        return list(self.it.heard(Punted(PuntKind.NEIGHBOUR_HEARD, b"vlan", frame, 110, {}), self.view()))


def solicitation(to: bytes | None = None) -> PacketOut:
    return PacketOut(nd.solicitation(OWN, OURS_6, SIX, to), OUT_6)


def test_in_ipv6_the_chassis_asks_by_its_own_mac_and_asks_again() -> None:
    ground = Ground6()
    assert ground.hears() == [], "nobody asked"
    assert ground.wants() == [solicitation()]
    assert ground.hears() == [PacketOut(PEER + GUESTS[6:], OUT_6)]
    assert ground.known() == {str(SIX): MAC}
    assert ground.tick(REACHABLE - 1) == []
    assert ground.tick() == [solicitation(PEER)]
    assert ground.hears(None) == [], "it may leave out what the asker knows"
    assert ground.tick() == []
    ground.now += REACHABLE
    assert [it for _ in range(TRIES) for it in ground.tick()] == [solicitation(PEER), *[solicitation()] * 2]
    ground.tick()
    assert ground.known() == {}


def test_in_ipv6_an_answer_may_be_for_those_who_know_none() -> None:
    ground = Ground6()
    ground.wants()
    assert ground.hears(None) == [], "no MAC"
    assert ground.hears(PEER, nd.SOLICITED) == [PacketOut(PEER + GUESTS[6:], OUT_6)]
    ground.now += SETTLED
    ground.hears(MOVED, nd.SOLICITED)
    assert ground.known() == {str(SIX): MAC}
    ground.hears(MOVED, nd.OVERRIDE)
    assert ground.known() == {str(SIX): MOVED.hex(":")}
