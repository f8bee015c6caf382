"""ICMPv6 in Ethernet frames (RFC 4443, RFC 8200, RFC 2464) as bytes."""

from __future__ import annotations

from struct import Struct

import msgspec

from dragonflow.packet.errors import Malformed
from dragonflow.packet.udp import checksum

_ETHERNET = Struct(">6s6sH")
_IPV6 = Struct(">IHBB16s16s")
_ICMPV6 = Struct(">BBH")
_KIND, _PROTOCOL = 0x86DD, 58

HOP_LIMIT = 255
"""The hop limit of what we send. Of what hosts on a link say to each other, anything less has come from afar (RFC 4861 §3.1)."""


class Message(msgspec.Struct, frozen=True):
    """A message with its IPv6 addresses (16 bytes each); ``body`` is what follows the checksum."""

    source: bytes
    destination: bytes
    hop_limit: int
    kind: int
    code: int
    body: bytes


def read(frame: bytes) -> Message:
    """Find the message in an untagged frame.

    :raises Malformed: there is no whole one in it, its checksum is wrong, or it lies behind IPv6 extension headers.
    """
    if len(frame) < _ETHERNET.size + _IPV6.size + _ICMPV6.size:
        raise Malformed("too short for ICMPv6")
    _, _, kind = _ETHERNET.unpack_from(frame)
    first, length, protocol, hop_limit, source, destination = _IPV6.unpack_from(frame, _ETHERNET.size)
    start = _ETHERNET.size + _IPV6.size
    message = frame[start : start + length]
    if kind != _KIND or first >> 28 != 6 or protocol != _PROTOCOL or not _ICMPV6.size <= length == len(message):
        raise Malformed("no whole ICMPv6 message right behind an IPv6 header")
    if checksum(_pseudo(source, destination, length) + message):
        raise Malformed("an ICMPv6 message with a wrong checksum")
    type_, code, _ = _ICMPV6.unpack_from(message)
    return Message(source, destination, hop_limit, type_, code, message[_ICMPV6.size :])


def write(macs: tuple[bytes, bytes], ips: tuple[bytes, bytes], kind: int, code: int, body: bytes) -> bytes:
    """The frame of a message; ``macs`` and ``ips`` (16 bytes each) are source and destination."""
    message = _ICMPV6.pack(kind, code, 0) + body
    check = checksum(_pseudo(*ips, len(message)) + message)
    header = _IPV6.pack(6 << 28, len(message), _PROTOCOL, HOP_LIMIT, *ips)
    return _ETHERNET.pack(macs[1], macs[0], _KIND) + header + _ICMPV6.pack(kind, code, check) + body


def _pseudo(source: bytes, destination: bytes, length: int) -> bytes:
    """What the checksum covers besides the message (RFC 8200 §8.1)."""
    return source + destination + length.to_bytes(4, "big") + _PROTOCOL.to_bytes(4, "big")
