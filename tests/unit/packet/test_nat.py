"""ICMP errors through a floating IP, read by scapy, which knows all checksums."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from dragonflow.packet.errors import Malformed
from dragonflow.packet.nat import translate_inbound, translate_outbound

ETHER = Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b")  # without one scapy asks the network for seconds
OUTSIDE, FLOATING, FIXED = "192.0.2.9", "203.0.113.5", "10.0.0.11"

QUOTED: dict[str, Any] = {
    "udp": UDP(sport=5000, dport=33434) / Raw(b"payload"),
    "udp without a checksum": UDP(sport=5000, dport=53, chksum=0) / Raw(b"payload"),
    "tcp": TCP(sport=5000, dport=80),
    "echo": ICMP() / Raw(b"payload"),
}


def error(source: str, target: str, quoted: Packet, kind: int = 3, **ip: Any) -> Packet:
    return ETHER / IP(src=source, dst=target, **ip) / ICMP(type=kind, code=1) / quoted


def built(packet: Packet) -> bytes:
    return bytes(packet)


@pytest.mark.parametrize("name", QUOTED)
@pytest.mark.parametrize("kind", [3, 11, 12])
def test_both_directions_are_translated_as_if_sent_so(name: str, kind: int) -> None:
    payload = QUOTED[name]
    sent = {address: IP(src=address, dst=OUTSIDE, id=7) / payload for address in (FLOATING, FIXED)}
    arrives = error(OUTSIDE, FLOATING, sent[FLOATING], kind)
    expected = error(OUTSIDE, FIXED, sent[FIXED], kind)
    assert translate_inbound(built(arrives), IPv4Address(FLOATING), IPv4Address(FIXED)) == built(expected)
    got = {address: IP(src=OUTSIDE, dst=address, id=7) / payload for address in (FLOATING, FIXED)}
    leaves = error(FIXED, OUTSIDE, got[FIXED], kind)
    expected = error(FLOATING, OUTSIDE, got[FLOATING], kind)
    assert translate_outbound(built(leaves), IPv4Address(FIXED), IPv4Address(FLOATING)) == built(expected)


def test_what_is_quoted_in_part_has_no_tcp_checksum_to_change() -> None:
    quoted = {
        it: Raw(bytes(IP(src=it, dst=OUTSIDE, id=7, len=600, chksum=0) / TCP(sport=1))[:28]) for it in (FLOATING, FIXED)
    }
    shown = translate_inbound(
        built(error(OUTSIDE, FLOATING, quoted[FLOATING])), IPv4Address(FLOATING), IPv4Address(FIXED)
    )
    assert Ether(shown)[IP].dst == FIXED
    assert shown[14 + 20 + 8 :][12:16] == IPv4Address(FIXED).packed
    assert shown[-8:] == bytes(quoted[FIXED])[-8:]


def test_options_are_passed_over() -> None:
    options = [IPOption_RR(routers=["0.0.0.0"])]
    quoted = {it: IP(src=it, dst=OUTSIDE, options=options) / UDP() for it in (FLOATING, FIXED)}
    arrives = error(OUTSIDE, FLOATING, quoted[FLOATING], options=options)
    expected = error(OUTSIDE, FIXED, quoted[FIXED], options=options)
    assert translate_inbound(built(arrives), IPv4Address(FLOATING), IPv4Address(FIXED)) == built(expected)


def test_a_wrong_checksum_stays_wrong() -> None:
    arrives = ETHER / IP(src=OUTSIDE, dst=FLOATING) / ICMP(type=3, chksum=0x1234) / IP(src=FLOATING) / UDP()
    shown = Ether(translate_inbound(built(arrives), IPv4Address(FLOATING), IPv4Address(FIXED)))
    told = shown[ICMP].chksum
    del shown[ICMP].chksum
    assert told != Ether(bytes(shown))[ICMP].chksum


@pytest.mark.parametrize(
    "packet",
    [
        ETHER / IP(src=OUTSIDE, dst=FLOATING) / ICMP(type=8) / IP(src=FLOATING) / UDP(),
        ETHER / IP(src=OUTSIDE, dst=FLOATING) / UDP() / IP(src=FLOATING) / UDP(),
        error(OUTSIDE, FLOATING, IP(src="192.0.2.77") / UDP()),
        error(OUTSIDE, "192.0.2.77", IP(src=FLOATING) / UDP()),
        error(OUTSIDE, FLOATING, Raw(b"nothing")),
        ETHER / Raw(b"nothing"),
    ],
)
def test_what_is_no_error_about_the_address_is_refused(packet: Packet) -> None:
    with pytest.raises(Malformed):
        translate_inbound(built(packet), IPv4Address(FLOATING), IPv4Address(FIXED))


def test_no_packet_that_is_cut_short_does_harm() -> None:
    whole = built(error(OUTSIDE, FLOATING, IP(src=FLOATING, dst=OUTSIDE) / UDP()))
    for length in range(len(whole) - 8):
        with pytest.raises(Malformed):
            translate_inbound(whole[:length], IPv4Address(FLOATING), IPv4Address(FIXED))
