"""Neighbour Discovery for IPv6 over Ethernet (RFC 4861, RFC 2464 §6) as bytes: who has an address, and I have."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Address
from struct import Struct

import msgspec

from dragonflow.packet import icmpv6
from dragonflow.packet.errors import Malformed

_SOLICITATION, _ADVERTISEMENT = 135, 136
_BODY = Struct(">I16s")
_LINK_LAYER = Struct(">BB6s")
_SOURCE_LINK_LAYER, _TARGET_LINK_LAYER = 1, 2

ROUTER, SOLICITED, OVERRIDE = 0x80000000, 0x40000000, 0x20000000
"""Flags R, S and O of an advertisement, as its reserved word holds them (RFC 4861 §4.4)."""

ALL_NODES, ALL_NODES_MAC = IPv6Address("ff02::1"), bytes.fromhex("333300000001")

_SOLICITED_NODE = bytes.fromhex("ff0200000000000000000001ff")


class Advertisement(msgspec.Struct, frozen=True):
    """Who says that it has which address.

    ``mac`` has 6 bytes; it may be left out for one who asked that MAC alone. Without ``override`` it is only for those who know
    none yet. ``announced``: nobody asked (RFC 4861 §7.2.6).
    """

    address: IPv6Address
    mac: bytes | None
    override: bool
    announced: bool = False


def read(frame: bytes) -> Advertisement:
    """What an advertisement says.

    :raises Malformed: it is none, comes from beyond the link, or isn't valid otherwise (RFC 4861 §7.1.2)
    """
    message = icmpv6.read(frame)
    if (message.kind, message.code, message.hop_limit) != (_ADVERTISEMENT, 0, icmpv6.HOP_LIMIT):
        raise Malformed("no neighbour advertisement of this link")
    if len(message.body) < _BODY.size:
        raise Malformed("a neighbour advertisement that isn't whole")
    flags, target = _BODY.unpack_from(message.body)
    address = IPv6Address(target)
    if address.is_multicast or (IPv6Address(message.destination).is_multicast and flags & SOLICITED):
        raise Malformed("a neighbour advertisement for a group of hosts, or an answer to all")
    mac = None
    for kind, value in _options(message.body[_BODY.size :]):
        if kind == _TARGET_LINK_LAYER:
            mac = value[:6]
            if len(mac) < 6 or mac[0] & 1 or not any(mac):
                raise Malformed(f"{mac.hex(':')} is no host's MAC")
    return Advertisement(address, mac, bool(flags & OVERRIDE), not flags & SOLICITED)


def _options(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        length = 8 * data[at + 1] if at + 1 < len(data) else 0
        if not 0 < length <= len(data) - at:
            raise Malformed("an option that isn't whole")
        yield data[at], data[at + 2 : at + length]
        at += length


def solicitation(mac: bytes, source: IPv6Address, target: IPv6Address, to: bytes | None = None) -> bytes:
    """The frame that asks, in the name of ``mac`` and ``source``, who has ``target``; of the MAC ``to`` alone, or of all.

    All that is who listens for addresses that end alike (the solicited-node group, RFC 4291 §2.7.1).
    """
    group = _SOLICITED_NODE + target.packed[-3:]
    ip, to = (group, b"\x33\x33" + group[-4:]) if to is None else (target.packed, to)
    body = _BODY.pack(0, target.packed) + _LINK_LAYER.pack(_SOURCE_LINK_LAYER, 1, mac)
    return icmpv6.write((mac, to), (source.packed, ip), _SOLICITATION, 0, body)


def announcement(mac: bytes, address: IPv6Address) -> bytes:
    """The frame that tells all that a router has the address (an unsolicited advertisement, RFC 4861 §7.2.6)."""
    body = _BODY.pack(ROUTER | OVERRIDE, address.packed) + _LINK_LAYER.pack(_TARGET_LINK_LAYER, 1, mac)
    return icmpv6.write((mac, ALL_NODES_MAC), (address.packed, ALL_NODES.packed), _ADVERTISEMENT, 0, body)
