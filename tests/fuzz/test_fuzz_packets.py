"""Packets of guests and of machines outside: whatever they hold, a handler answers or is silent, and it answers who asked."""

from __future__ import annotations

import contextlib
import functools
import struct
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from random import Random
from typing import NamedTuple

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DUID_LL, DHCP6_InfoRequest, DHCP6_Request, DHCP6_Solicit, DHCP6OptClientId, DHCP6OptIA_NA
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6PacketTooBig,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether

from dragonflow.apps import APPS
from dragonflow.apps.base import Answer
from dragonflow.apps.l2 import to_port
from dragonflow.controller.answer import WAITING, Answerer
from dragonflow.controller.drops import DropLog
from dragonflow.controller.engine import Engine
from dragonflow.controller.holders import Holders
from dragonflow.controller.neighbours import ASKED, KNOWN, Neighbours
from dragonflow.controller.neighbours import WAITING as PACKETS
from dragonflow.controller.replica import Replica
from dragonflow.controller.view import View
from dragonflow.model import LogicalPort
from dragonflow.packet import arp, dhcpv4, dhcpv6, icmp, icmpv6, nat, nd, udp
from dragonflow.packet.errors import Malformed
from dragonflow.pipeline import NETWORK, SOURCE, Clone, Flow, PacketOut, Punt, Punted, PuntKind
from dragonflow.pipeline.fields import FIELDS, Field
from dragonflow.pipeline.registers import NEXT_HOP, ROUTER
from dragonflow.pubsub.memory import MemoryPubSub
from dragonflow.store.memory import MemoryStore
from dragonflow.switch.openflow.decode import Unreadable
from dragonflow.switch.packet_in import decode_packet_in, encode_packet_out
from dragonflow.testing import worlds
from dragonflow.testing.fuzz import fuzz, mutated

GUEST, OTHER, ROUTERS = "02:00:00:00:00:0b", "02:00:00:00:00:0c", "02:00:00:00:00:0a"
V4, V6 = "10.0.0.11", "fd00::b"


def frames() -> dict[str, list[bytes]]:
    """Good ones of each protocol that a handler reads."""
    broad, chaddr = Ether(src=GUEST, dst="ff:ff:ff:ff:ff:ff"), bytes.fromhex(GUEST.replace(":", ""))
    asks = IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / BOOTP(op=1, chaddr=chaddr, xid=7)
    kinds = ("discover", "request", "release", "inform", "decline")
    options = [
        ("param_req_list", [1, 3, 6, 15, 26, 119, 121]),
        ("requested_addr", V4),
        ("client_id", b"\x01" + chaddr),
        "end",
    ]
    v4 = [broad / asks / DHCP(options=[("message-type", kind), *options]) for kind in kinds]
    v6 = (
        Ether(src=GUEST, dst="33:33:00:01:00:02")
        / IPv6(src="fe80::ff:fe00:b", dst="ff02::1:2")
        / UDP(sport=546, dport=547)
    )
    client = DHCP6OptClientId(duid=DUID_LL(lladdr=GUEST)) / DHCP6OptIA_NA(iaid=1)
    six = [v6 / kind(trid=7) / client for kind in (DHCP6_Solicit, DHCP6_Request, DHCP6_InfoRequest)]
    to_router = Ether(src=GUEST, dst=ROUTERS)
    quoted = IP(src="203.0.113.61", dst="198.51.100.9", ttl=1) / UDP(sport=5, dport=6) / b"data"
    errors = [
        Ether(src=OTHER, dst=GUEST) / IP(src="198.51.100.9", dst="203.0.113.61") / ICMP(type=kind, code=code) / quoted
        for kind, code in ((3, 4), (11, 0), (12, 0), (3, 1))
    ]
    link = Ether(src=OTHER, dst="33:33:00:00:00:01") / IPv6(src="fe80::c", dst="ff02::1", hlim=255)
    neighbours = [
        broad / ARP(op=1, hwsrc=GUEST, psrc="10.0.0.99", pdst="10.0.0.99"),
        Ether(src=OTHER, dst=GUEST) / ARP(op=2, hwsrc=OTHER, psrc="203.0.113.1", hwdst=GUEST, pdst="203.0.113.61"),
        link / ICMPv6ND_NA(tgt="fd00::99", R=0, S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=OTHER),
        link / ICMPv6ND_NS(tgt="fd00::99") / ICMPv6NDOptSrcLLAddr(lladdr=OTHER),
        link / ICMPv6ND_RS() / ICMPv6NDOptSrcLLAddr(lladdr=OTHER),
    ]
    lost = [
        to_router / IP(src=V4, dst="192.0.2.200", ttl=1) / TCP(sport=5, dport=80),
        to_router / IP(src=V4, dst="203.0.113.9") / UDP(sport=5, dport=53) / (b"x" * 1400),
        to_router / IPv6(src=V6, dst="2001:db8::1", hlim=1) / ICMPv6EchoRequest(data=b"x" * 1300),
        to_router / IPv6(src=V6, dst="fd00::1") / ICMPv6PacketTooBig(mtu=1280) / IPv6(src="fd00::1", dst=V6) / UDP(),
    ]
    return {
        name: [bytes(it) for it in some]
        for name, some in (("v4", v4), ("v6", six), ("error", errors), ("neighbour", neighbours), ("lost", lost))
    }


