"""Neighbour Discovery as bytes, beside scapy's."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from dragonflow.packet.errors import Malformed
from dragonflow.packet.nd import Advertisement, announcement, read, solicitation

MAC, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"
MAC_BYTES, OTHER_BYTES = (bytes.fromhex(mac.replace(":", "")) for mac in (MAC, OTHER))
ONE, TWO, OURS = IPv6Address("2001:db8::5"), IPv6Address("2001:db8::a1:b2c3"), IPv6Address("fe80::ff:fe00:1")
TELLS = ICMPv6NDOptDstLLAddr(lladdr=MAC)


def advertisement(*options: Packet, dst: str = str(OURS), hlim: int = 255, **fields: object) -> bytes:
    flags = {"R": 0, "S": 1, "O": 1, "tgt": str(ONE), **fields}
    frame = Ether(src=MAC, dst=OTHER) / IPv6(src=str(ONE), dst=dst, hlim=hlim) / ICMPv6ND_NA(**flags)
    for option in options:
        frame /= option
    return bytes(frame)


def test_questions_and_announcements_are_scapys() -> None:
    for to, eth, ip in (
        (None, "33:33:ff:a1:b2:c3", "ff02::1:ffa1:b2c3"),
        (OTHER_BYTES, OTHER, str(TWO)),
    ):
        asks = Ether(src=MAC, dst=eth) / IPv6(src=str(OURS), dst=ip, hlim=255) / ICMPv6ND_NS(tgt=str(TWO))
        assert solicitation(MAC_BYTES, OURS, TWO, to) == bytes(asks / ICMPv6NDOptSrcLLAddr(lladdr=MAC))
    tells = Ether(src=MAC, dst="33:33:00:00:00:01") / IPv6(src=str(ONE), dst="ff02::1", hlim=255)
    assert announcement(MAC_BYTES, ONE) == bytes(tells / ICMPv6ND_NA(R=1, S=0, O=1, tgt=str(ONE)) / TELLS)


def test_who_says_what_of_itself() -> None:
    frame = advertisement(TELLS)
    assert read(frame) == Advertisement(ONE, MAC_BYTES, True)
    assert read(frame + bytes(4)) == Advertisement(ONE, MAC_BYTES, True), "frames are padded"
    assert read(advertisement(TELLS, O=0)) == Advertisement(ONE, MAC_BYTES, False)
    assert read(advertisement()) == Advertisement(ONE, None, True), "to one who knew the MAC"
    assert read(advertisement(Raw(b"\x0e\x01" + bytes(6)), TELLS)).mac == MAC_BYTES, (
        "behind an option that means nothing here"
    )
    assert read(advertisement(TELLS, dst="ff02::1", S=0)) == Advertisement(ONE, MAC_BYTES, True, announced=True)
    for length in range(len(frame)):
        with pytest.raises(Malformed):
            read(frame[:length])


@pytest.mark.parametrize(
    "frame",
    [
        advertisement(TELLS, hlim=254),
        advertisement(TELLS, code=1),
        advertisement(TELLS, type=135),
        advertisement(TELLS, cksum=1),
        advertisement(TELLS, tgt="ff02::1"),
        advertisement(TELLS, dst="ff02::1"),
        advertisement(ICMPv6NDOptDstLLAddr(lladdr="33:33:00:00:00:01")),
        advertisement(ICMPv6NDOptDstLLAddr(lladdr="00:00:00:00:00:00")),
        advertisement(Raw(b"\x02\x00" + bytes(6))),
        advertisement(Raw(b"\x02\x02" + bytes(6))),
        advertisement(Raw(b"\x02")),
        bytes(Ether(advertisement(TELLS))[IPv6]),
    ],
)
def test_what_is_no_valid_advertisement_of_this_link_is_refused(frame: bytes) -> None:
    with pytest.raises(Malformed):
        read(frame)


@given(st.binary(max_size=60), st.binary(max_size=30))
def test_garbage_is_refused_and_nothing_else(start: bytes, rest: bytes) -> None:
    frame = advertisement(TELLS)
    for garbage in (start + rest, start + frame[len(start) :], frame[: len(frame) - len(rest)] + rest):
        try:
            read(garbage)
        except Malformed:
            continue
