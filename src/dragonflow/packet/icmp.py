"""What routers say: ICMP and ICMPv6 as bytes, above all what they tell the sender of a packet that they can't forward.

Sources: RFC 792, RFC 1812 §4.3.2, RFC 4443 §2.4. Addresses, types and lengths in a packet are a guest's word: what isn't a whole
IP header, and what nobody may complain of, is answered with nothing.
"""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address
from struct import Struct
from typing import NamedTuple

from dragonflow.packet.udp import checksum

_ETHERNET = Struct(">6s6sH")
_IPV4 = Struct(">BBHHHBBH4s4s")
_IPV6 = Struct(">IHBB16s16s")
_ICMP = Struct(">BBH")
_FAMILY = {4: 0x0800, 6: 0x86DD}
_ICMPV4, _ICMPV6 = 1, 58

_QUOTED = {4: 576 - 20 - 8, 6: 1280 - 40 - 8}
"""Bytes of the packet that fit into an error: it may fill 576 bytes (RFC 1812 §4.3.2.3), or 1280 (RFC 4443 §2.4 c)."""

_LIFETIME = 255
_ERRORS_V4 = (3, 4, 5, 11, 12)

Address = IPv4Address | IPv6Address


class Complaint(Enum):
    """What is wrong; the value is the ICMP type and code by IP version."""

    TIME_EXCEEDED = {4: (11, 0), 6: (3, 0)}  # noqa: RUF012 - an enum's value
    NO_ROUTE = {4: (3, 0), 6: (1, 0)}  # noqa: RUF012
    NO_HOST = {4: (3, 1), 6: (1, 3)}  # noqa: RUF012
    TOO_BIG = {4: (3, 4), 6: (2, 0)}  # noqa: RUF012


class Received(NamedTuple):
    """A frame's addresses, and its IP packet without what may pad the frame."""

    version: int
    eth_src: bytes
    eth_dst: bytes
    source: Address
    destination: Address
    packet: bytes


def read(frame: bytes) -> Received | None:
    """Read an untagged frame with an IP packet; None if it holds none, or one of which nobody may complain.

    That is: ICMP errors, fragments other than the first, and packets whose sender or receiver isn't a single host.
    """
    if len(frame) < _ETHERNET.size:
        return None
    eth_dst, eth_src, kind = _ETHERNET.unpack_from(frame)
    packet = frame[_ETHERNET.size :]
    measured = {_FAMILY[4]: _measure_ipv4, _FAMILY[6]: _measure_ipv6}.get(kind, lambda _: None)(packet)
    if measured is None:
        return None
    version, length, source, destination = measured
    if not (_is_host(source) and _is_host(destination)):
        return None
    return Received(version, eth_src, eth_dst, source, destination, packet[:length])


_Measured = tuple[int, int, Address, Address]


def _measure_ipv4(packet: bytes) -> _Measured | None:
    if len(packet) < _IPV4.size:
        return None
    first, _, length, _, fragment, _, protocol, _, source, destination = _IPV4.unpack_from(packet)
    header = 4 * (first & 15)
    if first >> 4 != 4 or not _IPV4.size <= header < length <= len(packet) or fragment & 0x1FFF:
        return None
    if protocol == _ICMPV4 and packet[header] in _ERRORS_V4:
        return None
    return 4, length, ip_address(source), ip_address(destination)


def _measure_ipv6(packet: bytes) -> _Measured | None:
    if len(packet) <= _IPV6.size:
        return None
    first, length, protocol, _, source, destination = _IPV6.unpack_from(packet)
    length += _IPV6.size
    if first >> 28 != 6 or not _IPV6.size < length <= len(packet):
        return None
    if protocol == _ICMPV6 and packet[_IPV6.size] < 128:
        return None
    return 6, length, ip_address(source), ip_address(destination)


def _is_host(address: Address) -> bool:
    return not (address.is_multicast or address.is_unspecified or address.is_loopback or int(address) == 0xFFFFFFFF)


def complain(received: Received, complaint: Complaint, router: Address, mtu: int = 0) -> bytes:
    """The frame that tells the sender, from the router's ``router`` address at the MAC to which the packet came.

    ``mtu`` is that of the link for which it was too big, in bytes (RFC 1191 §4, RFC 4443 §3.2).
    """
    kind, code = complaint.value[received.version]
    quoted = mtu.to_bytes(4, "big") + received.packet[: _QUOTED[received.version]]
    macs, ips = (received.eth_dst, received.eth_src), (router, received.source)
    return (icmpv4 if received.version == 4 else icmpv6)(macs, ips, kind, code, quoted)


def icmpv4(macs: tuple[bytes, bytes], ips: tuple[Address, Address], kind: int, code: int, rest: bytes) -> bytes:
    """The frame of a message; ``macs`` and ``ips`` are source and destination, ``rest`` is what follows the checksum."""
    message = _ICMP.pack(kind, code, 0) + rest
    message = message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
    length = _IPV4.size + len(message)
    header = _IPV4.pack(0x45, 0xC0, length, 0, 0, _LIFETIME, _ICMPV4, 0, ips[0].packed, ips[1].packed)
    header = header[:10] + checksum(header).to_bytes(2, "big") + header[12:]
    return _ETHERNET.pack(macs[1], macs[0], _FAMILY[4]) + header + message


def icmpv6(macs: tuple[bytes, bytes], ips: tuple[Address, Address], kind: int, code: int, rest: bytes) -> bytes:
    """The same in IPv6."""
    message = _ICMP.pack(kind, code, 0) + rest
    pseudo = ips[0].packed + ips[1].packed + len(message).to_bytes(4, "big") + _ICMPV6.to_bytes(4, "big")
    message = message[:2] + checksum(pseudo + message).to_bytes(2, "big") + message[4:]
    header = _IPV6.pack(6 << 28, len(message), _ICMPV6, _LIFETIME, ips[0].packed, ips[1].packed)
    return _ETHERNET.pack(macs[1], macs[0], _FAMILY[6]) + header + message
