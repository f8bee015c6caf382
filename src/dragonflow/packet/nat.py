"""Address translation inside ICMP errors, which quote the packet that they complain of (RFC 5508 §4, RFC 792).

Checksums are changed by what the change of an address makes of them (RFC 1624), so one that was wrong stays wrong.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from dragonflow.packet.errors import Malformed

_ETHERNET, _IPV4, _ICMP = 14, 20, 8
_CHECKSUM, _SOURCE, _DESTINATION = 10, 12, 16
"""Where these stand in an IPv4 header."""

_TRANSPORT = {6: 16, 17: 6}
"""Where the checksum that covers the addresses stands in a TCP and in a UDP header."""

ERRORS = (3, 11, 12)
"""Unreachable (which is also how path MTUs are told), time exceeded, parameter problem."""


def translate_inbound(frame: bytes, old: IPv4Address, new: IPv4Address) -> bytes:
    """An error to ``old``, about what ``old`` had sent, as one to ``new``. :raises Malformed: it is none."""
    return _translate(frame, old, new, _DESTINATION, _SOURCE)


def translate_outbound(frame: bytes, old: IPv4Address, new: IPv4Address) -> bytes:
    """An error from ``old``, about what was sent to ``old``, as one from ``new``. :raises Malformed: it is none."""
    return _translate(frame, old, new, _SOURCE, _DESTINATION)


def _translate(frame: bytes, old: IPv4Address, new: IPv4Address, outer_field: int, quoted_field: int) -> bytes:
    packet = bytearray(frame)
    icmp = _ETHERNET + _header(packet, _ETHERNET)
    quoted = icmp + _ICMP
    transport = quoted + _header(packet, quoted)
    if packet[_ETHERNET + 9] != 1 or packet[icmp] not in ERRORS:
        raise Malformed("no ICMP error")
    outer_at, quoted_at = _ETHERNET + outer_field, quoted + quoted_field
    if not packet[outer_at : outer_at + 4] == packet[quoted_at : quoted_at + 4] == old.packed:
        raise Malformed(f"an ICMP error that isn't about {old}")
    _write(packet, outer_at, new.packed, _ETHERNET + _CHECKSUM)
    whole = icmp + 2
    covering = [quoted + _CHECKSUM]
    place = _TRANSPORT.get(packet[quoted + 9])
    first_fragment = not int.from_bytes(packet[quoted + 6 : quoted + 8], "big") & 0x1FFF
    if place is not None and first_fragment and transport + place + 2 <= len(packet):
        given = packet[quoted + 9] == 6 or any(packet[transport + place : transport + place + 2])
        covering += [transport + place] if given else []  # UDP without a checksum has zero there
    for checksum in covering:
        value = _changed(packet, checksum, bytes(packet[quoted_at : quoted_at + 4]), new.packed)
        _write(packet, checksum, value, whole)
    _write(packet, quoted_at, new.packed, whole)
    return bytes(packet)


def _header(packet: bytearray, at: int) -> int:
    """The length of the IPv4 header that begins there. :raises Malformed: there is no whole one."""
    if len(packet) < at + _IPV4 + _ICMP or packet[at] >> 4 != 4:
        raise Malformed("no IPv4 header")
    length = 4 * (packet[at] & 15)
    if length < _IPV4 or len(packet) < at + length + _ICMP:
        raise Malformed("an IPv4 header that isn't whole")
    return length


def _write(packet: bytearray, at: int, data: bytes, checksum: int) -> None:
    """Write an even number of bytes, and keep the checksum that covers them right."""
    packet[checksum : checksum + 2] = _changed(packet, checksum, bytes(packet[at : at + len(data)]), data)
    packet[at : at + len(data)] = data


def _changed(packet: bytearray, checksum: int, before: bytes, after: bytes) -> bytes:
    """What the checksum becomes when these bytes under it change (RFC 1624, equation 3)."""
    total = ~int.from_bytes(packet[checksum : checksum + 2], "big") & 0xFFFF
    for at in range(0, len(before), 2):
        total += (~int.from_bytes(before[at : at + 2], "big") & 0xFFFF) + int.from_bytes(after[at : at + 2], "big")
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")