GOOD = frames()
FRAMES = [frame for some in GOOD.values() for frame in some]


def fitting(kind: PuntKind) -> list[bytes]:
    """Those that flows of the kind punt."""
    word = {"DHCPV4": "v4", "DHCPV6": "v6", "ROUTER": "neighbour", "NEIGHBOUR": "lost", "ADDRESS": "neighbour"}.get(
        kind.name.partition("_")[0]
    )
    return GOOD[word or ("error" if "ERROR" in kind.name else "lost")]


class Ask(NamedTuple):
    """What a flow of a world punts."""

    world: str
    kind: PuntKind
    data: bytes


async def no_counters(table: int) -> list[tuple[dict[Field, int], int]]:
    return []


class Ground:
    """A world with everything that answers."""

    def __init__(self, name: str) -> None:
        world = worlds.STATES[name]()
        self.replica = Replica()
        worlds.load(self.replica, *world.objects)
        self.engine = Engine(APPS, self.replica, world.me)
        facts = self.engine.settle().facts
        self.me = world.me
        self.neighbours = Neighbours(self.replica, lambda: None, clock=lambda: 0.0)
        self.holders = Holders(MemoryStore(), MemoryPubSub(), self.replica, world.me.chassis, lambda: None)
        drops = DropLog(world.me.chassis, self.replica, no_counters, lambda: None, now=lambda: 0.0)
        self.following = drops.follow(None)  # somebody looks, so all of them are read
        with contextlib.suppress(StopIteration):
            self.following.asend(None).send(None)
        self.others = {**self.neighbours.handlers(), **self.holders.handlers(), **drops.handlers()}
        self.handlers: Mapping[int, Answer] = {
            **self.others,
            **{kind: handler for app in APPS for kind, handler in app.answering().items()},
        }
        flows = (fact for some in facts.values() for fact in some if isinstance(fact, Flow))
        actions = (action for flow in flows for action in flow.actions)
        spread = (it for action in actions for it in (action.actions if isinstance(action, Clone) else (action,)))
        self.asks = sorted({Ask(name, PuntKind(it.kind), it.data) for it in spread if isinstance(it, Punt)})
        self.keys = [0, *(port.key for port in self.replica.all(LogicalPort))]

    def view(self) -> View:
        return View(self.replica, self.engine.places, self.me, self.engine.serving)


@functools.cache
def grounds() -> dict[str, Ground]:
    return {name: Ground(name) for name in sorted(worlds.STATES)}


def make(random: Random) -> tuple[str, Punted]:
    ground = random.choice([it for it in grounds().values() if it.asks])
    ask = random.choice(ground.asks)
    registers = (NETWORK, SOURCE, ROUTER, *NEXT_HOP)
    fields = {FIELDS[it.field]: random.choice((0, 1, 4, 6, 10, 61, random.getrandbits(24))) for it in registers}
    fields[FIELDS[SOURCE.field]] = random.choice(ground.keys)
    frame = mutated(random, fitting(ask.kind) if random.random() < 0.8 else FRAMES)
    return ask.world, Punted(ask.kind, ask.data, frame, random.randrange(65536), fields)


def answers(world: str, punted: Punted) -> list[PacketOut]:
    ground = grounds()[world]
    outs = list(ground.handlers[punted.kind](punted, ground.view()))
    for out in outs:
        encode_packet_out(out)
    return outs


