"""DHCP messages for IPv6: what clients send, and what a server answers (RFC 8415).

Relays' messages are no clients', and are nobody's here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from ipaddress import IPv6Address
from struct import Struct

import msgspec

from dragonflow.packet.errors import Malformed

SERVER_PORT, CLIENT_PORT = 547, 546
ALL_SERVERS = IPv6Address("ff02::1:2")
"""All_DHCP_Relay_Agents_and_Servers, to which clients send."""

_OPTION = Struct(">HH")
_ASSOCIATION = Struct(">III")
_ADDRESS = Struct(">16sII")
_LONGEST = 1232
"""Bytes of a message: with all headers it fits into a packet of 1280 bytes, which need not be fragmented anywhere."""

_LONGEST_DUID = 130


class Kind(IntEnum):
    """Message types (RFC 8415 §7.3)."""

    SOLICIT = 1
    ADVERTISE = 2
    REQUEST = 3
    CONFIRM = 4
    RENEW = 5
    REBIND = 6
    REPLY = 7
    RELEASE = 8
    DECLINE = 9
    INFORMATION_REQUEST = 11


FROM_CLIENTS = frozenset(Kind) - {Kind.ADVERTISE, Kind.REPLY}


class Code(IntEnum):
    """Options that the protocol itself, or this server, knows (RFC 8415; 3646 for DNS; 5970 for booting)."""

    CLIENT_ID = 1
    SERVER_ID = 2
    IA_NA = 3
    IA_TA = 4
    ADDRESS = 5
    WANTED = 6
    PREFERENCE = 7
    ELAPSED = 8
    RELAYED = 9
    AUTHENTICATION = 11
    UNICAST = 12
    STATUS = 13
    RAPID_COMMIT = 14
    USER_CLASS = 15
    INTERFACE_ID = 18
    RECONFIGURE = 19
    RECONFIGURE_ACCEPT = 20
    DNS = 23
    DOMAINS = 24
    IA_PD = 25
    PREFIX = 26
    REFRESH = 32
    BOOT_FILE = 59
    CLIENT_ARCH = 61


class Status(IntEnum):
    """Status codes (RFC 8415 §21.13)."""

    SUCCESS = 0
    NO_ADDRESSES = 2
    NO_BINDING = 3
    NOT_ON_LINK = 4
    NO_PREFIXES = 6


class Association(msgspec.Struct, frozen=True):
    """An identity association (IA_NA, IA_TA or IA_PD): the client's number for it, and the addresses that it holds."""

    code: Code
    id: bytes
    addresses: tuple[IPv6Address, ...]


class Request(msgspec.Struct, frozen=True):
    """A client's message; ``options`` are by code, of several alike the first."""

    kind: Kind
    xid: bytes
    options: Mapping[int, bytes]
    associations: Sequence[Association]

    @property
    def wanted(self) -> Collection[int]:
        """The options that the client asks for."""
        field = self.options.get(Code.WANTED, b"")
        return [int.from_bytes(field[at : at + 2], "big") for at in range(0, len(field) - 1, 2)]


def read(payload: bytes) -> Request:
    """Read a client's message. :raises Malformed: it is none, or it lacks what its type needs (RFC 8415 §16)."""
    if len(payload) < 4 or payload[0] not in FROM_CLIENTS:
        raise Malformed("no DHCPv6 message of a client")
    kind, options, associations = Kind(payload[0]), dict[int, bytes](), list[Association]()
    for code, value in _options(payload[4:]):
        if code in (Code.IA_NA, Code.IA_TA, Code.IA_PD):
            associations.append(_association(Code(code), value))
        else:
            options.setdefault(code, value)
    known = len(options.get(Code.CLIENT_ID, b""))
    if known > _LONGEST_DUID or (not known and kind != Kind.INFORMATION_REQUEST):
        raise Malformed("a client without an identifier")
    if Code.SERVER_ID in options and kind in (Kind.SOLICIT, Kind.CONFIRM, Kind.REBIND):
        raise Malformed(f"{kind.name} is for all servers, but names one")
    if Code.SERVER_ID not in options and kind in (Kind.REQUEST, Kind.RENEW, Kind.RELEASE, Kind.DECLINE):
        raise Malformed(f"{kind.name} is for one server, but names none")
    if associations and kind == Kind.INFORMATION_REQUEST:
        raise Malformed("who asks for information only gets no addresses")
    return Request(kind, payload[1:4], options, associations)


def _options(field: bytes) -> Iterator[tuple[int, bytes]]:
    at, end = 0, len(field)
    while at < end:
        if end - at < _OPTION.size:
            raise Malformed(f"an option of {end - at} bytes")
        code, length = _OPTION.unpack_from(field, at)
        at += _OPTION.size
        if length > end - at:
            raise Malformed(f"option {code} is cut short")
        yield code, field[at : at + length]
        at += length


def _association(code: Code, value: bytes) -> Association:
    head = 4 if code == Code.IA_TA else _ASSOCIATION.size
    if len(value) < head:
        raise Malformed(f"{code.name} is cut short")
    addresses = []
    for inner, address in _options(value[head:]):
        if inner == Code.ADDRESS:
            if len(address) < _ADDRESS.size:
                raise Malformed("an address is cut short")
            addresses.append(IPv6Address(address[:16]))
    return Association(code, value[:4], tuple(addresses))


class Times(msgspec.Struct, frozen=True):
    """Seconds: for how long addresses are leased, and when the client should ask again (T1, T2)."""

    lease: int
    renewal: int
    rebinding: int


def option(code: int, value: bytes) -> bytes:
    """One option on the wire."""
    return _OPTION.pack(code, len(value)) + value


def status(code: Status, words: str = "") -> bytes:
    """A status, for the message or an association."""
    return option(Code.STATUS, code.to_bytes(2, "big") + words.encode())


def leased(of: Association, given: Iterable[IPv6Address], withdrawn: Iterable[IPv6Address], times: Times) -> bytes:
    """An IA_NA: the addresses given for the lease's time, and those that the client may no longer use."""
    addresses = [*((it, times.lease) for it in given), *((it, 0) for it in withdrawn)]
    body = b"".join(option(Code.ADDRESS, _ADDRESS.pack(it.packed, left, left)) for it, left in addresses)
    return option(Code.IA_NA, of.id + times.renewal.to_bytes(4, "big") + times.rebinding.to_bytes(4, "big") + body)


def refused(of: Association, why: Status) -> bytes:
    """An association that gets nothing."""
    times = b"" if of.code == Code.IA_TA else bytes(8)
    return option(of.code, of.id + times + status(why))


def write(request: Request, kind: Kind, server: bytes, parts: Iterable[bytes], options: Mapping[int, bytes]) -> bytes:
    """The answer: whom it is for and from (``server`` is a DUID), encoded options, then others as far as there is room."""
    message = bytes((kind,)) + request.xid
    if Code.CLIENT_ID in request.options:
        message += option(Code.CLIENT_ID, request.options[Code.CLIENT_ID])
    for field in (option(Code.SERVER_ID, server), *parts, *(option(code, value) for code, value in options.items())):
        if len(message) + len(field) <= _LONGEST:
            message += field
    return message
