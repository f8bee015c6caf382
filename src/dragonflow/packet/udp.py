"""UDP datagrams in Ethernet frames, over IPv4 and IPv6 (RFC 768, 791, 894, 2464, 8200)."""

from __future__ import annotations

from struct import Struct

import msgspec

from dragonflow.packet.errors import Malformed

_ETHERNET = Struct(">6s6sH")
_IPV4 = Struct(">BBHHHBBH4s4s")
_IPV6 = Struct(">IHBB16s16s")
_UDP = Struct(">HHHH")

_TYPE_IPV4, _TYPE_IPV6, _PROTOCOL = 0x0800, 0x86DD, 17
_HOPS = 64
_MORE_OR_OFFSET = 0x3FFF
"""The bits of IPv4's fragment field that are zero in a whole packet."""


class Datagram(msgspec.Struct, frozen=True):
    """A datagram with all addresses: MACs of 6 bytes; IP addresses of 4 or 16 bytes, both of one family."""

    eth_src: bytes
    eth_dst: bytes
    ip_src: bytes
    ip_dst: bytes
    port_src: int
    port_dst: int
    payload: bytes


def read(frame: bytes) -> Datagram:
    """Find the datagram in an untagged frame. Checksums are not looked at: a guest may have left them to its network card.

    :raises Malformed: there is no whole UDP datagram in it, or it lies behind IPv6 extension headers.
    """
    if len(frame) < _ETHERNET.size:
        raise Malformed("no Ethernet header")
    eth_dst, eth_src, kind = _ETHERNET.unpack_from(frame)
    body = frame[_ETHERNET.size :]
    if kind == _TYPE_IPV4:
        ip_src, ip_dst, body = _in_ipv4(body)
    elif kind == _TYPE_IPV6:
        ip_src, ip_dst, body = _in_ipv6(body)
    else:
        raise Malformed(f"EtherType {kind:#06x} is not IP")
    if len(body) < _UDP.size:
        raise Malformed("no UDP header")
    port_src, port_dst, length, _ = _UDP.unpack_from(body)
    if not _UDP.size <= length <= len(body):
        raise Malformed(f"a UDP datagram of {length} bytes in {len(body)}")
    return Datagram(eth_src, eth_dst, ip_src, ip_dst, port_src, port_dst, body[_UDP.size : length])


def _in_ipv4(body: bytes) -> tuple[bytes, bytes, bytes]:
    if len(body) < _IPV4.size:
        raise Malformed("no IPv4 header")
    first, _, length, _, fragment, _, protocol, _, source, destination = _IPV4.unpack_from(body)
    header = (first & 15) * 4
    if first >> 4 != 4 or not _IPV4.size <= header <= length <= len(body):
        raise Malformed("a broken IPv4 header")
    if protocol != _PROTOCOL or fragment & _MORE_OR_OFFSET:
        raise Malformed("no whole UDP datagram")
    return source, destination, body[header:length]


def _in_ipv6(body: bytes) -> tuple[bytes, bytes, bytes]:
    if len(body) < _IPV6.size:
        raise Malformed("no IPv6 header")
    first, length, following, _, source, destination = _IPV6.unpack_from(body)
    if first >> 28 != 6 or _IPV6.size + length > len(body):
        raise Malformed("a broken IPv6 header")
    if following != _PROTOCOL:
        raise Malformed("no UDP right behind the IPv6 header")
    return source, destination, body[_IPV6.size : _IPV6.size + length]


def write(it: Datagram) -> bytes:
    """The datagram as a frame, with all checksums."""
    length = _UDP.size + len(it.payload)
    ports = (it.port_src, it.port_dst, length)
    pseudo = it.ip_src + it.ip_dst + _PROTOCOL.to_bytes(4, "big") + length.to_bytes(4, "big")
    check = checksum(pseudo + _UDP.pack(*ports, 0) + it.payload) or 0xFFFF  # 0 says that there is none
    body = _UDP.pack(*ports, check) + it.payload
    if len(it.ip_src) == 4:
        kind, total = _TYPE_IPV4, _IPV4.size + length
        fields = (0x45, 0, total, 0, 0, _HOPS, _PROTOCOL)
        check = checksum(_IPV4.pack(*fields, 0, it.ip_src, it.ip_dst))
        header = _IPV4.pack(*fields, check, it.ip_src, it.ip_dst)
    else:
        kind = _TYPE_IPV6
        header = _IPV6.pack(6 << 28, length, _PROTOCOL, _HOPS, it.ip_src, it.ip_dst)
    return _ETHERNET.pack(it.eth_dst, it.eth_src, kind) + header + body


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of the bytes."""
    if len(data) & 1:
        data += b"\0"
    total = int.from_bytes(data, "big") % 0xFFFF  # the sum of 16-bit words, carries folded: 2^16 is 1 modulo 2^16 - 1
    return 0xFFFF - total if total or not any(data) else 0
