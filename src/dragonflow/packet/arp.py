"""ARP for IPv4 over Ethernet (RFC 826, RFC 5227) as bytes."""

from __future__ import annotations

from ipaddress import IPv4Address
from struct import Struct

import msgspec

from dragonflow.packet.errors import Malformed

_ETHERNET = Struct(">6s6sH")
_ARP = Struct(">HHBBH6s4s6s4s")
_KIND = 0x0806
_ETHERNET_IPV4 = (1, 0x0800, 6, 4)
_REQUEST, _REPLY = 1, 2

BROADCAST = b"\xff" * 6


class Arp(msgspec.Struct, frozen=True):
    """Who says that it has which address; MACs are 6 bytes. ``announced``: it asks, or answers, for nothing but that address."""

    mac: bytes
    address: IPv4Address
    announced: bool = False


def read(frame: bytes) -> Arp:
    """What the sender of a request or a reply says of itself.

    :raises Malformed: it is none, or says what can't be: that a group of hosts, or nobody, has the address.
    """
    if len(frame) < _ETHERNET.size + _ARP.size:
        raise Malformed("too short for ARP")
    _, _, kind = _ETHERNET.unpack_from(frame)
    *head, operation, mac, address, _, target = _ARP.unpack_from(frame, _ETHERNET.size)
    if kind != _KIND or tuple(head) != _ETHERNET_IPV4 or operation not in (_REQUEST, _REPLY):
        raise Malformed("no ARP for IPv4 over Ethernet")
    if mac[0] & 1 or not any(mac):
        raise Malformed(f"{mac.hex(':')} is no host's MAC")
    return Arp(mac, IPv4Address(address), address == target)


def request(mac: bytes, address: IPv4Address, target: IPv4Address, to: bytes = BROADCAST) -> bytes:
    """The frame that asks, in the name of ``mac`` and ``address``, who has ``target``; of ``to`` alone, or of all."""
    body = _ARP.pack(*_ETHERNET_IPV4, _REQUEST, mac, address.packed, bytes(6), target.packed)
    return _ETHERNET.pack(to, mac, _KIND) + body


def announcement(mac: bytes, address: IPv4Address) -> bytes:
    """The frame that tells all who has the address (RFC 5227 §3)."""
    return request(mac, address, address)
