"""What tells of refused packets, and in which words; tests/dataplane/test_drops.py sends the packets."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from scapy.layers.dhcp6 import DHCP6_Reply
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from dragonflow.apps import APPS
from dragonflow.apps.drops import Drops
from dragonflow.apps.firewall.egress import Egress
from dragonflow.apps.firewall.guard import Guard
from dragonflow.apps.firewall.ingress import Ingress
from dragonflow.apps.firewall.why import INVALID, NO_RULE, NOT_READY, RULE_GONE, UNREADABLE, why
from dragonflow.model import EVERY_PORT, AddressPair, LogicalPort, Watched
from dragonflow.pipeline import Fact, Flow, Meter, Punt, Punted, PuntKind, Track
from dragonflow.pipeline.fields import FIELDS
from dragonflow.pipeline.registers import WHOSE
from dragonflow.testing import worlds
from dragonflow.testing.oracle import compile_world
from dragonflow.testing.worlds import World

PORT = worlds.port("a", 11, address_pairs=(AddressPair("10.9.0.0/24"),))
OTHER = worlds.port("b", 12)
ETHER = Ether(src=PORT.mac, dst="02:00:00:00:00:99")
SPOOFED = "spoofed source: "


def world_of(port: LogicalPort, *watched: Watched) -> World:
    rows = worlds.network(), worlds.OPEN, port, OTHER, *worlds.bindings(port), *worlds.bindings(OTHER)
    return World.of(worlds.ME, *rows, worlds.tap("a", 1), worlds.tap("b", 2), *watched)


def drops_of(*watched: str, port: LogicalPort = PORT) -> dict[str, tuple[Fact, ...]]:
    facts = compile_world(APPS, world_of(port, *(Watched(id=it) for it in watched))).facts
    return {owner.id: found for owner, found in facts.items() if (owner.app, owner.kind) == ("drops", "LogicalPort")}


def test_nothing_is_there_while_nobody_asks_and_then_for_whom_one_asks() -> None:
    assert not drops_of()
    assert set(drops_of("a")) == {"a"}
    every = drops_of(EVERY_PORT, "a")
    assert set(every) == {"a", "b"}
    flows = [it for it in every["a"] if isinstance(it, Flow)]
    assert {it.table for it in flows} == {Drops.sent.number, Drops.received.number}
    assert all(isinstance(it.actions[-1], Punt) and len(it.actions) == 3 for it in flows)
    meters = {port: {it.id for it in facts if isinstance(it, Meter)} for port, facts in every.items()}
    assert len(meters["a"] & meters["b"]) == 1
    assert len(meters["a"] | meters["b"]) == 5


@pytest.mark.parametrize("change", [{"port_security": False}, {"chassis": "elsewhere"}, {"admin_up": False}])
def test_of_ports_to_which_nothing_is_refused_here_nothing_is_told(change: dict[str, Any]) -> None:
    assert "a" not in drops_of(EVERY_PORT, port=replace(PORT, **change))


SENT = {
    "MAC": (Ether(src=OTHER.mac) / IP(src="10.0.0.11") / UDP(), SPOOFED + f"MAC {OTHER.mac} isn't the port's"),
    "IPv4": (ETHER / IP(src="10.0.0.12") / UDP(), SPOOFED + "address 10.0.0.12 isn't the port's"),
    "IPv6": (ETHER / IPv6(src="fd00::c") / UDP(), SPOOFED + "address fd00::c isn't the port's"),
    "ARP": (ETHER / ARP(hwsrc=PORT.mac, psrc="10.0.0.12"), SPOOFED + "ARP sender address 10.0.0.12 isn't the port's"),
    "ARP MAC": (ETHER / ARP(hwsrc=OTHER.mac), SPOOFED + f"ARP sender MAC {OTHER.mac} isn't the port's"),
    "advertised": (
        ETHER / IPv6(src="fd00::b") / ICMPv6ND_NA(tgt="fd00::c") / ICMPv6NDOptDstLLAddr(lladdr=PORT.mac),
        SPOOFED + "neighbour discovery claims fd00::c, which isn't the port's",
    ),
    "duplicate address detection": (
        ETHER / IPv6(src="::") / ICMPv6ND_NS(tgt="fd00::c"),
        SPOOFED + "neighbour discovery claims fd00::c, which isn't the port's",
    ),
    "advertised MAC": (
        ETHER / IPv6(src="fd00::b") / ICMPv6ND_NA(tgt="fd00::b") / ICMPv6NDOptDstLLAddr(lladdr=OTHER.mac),
        SPOOFED + f"neighbour discovery MAC {OTHER.mac} isn't the port's",
    ),
    "DHCP": (ETHER / IP(src="10.0.0.11") / UDP(sport=67, dport=68), "only DHCP servers send this"),
    "DHCPv6": (ETHER / IPv6() / UDP(sport=547, dport=546) / DHCP6_Reply(), "only DHCP servers send this"),
    "router": (ETHER / IPv6(src="fe80::ff:fe00:b") / ICMPv6ND_RA(), "only routers send this"),
    "EtherType": (Ether(src=PORT.mac, type=0x88CC) / b"x", "EtherType 0x88cc isn't permitted"),
    "pair": (ETHER / IP(src="10.9.0.7") / UDP(), UNREADABLE),
}


def reason(frame: Ether, *, sent: bool = True, ready: bool = True, **fields: int) -> str:
    """Why a packet is refused that came to its end with these fields; ``whose`` is the port whose rules were asked."""
    bits = {FIELDS[WHOSE.field]: fields.pop("whose", 0), **{FIELDS[name]: value for name, value in fields.items()}}
    return why(Punted(PuntKind.REFUSED_SENT, b"a", bytes(frame), 1, bits), PORT, sent=sent, ready=ready)


@pytest.mark.parametrize("name", SENT)
def test_port_security_says_which_check_failed(name: str) -> None:
    frame, expected = SENT[name]
    assert reason(frame) == expected


def test_what_a_port_gets_is_not_held_to_its_addresses() -> None:
    other = Ether(src=OTHER.mac) / IP(src="10.0.0.12") / UDP()
    assert reason(other, sent=False, ready=False) == NOT_READY
    assert reason(other, sent=False, whose=OTHER.key) == UNREADABLE  # its sender's rules were asked
    assert "0x88cc" in reason(Ether(type=0x88CC) / b"x", sent=False)


@pytest.mark.parametrize(
    ("state", "mark", "expected"),
    [
        (0, 0, NO_RULE),
        (0x21, 0, NO_RULE),
        (0x25, 1, NO_RULE),
        (0x22, 1, RULE_GONE),
        (0x2A, 2, RULE_GONE),
        (0x22, 0, INVALID),
        (0x30, 0, INVALID),
        (0x32, 1, INVALID),
    ],
    ids=["stateless", "new", "related", "established", "answer", "unmarked", "invalid", "invalid of a connection"],
)
def test_of_what_the_rules_were_asked_its_connection_says_why(state: int, mark: int, expected: str) -> None:
    frame = ETHER / IP(src="10.0.0.11") / UDP()
    for sent in (True, False):
        assert reason(frame, sent=sent, whose=PORT.key, ct_state=state, ct_mark=mark) == expected


def test_nothing_is_refused_that_could_not_be_told() -> None:
    tables = {it.number for app in (Guard, Egress, Ingress) for it in app.tables()}
    flows = (it for facts in compile_world(APPS, world_of(PORT)).facts.values() for it in facts if isinstance(it, Flow))
    for flow in flows:
        if flow.table in tables and flow.goto is None:
            assert any(isinstance(it, Track) and it.table is not None for it in flow.actions), flow