def check_answered(made: tuple[str, Punted]) -> list[PacketOut]:
    world, punted = made
    ground, outs = grounds()[world], answers(*made)
    port = ground.replica.get(LogicalPort, punted.data.decode(errors="replace"))
    if punted.kind in (PuntKind.DHCPV4, PuntKind.DHCPV6):
        assert port is not None
        assert len(outs) <= 1
        for out in outs:
            assert tuple(out.actions) == tuple(to_port(port)), "another port gets the answer"
            assert leases(out.packet) <= set(port.ips), "another port's address"
            assert out.packet[:6] in (mac(port), b"\xff" * 6)
    if punted.kind == PuntKind.ROUTER_SOLICITATION and port is not None:
        assert all(tuple(out.actions) == tuple(to_port(port)) for out in outs)
    if punted.kind == PuntKind.UNFORWARDED:
        received = icmp.read(punted.packet)
        assert len(outs) <= 1
        for out in outs:
            assert received is not None
            assert receiver(out.packet) == received.source, "somebody else is told"
            assert len(out.packet) <= 14 + (576 if received.version == 4 else 1280)
    known, asked = ground.neighbours._known, ground.neighbours._asked
    assert len(known) <= KNOWN
    assert len(asked) <= ASKED
    assert all(len(it.packets) <= PACKETS for it in asked.values())
    return outs


def mac(port: LogicalPort) -> bytes:
    return bytes.fromhex(port.mac.replace(":", ""))


def receiver(frame: bytes) -> IPv4Address | IPv6Address:
    return ip_address(frame[30:34] if frame[12:14] == b"\x08\0" else frame[38:54])


def leases(frame: bytes) -> set[str]:
    """The addresses that a server's answer gives, or says are in order."""
    payload = udp.read(frame).payload
    if frame[12:14] == b"\x08\0":
        yours = str(IPv4Address(payload[16:20]))
        return set() if yours == "0.0.0.0" else {yours}
    return {str(it) for it in _given(payload[4:])}


def _given(field: bytes) -> Iterator[IPv6Address]:
    """Of IA_NA options the addresses that are not withdrawn."""
    for code, value in dhcpv6._options(field):
        for inner, address in dhcpv6._options(value[12:]) if code == dhcpv6.Code.IA_NA else ():
            if inner == dhcpv6.Code.ADDRESS and address[20:24] != bytes(4):
                yield IPv6Address(address[:16])


def test_handlers_answer_whom_they_should_or_nobody() -> None:
    assert {ask.kind for ground in grounds().values() for ask in ground.asks} == set(PuntKind)
    answered = [0]

    def check(made: tuple[str, Punted]) -> None:
        answered[0] += bool(check_answered(made))

    fuzz(3000, make, check)
    assert answered[0] > 100, "most of what is tried is refused at once"


READERS = {
    "arp": arp.read,
    "nd": nd.read,
    "icmp": icmp.read,
    "icmpv6": icmpv6.read,
    "udp": udp.read,
    "dhcpv4": lambda frame: dhcpv4.read(frame[42:]),
    "dhcpv6": lambda frame: dhcpv6.read(frame[62:]),
    "nat in": lambda frame: nat.translate_inbound(frame, IPv4Address("203.0.113.61"), IPv4Address(V4)),
    "nat out": lambda frame: nat.translate_outbound(frame, IPv4Address("198.51.100.9"), IPv4Address(V4)),
}


@pytest.mark.parametrize("name", READERS)
def test_readers_refuse_in_their_own_words(name: str) -> None:
    reader = READERS[name]

    def check(frame: bytes) -> None:
        with contextlib.suppress(Malformed):
            reader(frame)

    fuzz(1500, lambda random: mutated(random, FRAMES), check)


def packet_ins() -> tuple[bytes, ...]:
    def prop(of: int, value: bytes) -> bytes:
        return struct.pack(">HH", of, 4 + len(value)) + value + bytes(-(4 + len(value)) % 8)

    fields = struct.pack(">HBBI", 0x8000, 0, 4, 5) + struct.pack(">HBBQ", 0x8001, 3 << 1, 8, 11)
    masked = struct.pack(">HBBQQ", 0x8000, 2 << 1 | 1, 16, 1, 0xFFFFFF)
    return tuple(
        prop(0, frame) + prop(6, fields + masked) + prop(7, b"\x01a") + prop(2, bytes(4)) for frame in FRAMES[:8]
    )


def test_what_a_switch_says_it_punted_is_read_or_refused_and_never_piles_up() -> None:
    good = packet_ins()
    decode_packet_in(good[0])
    ground = grounds()["served"]
    answerer = Answerer(APPS, ground.view, ground.others)

    def check(body: bytes) -> None:
        answerer.take(body)
        assert sum(map(len, answerer._waiting.values())) <= WAITING
        with contextlib.suppress(Unreadable):
            decode_packet_in(body)

    fuzz(4000, lambda random: mutated(random, good), check)
