"""DHCP messages for IPv4: what clients send, and what a server answers (RFC 2131, 2132, 3396).

A relay's messages are no clients': they come from another port, and are nobody's here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from enum import IntEnum
from ipaddress import IPv4Address
from struct import Struct

import msgspec

from dragonflow.packet.errors import Malformed

SERVER_PORT, CLIENT_PORT = 67, 68

_FIXED = Struct(">BBBBIHH4s4s4s4s16s64s128s4s")
_COOKIE = bytes((99, 130, 83, 99))
_REQUEST, _REPLY, _ETHERNET = 1, 2, 1
_SERVER_NAME, _FILE = slice(44, 108), slice(108, 236)
_LEAST = 300
"""Bytes of the shortest message: some clients drop what is shorter than BOOTP's (RFC 1542 §2.1)."""

_HEADERS = 28
"""Bytes of the IP and UDP headers, which the longest message that a client takes is meant to include (RFC 2132 §9.10)."""

LEAST_LIMIT = 576
"""Bytes of a message, headers included, that every client takes (RFC 2131 §2)."""

_BROADCAST_FLAG = 0x8000
_NOBODY = IPv4Address(0)


class Kind(IntEnum):
    """Message types (RFC 2132 §9.6)."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


class Code(IntEnum):
    """Options that the protocol itself, or this server, knows (RFC 2132; 3442; 3004 for 77; 4578 for 93; 6842 for 61)."""

    PAD = 0
    MASK = 1
    ROUTER = 3
    DNS = 6
    HOST_NAME = 12
    DOMAIN = 15
    MTU = 26
    BROADCAST = 28
    REQUESTED = 50
    LEASE_TIME = 51
    OVERLOAD = 52
    KIND = 53
    SERVER = 54
    PARAMETERS = 55
    LONGEST = 57
    RENEWAL = 58
    REBINDING = 59
    CLIENT_ID = 61
    TFTP_SERVER = 66
    BOOT_FILE = 67
    USER_CLASS = 77
    RELAY = 82
    CLIENT_ARCH = 93
    ROUTES = 121
    ETHERBOOT = 175
    MICROSOFT_ROUTES = 249
    END = 255


class Request(msgspec.Struct, frozen=True):
    """A client's message. ``address`` is the one that it has (ciaddr, zero if none), ``options`` are by code, joined if split."""

    kind: Kind
    xid: int
    seconds: int
    broadcast: bool
    address: IPv4Address
    mac: bytes
    options: Mapping[int, bytes]

    def address_option(self, code: Code) -> IPv4Address | None:
        """The address that an option holds, None if it is missing or something else."""
        value = self.options.get(code, b"")
        return IPv4Address(value) if len(value) == 4 else None

    @property
    def wanted(self) -> Collection[int] | None:
        """The options that the client asks for; None if it leaves that to the server."""
        return self.options.get(Code.PARAMETERS)

    @property
    def limit(self) -> int:
        """Bytes of the longest answer that the client takes, without IP and UDP headers."""
        value = int.from_bytes(self.options.get(Code.LONGEST, b"")[:2], "big")
        return max(value, LEAST_LIMIT) - _HEADERS


def read(payload: bytes) -> Request:
    """Read a client's message.

    :raises Malformed: it is none, or one that a relay has forwarded.
    """
    if len(payload) < _FIXED.size:
        raise Malformed(f"{len(payload)} bytes are no DHCP message")
    op, hardware, size, _, xid, seconds, flags, ciaddr, _, _, giaddr, chaddr, _, _, cookie = _FIXED.unpack_from(payload)
    if (op, hardware, size, cookie) != (_REQUEST, _ETHERNET, 6, _COOKIE):
        raise Malformed("no DHCP request over Ethernet")
    if any(giaddr):
        raise Malformed("from a relay")
    options = _read_options(payload)
    try:
        (kind,) = options.get(Code.KIND, b"")
        return Request(
            Kind(kind), xid, seconds, bool(flags & _BROADCAST_FLAG), IPv4Address(ciaddr), chaddr[:6], options
        )
    except ValueError:
        raise Malformed("no DHCP message type") from None


def _read_options(payload: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for code, value in _options(payload[_FIXED.size :]):
        found[code] = found.get(code, b"") + value
    overload = found.get(Code.OVERLOAD, b"\0")[:1]
    for bit, field in ((1, _FILE), (2, _SERVER_NAME)):
        if overload and overload[0] & bit:
            for code, value in _options(payload[field]):
                found[code] = found.get(code, b"") + value
    return found


def _options(field: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(field) and field[at] != Code.END:
        if field[at] == Code.PAD:
            at += 1
            continue
        value = field[at + 2 : at + 2 + field[at + 1]] if at + 1 < len(field) else None
        if value is None or len(value) < field[at + 1]:
            raise Malformed(f"option {field[at]} is cut short")
        yield field[at], value
        at += 2 + len(value)


class Boot(msgspec.Struct, frozen=True):
    """The fields of a reply by which a machine boots from the network; ``server`` is the next server (siaddr)."""

    server: IPv4Address = _NOBODY
    server_name: bytes = b""
    file: bytes = b""


_NO_BOOT = Boot()


def write(
    request: Request,
    kind: Kind,
    options: Mapping[int, bytes],
    *,
    yours: IPv4Address = _NOBODY,
    boot: Boot = _NO_BOOT,
) -> bytes:
    """The answer to a request: ``yours`` is the address that it gives. Options go in their order, as far as the client has room.

    Long ones are split (RFC 3396). The client's identifier is told back to it (RFC 6842).
    """
    client = _NOBODY if kind == Kind.NAK else request.address
    head = _FIXED.pack(
        *(_REPLY, _ETHERNET, 6, 0, request.xid, 0, _BROADCAST_FLAG if request.broadcast else 0),
        *(client.packed, yours.packed, boot.server.packed, bytes(4), request.mac),
        *(boot.server_name[:63], boot.file[:127], _COOKIE),
    )
    given: dict[int, bytes] = {Code.KIND: bytes((kind,))}
    if Code.CLIENT_ID in request.options:
        given[Code.CLIENT_ID] = request.options[Code.CLIENT_ID]
    message, limit = head, request.limit
    for code, value in {**given, **options}.items():
        field = _option(code, value)
        if len(message) + len(field) < limit:
            message += field
    return (message + bytes((Code.END,))).ljust(_LEAST, b"\0")


def _option(code: int, value: bytes) -> bytes:
    parts = [value[at : at + 255] for at in range(0, len(value), 255)] or [b""]
    return b"".join(bytes((code, len(part))) + part for part in parts)
