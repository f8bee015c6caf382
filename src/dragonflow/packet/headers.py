"""What a frame's headers say, as far as they can be read: for people who want to know which packet it was.

Sources: RFC 826 (ARP), 791 (IPv4), 8200 (IPv6 and its extension headers), 792, 4443 (ICMP), 4861 (neighbour discovery).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import Any

import msgspec

_ETHERNET = Struct(">6s6sH")
_ARP = Struct(">HHBBH6s4s6s4s")
_IPV4 = Struct(">BBHHHBBH4s4s")
_IPV6 = Struct(">IHBB16s16s")
_PORTS = Struct(">HH")
_TARGET = Struct(">BBHI16s")

ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
ICMPV4, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
SOLICITATION, ADVERTISEMENT = 135, 136
_OFFSET = 0x1FFF
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _OPTIONS = 0, 43, 44, 60
_MOST_EXTENSIONS = 8


_Found = dict[str, Any]


class Headers(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Addresses in words; None is what the frame doesn't have, or what can't be read.

    Of ARP ``source`` and ``destination`` are the sender's and the target's protocol addresses, and ``claimed_mac`` is the
    sender's hardware address. Of neighbour discovery ``target`` is the address that is asked for, or claimed, and
    ``claimed_mac`` the link-layer address that goes with it.
    """

    eth_src: str = ""
    eth_dst: str = ""
    eth_type: int = 0
    source: str | None = None
    destination: str | None = None
    protocol: int | None = None
    source_port: int | None = None
    destination_port: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    target: str | None = None
    claimed_mac: str | None = None


def read(frame: bytes) -> Headers:
    """The headers of an untagged frame. What is cut short, or broken, ends the reading; nothing is raised."""
    if len(frame) < _ETHERNET.size:
        return Headers()
    destination, source, kind = _ETHERNET.unpack_from(frame)
    found = {"eth_src": source.hex(":"), "eth_dst": destination.hex(":"), "eth_type": kind}
    reader = {ARP: _arp, IPV4: _ipv4, IPV6: _ipv6}.get(kind)
    return Headers(**found, **(reader(frame[_ETHERNET.size :]) if reader is not None else {}))


def _arp(body: bytes) -> _Found:
    if len(body) < _ARP.size:
        return {}
    *_, mac, source, _, destination = _ARP.unpack_from(body)
    return {
        "source": str(IPv4Address(source)),
        "destination": str(IPv4Address(destination)),
        "claimed_mac": mac.hex(":"),
    }


def _ipv4(body: bytes) -> _Found:
    if len(body) < _IPV4.size:
        return {}
    first, _, _, _, fragment, _, protocol, _, source, destination = _IPV4.unpack_from(body)
    found = {"source": str(IPv4Address(source)), "destination": str(IPv4Address(destination)), "protocol": protocol}
    return found if fragment & _OFFSET else found | _transport(protocol, body[4 * (first & 15) :])


def _ipv6(body: bytes) -> _Found:
    if len(body) < _IPV6.size:
        return {}
    _, _, following, _, source, destination = _IPV6.unpack_from(body)
    found = {"source": str(IPv6Address(source)), "destination": str(IPv6Address(destination))}
    rest = body[_IPV6.size :]
    for _ in range(_MOST_EXTENSIONS):
        if following not in (_HOP_BY_HOP, _ROUTING, _FRAGMENT, _OPTIONS) or len(rest) < 8:
            break
        if following == _FRAGMENT and int.from_bytes(rest[2:4], "big") >> 3:  # not the first: its ports are elsewhere
            return found | {"protocol": rest[0]}
        size = 8 if following == _FRAGMENT else 8 * (rest[1] + 1)
        following, rest = rest[0], rest[size:]
    return found | {"protocol": following} | _transport(following, rest)


def _transport(protocol: int, body: bytes) -> _Found:
    if len(body) < _PORTS.size:
        return {}
    if protocol in (TCP, UDP, SCTP):
        source, destination = _PORTS.unpack_from(body)
        return {"source_port": source, "destination_port": destination}
    if protocol in (ICMPV4, ICMPV6):
        found: _Found = {"icmp_type": body[0], "icmp_code": body[1]}
        return found | (_neighbour(body) if protocol == ICMPV6 and body[0] in (SOLICITATION, ADVERTISEMENT) else {})
    return {}


def _neighbour(body: bytes) -> _Found:
    """The target, and the first link-layer address among the options of the kind that the message may have."""
    if len(body) < _TARGET.size:
        return {}
    kind, *_, target = _TARGET.unpack_from(body)
    found: _Found = {"target": str(IPv6Address(target))}
    wanted = 1 if kind == SOLICITATION else 2
    options = body[_TARGET.size :]
    while len(options) >= 8 and options[1]:
        if options[0] == wanted:
            return found | {"claimed_mac": options[2:8].hex(":")}
        options = options[8 * options[1] :]
    return found
