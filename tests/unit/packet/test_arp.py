"""ARP as bytes, beside scapy's."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from scapy.layers.l2 import ARP, Ether

from dragonflow.packet.arp import Arp, announcement, read, request
from dragonflow.packet.errors import Malformed

MAC, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"
MAC_BYTES = bytes.fromhex(MAC.replace(":", ""))
ONE, TWO = IPv4Address("203.0.113.5"), IPv4Address("203.0.113.1")


def test_questions_are_scapys() -> None:
    asks = Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, hwsrc=MAC, psrc=str(ONE), pdst=str(TWO))
    assert request(MAC_BYTES, ONE, TWO) == bytes(asks)
    asks[Ether].dst = OTHER
    assert request(MAC_BYTES, ONE, TWO, bytes.fromhex(OTHER.replace(":", ""))) == bytes(asks)
    tells = Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, hwsrc=MAC, psrc=str(ONE), pdst=str(ONE))
    assert announcement(MAC_BYTES, ONE) == bytes(tells)


@pytest.mark.parametrize("op", [1, 2])
def test_who_says_what_of_itself(op: int) -> None:
    frame = bytes(Ether(src=OTHER) / ARP(op=op, hwsrc=MAC, psrc=str(ONE), pdst=str(TWO)))
    assert read(frame) == Arp(MAC_BYTES, ONE)
    assert read(frame + bytes(18)) == Arp(MAC_BYTES, ONE), "frames are padded"
    unasked = bytes(Ether(src=OTHER) / ARP(op=op, hwsrc=MAC, psrc=str(ONE), pdst=str(ONE)))
    assert read(unasked) == Arp(MAC_BYTES, ONE, announced=True)
    for length in range(len(frame)):
        with pytest.raises(Malformed):
            read(frame[:length])


@pytest.mark.parametrize(
    "frame",
    [
        Ether(type=0x0800) / ARP(op=2, hwsrc=MAC, psrc=str(ONE)),
        Ether() / ARP(op=3, hwsrc=MAC, psrc=str(ONE)),
        Ether() / ARP(op=2, hwsrc="ff:ff:ff:ff:ff:ff", psrc=str(ONE)),
        Ether() / ARP(op=2, hwsrc="00:00:00:00:00:00", psrc=str(ONE)),
        Ether() / ARP(op=2, hwtype=6, hwsrc=MAC, psrc=str(ONE)),
    ],
)
def test_what_is_no_word_of_a_host_is_refused(frame: Ether) -> None:
    with pytest.raises(Malformed):
        read(bytes(frame))
