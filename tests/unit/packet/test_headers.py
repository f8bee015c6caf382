"""What people are told of a frame."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Ether
from scapy.layers.sctp import SCTP

from dragonflow.packet.headers import Headers, read

A, B, C = "02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c"
V4 = {"source": "10.0.0.1", "destination": "10.0.0.2"}
V6 = {"source": "fd00::1", "destination": "fd00::2"}
IPV4, IPV6 = IP(src="10.0.0.1", dst="10.0.0.2"), IPv6(src="fd00::1", dst="fd00::2")

FRAMES = {
    "tcp": (IPV4 / TCP(sport=5, dport=6), {**V4, "protocol": 6, "source_port": 5, "destination_port": 6}),
    "options": (
        IP(src="10.0.0.1", dst="10.0.0.2", options=b"\1\1\1\1") / UDP(sport=5, dport=6),
        {**V4, "protocol": 17, "source_port": 5, "destination_port": 6},
    ),
    "icmp": (IPV4 / ICMP(type=3, code=1), {**V4, "protocol": 1, "icmp_type": 3, "icmp_code": 1}),
    "later fragment": (IP(src="10.0.0.1", dst="10.0.0.2", frag=9) / UDP(sport=5, dport=6), {**V4, "protocol": 17}),
    "gre": (IP(src="10.0.0.1", dst="10.0.0.2", proto=47) / b"1234", {**V4, "protocol": 47}),
    "sctp over IPv6": (IPV6 / SCTP(sport=5, dport=6), {**V6, "protocol": 132, "source_port": 5, "destination_port": 6}),
    "extension headers": (
        IPV6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrFragment(offset=0, m=1) / UDP(sport=5, dport=6),
        {**V6, "protocol": 17, "source_port": 5, "destination_port": 6},
    ),
    "later fragment of IPv6": (IPV6 / IPv6ExtHdrFragment(offset=9, nh=6) / b"12345678", {**V6, "protocol": 6}),
    "arp": (ARP(hwsrc=C, psrc="10.0.0.1", pdst="10.0.0.2"), {**V4, "claimed_mac": C}),
    "solicitation": (
        IPV6 / ICMPv6ND_NS(tgt="fd00::9") / ICMPv6NDOptSrcLLAddr(lladdr=C),
        {**V6, "protocol": 58, "icmp_type": 135, "icmp_code": 0, "target": "fd00::9", "claimed_mac": C},
    ),
    "advertisement": (
        IPV6 / ICMPv6ND_NA(tgt="fd00::9") / ICMPv6NDOptDstLLAddr(lladdr=C),
        {**V6, "protocol": 58, "icmp_type": 136, "icmp_code": 0, "target": "fd00::9", "claimed_mac": C},
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_addresses_ports_and_types_are_found(name: str) -> None:
    payload, expected = FRAMES[name]
    frame = Ether(bytes(Ether(src=A, dst=B) / payload))
    assert read(bytes(frame)) == Headers(eth_src=A, eth_dst=B, eth_type=frame.type, **expected)


@given(st.sampled_from(sorted(FRAMES)), st.data())
def test_whatever_is_cut_short_or_broken_is_read_as_far_as_it_goes(name: str, data: st.DataObject) -> None:
    frame = bytearray(bytes(Ether(src=A, dst=B) / FRAMES[name][0]))
    for at in data.draw(st.lists(st.integers(14, len(frame) - 1), max_size=4)):
        frame[at] = data.draw(st.integers(0, 255))
    found = read(bytes(frame[: data.draw(st.integers(0, len(frame)))]))
    assert found.eth_src in ("", A)


@given(st.binary(max_size=200))
def test_nothing_that_a_guest_sends_raises(frame: bytes) -> None:
    read(frame)
