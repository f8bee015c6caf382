"""What routers tell the senders of packets that they can't forward, against scapy."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoRequest, ICMPv6TimeExceeded, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from dragonflow.packet import icmp
from dragonflow.packet.icmp import Complaint

ETHER = Ether(src="02:00:00:00:00:0b", dst="02:00:00:00:00:15")
PROBE_4 = ETHER / IP(src="10.0.0.11", dst="10.1.0.31", ttl=1) / UDP(sport=40000, dport=33434) / Raw(b"x" * 32)
PROBE_6 = ETHER / IPv6(src="fd00::b", dst="fd01::1f", hlim=1) / UDP(sport=40000, dport=33434) / Raw(b"x" * 31)


def told(frame: Packet, complaint: Complaint, address: str) -> Packet:
    received = icmp.read(bytes(frame))
    assert received is not None
    return Ether(icmp.complain(received, complaint, ip_address(address)))


def sound(frame: Packet) -> bool:
    """Whether scapy computes the same checksums and lengths."""
    again = frame.copy()
    for layer in (IP, ICMP, ICMPv6TimeExceeded, ICMPv6DestUnreach):
        if layer in again:
            for name in ("chksum", "cksum", "len"):
                if name in again[layer].fields and not (layer is not IP and name == "len"):
                    del again[layer].fields[name]
    return bytes(again) == bytes(frame)


def test_time_exceeded_comes_from_the_router_and_quotes_the_packet() -> None:
    for frame, router, layer, kind in (
        (PROBE_4, "10.0.0.1", ICMP, (11, 0)),
        (PROBE_6, "fd00::1", ICMPv6TimeExceeded, (3, 0)),
    ):
        answer = told(frame, Complaint.TIME_EXCEEDED, router)
        assert (answer.src, answer.dst) == (ETHER.dst, ETHER.src)
        assert (answer[1].src, answer[1].dst) == (router, frame[1].src)
        assert (answer[layer].type, answer[layer].code) == kind
        assert bytes(answer[layer])[8:] == bytes(frame[1])
        assert sound(answer)


def test_no_route_is_destination_unreachable() -> None:
    assert (told(PROBE_4, Complaint.NO_ROUTE, "10.0.0.1")[ICMP].type) == 3
    assert (told(PROBE_6, Complaint.NO_ROUTE, "fd00::1")[ICMPv6DestUnreach].type) == 1


def test_an_error_is_no_longer_than_it_may_be_and_padding_is_left_out() -> None:
    long = ETHER / IP(src="10.0.0.11", dst="10.1.0.31", ttl=1) / UDP() / Raw(b"x" * 1400)
    assert len(told(long, Complaint.TIME_EXCEEDED, "10.0.0.1")[IP]) == 576
    long = ETHER / IPv6(src="fd00::b", dst="fd01::1f", hlim=1) / UDP() / Raw(b"x" * 1400)
    assert len(told(long, Complaint.TIME_EXCEEDED, "fd00::1")[IPv6]) == 1280
    short = ETHER / IP(src="10.0.0.11", dst="10.1.0.31", ttl=1) / UDP()
    padded = Ether(bytes(short) + bytes(18))
    assert len(told(padded, Complaint.TIME_EXCEEDED, "10.0.0.1")[IP]) == 20 + 8 + len(short[IP])


@pytest.mark.parametrize(
    "frame",
    [
        ETHER / ARP(),
        ETHER / IP(src="10.0.0.11", dst="10.1.0.31") / ICMP(type=11) / Raw(bytes(28)),
        ETHER / IP(src="10.0.0.11", dst="10.1.0.31", frag=1) / Raw(bytes(28)),
        ETHER / IP(src="0.0.0.0", dst="10.1.0.31") / UDP(),
        ETHER / IP(src="10.0.0.11", dst="224.0.0.5") / UDP(),
        ETHER / IP(src="10.0.0.11", dst="255.255.255.255") / UDP(),
        ETHER / IPv6(src="fd00::b", dst="fd01::1f") / ICMPv6TimeExceeded() / Raw(bytes(48)),
        ETHER / IPv6(src="::", dst="fd01::1f") / ICMPv6EchoRequest(),
        ETHER / IPv6(src="fd00::b", dst="ff02::1") / UDP(),
    ],
)
def test_of_some_packets_nobody_may_complain(frame: Packet) -> None:
    assert icmp.read(bytes(frame)) is None


@given(st.binary(max_size=80), st.sampled_from((b"\x08\x00E", b"\x86\xdd\x60", b"")))
def test_garbage_is_read_as_nothing_or_as_a_packet_within_it(garbage: bytes, head: bytes) -> None:
    frame = bytes(12) + head + garbage
    received = icmp.read(frame)
    if received is not None:
        assert received.packet in frame
        for complaint in Complaint:
            router = ip_address("10.0.0.1" if received.version == 4 else "fd00::1")
            assert len(icmp.complain(received, complaint, router)) > len(received.packet[:548])
