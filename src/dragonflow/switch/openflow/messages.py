"""OpenFlow 1.5 messages that change or ask a switch, as a type and a body; the connection adds header and xid.

A flow's *name* and *contents* are the bytes of ``encode.flow_name`` and ``flow_contents``; a bucket's actions those of
``encode_actions``. Sources: OpenFlow 1.5.1 §7.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from dragonflow.switch.openflow.encode import NICIRA

VERSION = 6
"""OpenFlow 1.5 on the wire."""

HEADER = Struct(">BBHI")


MAX_MESSAGE = 0xFFFF
"""Bytes: the header's length field has 16 bits."""

BUNDLE_ADD_OVERHEAD = 24
"""Bytes that a message costs beyond its body when it rides in a bundle."""


class Type(IntEnum):
    """Message types (§7.1.1)."""

    HELLO = 0
    ERROR = 1
    ECHO_REQUEST = 2
    ECHO_REPLY = 3
    EXPERIMENTER = 4
    FEATURES_REQUEST = 5
    FEATURES_REPLY = 6
    SET_CONFIG = 9
    PACKET_OUT = 13
    FLOW_MOD = 14
    GROUP_MOD = 15
    MULTIPART_REQUEST = 18
    MULTIPART_REPLY = 19
    BARRIER_REQUEST = 20
    BARRIER_REPLY = 21
    METER_MOD = 29
    BUNDLE_CONTROL = 33
    BUNDLE_ADD_MESSAGE = 34


class Multipart(IntEnum):
    """Multipart types (§7.3.5)."""

    FLOW_DESC = 1
    GROUP_DESC = 7
    METER_DESC = 10


class Message(NamedTuple):
    """A message without header."""

    type: int
    body: bytes


class BucketBytes(NamedTuple):
    """A group's bucket: its id, and its actions encoded."""

    id: int
    actions: bytes


_ANY = 0xFFFFFFFF
_ALL_TABLES = 0xFF
_NO_COOKIE = _NO_MASK = bytes(8)
_DELETE_STRICT = b"\4"


def flow_add(name: bytes, contents: bytes) -> Message:
    """Add a flow, or give the flow of this name new contents; counters stay."""
    return Message(14, contents[:8] + _NO_MASK + name + contents[8:])


def flow_delete(name: bytes) -> Message:
    """Remove the flow of this name; if there is none, nothing happens."""
    return Message(14, _NO_COOKIE + _NO_MASK + name[:1] + _DELETE_STRICT + name[2:])


_GROUP_MOD = Struct(">HBxIHxxI")
_BUCKET = Struct(">HHI")
_GROUP_DELETE, _INSERT_BUCKET, _REMOVE_BUCKET, _GROUP_ADD_OR_MODIFY = 2, 3, 5, 0x8000
_TYPE_ALL = 0
_BUCKET_LAST, _BUCKET_ALL = 0xFFFFFFFE, 0xFFFFFFFF
_GROUP_BODY_LIMIT = MAX_MESSAGE - BUNDLE_ADD_OVERHEAD - _GROUP_MOD.size


def group_set(group: int, buckets: Iterable[BucketBytes]) -> Iterator[Message]:
    """Have an ``all`` group of exactly these buckets, whatever it was before (ADD_OR_MOD, an extension of Open vSwitch).

    A long list of buckets takes several messages.
    """
    chunks = _chunks(buckets)
    yield _buckets_message(_GROUP_ADD_OR_MODIFY, group, next(chunks, b""))
    for chunk in chunks:
        yield _buckets_message(_INSERT_BUCKET, group, chunk)


def group_delete(group: int) -> Message:
    """Remove a group. Open vSwitch also removes every flow that sends to it."""
    return Message(Type.GROUP_MOD, _GROUP_MOD.pack(_GROUP_DELETE, _TYPE_ALL, group, 0, _BUCKET_ALL))


def buckets_insert(group: int, buckets: Iterable[BucketBytes]) -> Iterator[Message]:
    """Append buckets to a group; no other bucket is touched."""
    for chunk in _chunks(buckets):
        yield _buckets_message(_INSERT_BUCKET, group, chunk)


def bucket_remove(group: int, bucket: int) -> Message:
    """Take one bucket out of a group. :raises Refused: (from the switch) there is no such bucket."""
    return Message(Type.GROUP_MOD, _GROUP_MOD.pack(_REMOVE_BUCKET, _TYPE_ALL, group, 0, bucket))


def _buckets_message(command: int, group: int, buckets: bytes) -> Message:
    last = _BUCKET_LAST if command == _INSERT_BUCKET else _BUCKET_ALL
    return Message(Type.GROUP_MOD, _GROUP_MOD.pack(command, _TYPE_ALL, group, len(buckets), last) + buckets)


def _chunks(buckets: Iterable[BucketBytes]) -> Iterator[bytes]:
    """Encoded buckets, joined up to what fits into one message."""
    chunk: list[bytes] = []
    size = 0
    for bucket in buckets:
        encoded = _BUCKET.pack(_BUCKET.size + len(bucket.actions), len(bucket.actions), bucket.id) + bucket.actions
        if size + len(encoded) > _GROUP_BODY_LIMIT:
            yield b"".join(chunk)
            chunk, size = [], 0
        chunk.append(encoded)
        size += len(encoded)
    if chunk:
        yield b"".join(chunk)


_METER_MOD = Struct(">HHI")
_METER_DROP_BAND = Struct(">HHII4x")
_METER_ADD, _METER_MODIFY, _METER_DELETE = 0, 1, 2
METER_PACKETS, METER_BITS = 0b0110, 0b0101
"""OFPMF_BURST with OFPMF_PKTPS or OFPMF_KBPS."""


def meter_add(meter: int, rate: int, burst: int, bits: bool) -> Message:
    """Make a meter that drops what exceeds ``rate`` packets (or kilobits) a second after a burst of ``burst``."""
    return _meter(_METER_ADD, meter, rate, burst, bits)


def meter_modify(meter: int, rate: int, burst: int, bits: bool) -> Message:
    """Give a meter new figures."""
    return _meter(_METER_MODIFY, meter, rate, burst, bits)


def meter_delete(meter: int) -> Message:
    """Remove a meter. Open vSwitch also removes every flow that uses it."""
    return Message(Type.METER_MOD, _METER_MOD.pack(_METER_DELETE, METER_PACKETS, meter))


def _meter(command: int, meter: int, rate: int, burst: int, bits: bool) -> Message:
    band = _METER_DROP_BAND.pack(1, _METER_DROP_BAND.size, rate, burst)
    return Message(Type.METER_MOD, _METER_MOD.pack(command, METER_BITS if bits else METER_PACKETS, meter) + band)


_BUNDLE_CONTROL = Struct(">IHH")
_BUNDLE_ADD = Struct(">BBHI I2xH BBHI")
_ATOMIC_ORDERED = 0b11
OPEN, COMMIT, DISCARD = 0, 4, 6
"""Bundle control types (§7.3.9.2)."""


def bundle_control(bundle: int, control: int) -> Message:
    """Open, commit or discard an atomic, ordered bundle."""
    return Message(Type.BUNDLE_CONTROL, _BUNDLE_CONTROL.pack(bundle, control, _ATOMIC_ORDERED))


def bundle_add(bundle: int, xid: int, message: Message) -> bytes:
    """A message on its way into a bundle, header included; both headers bear the same xid, as §7.3.9.6 demands."""
    kind, body = message
    length = len(body)
    head = _BUNDLE_ADD.pack(6, 34, length + 24, xid, bundle, _ATOMIC_ORDERED, 6, kind, length + 8, xid)
    return head + body


NX_PACKET_IN2 = Struct(">II").pack(NICIRA, 30)
"""What the body of an NXT_PACKET_IN2 begins with."""

_PACKET_IN_FORMAT = Struct(">III")
_NX_SET_PACKET_IN_FORMAT, _NX_FORMAT_PACKET_IN2 = 16, 2


def ask_for_packets() -> Iterator[Message]:
    """Have punted packets sent whole, with the pipeline's fields and the flow's user data.

    Open vSwitch tells a connection to its management socket of packets only if that asks for some of their bytes (the miss send
    length); what flows punt comes whole.
    """
    yield Message(Type.SET_CONFIG, Struct(">HH").pack(0, 0xFFFF))
    wanted = _PACKET_IN_FORMAT.pack(NICIRA, _NX_SET_PACKET_IN_FORMAT, _NX_FORMAT_PACKET_IN2)
    yield Message(Type.EXPERIMENTER, wanted)


_PACKET_OUT = Struct(">IH2x")
_NOT_BUFFERED = 0xFFFFFFFF


def packet_out(packet: bytes, match: bytes, actions: bytes) -> Message:
    """Do the actions with a packet; ``match`` (encoded) says its ``in_port``. :raises ValueError: it is too long."""
    body = _PACKET_OUT.pack(_NOT_BUFFERED, len(actions)) + match + actions + packet
    if len(body) + HEADER.size > MAX_MESSAGE:
        raise ValueError(f"a packet of {len(packet)} bytes; a message holds {MAX_MESSAGE} with all that goes along")
    return Message(Type.PACKET_OUT, body)


_MULTIPART = Struct(">HH4x")
_FLOW_DESC = Struct(">B3xII4xQQHH4x")


def ask_flows(table: int = _ALL_TABLES) -> Message:
    """Describe every flow of a table, by default of every table."""
    everything = _FLOW_DESC.pack(table, _ANY, _ANY, 0, 0, 1, 4)
    return Message(Type.MULTIPART_REQUEST, _MULTIPART.pack(Multipart.FLOW_DESC, 0) + everything)


def ask_groups() -> Message:
    """Describe every group."""
    return Message(Type.MULTIPART_REQUEST, _MULTIPART.pack(Multipart.GROUP_DESC, 0) + Struct(">I4x").pack(0xFFFFFFFC))


_EXPERIMENTER = Struct(">II")
_CT_FLUSH_ZONE, _CT_FLUSH = 29, 32


def zone_flush(zone: int) -> Message:
    """Forget all connections of a conntrack zone (NXT_CT_FLUSH_ZONE)."""
    return Message(Type.EXPERIMENTER, _EXPERIMENTER.pack(NICIRA, _CT_FLUSH_ZONE) + Struct(">6xH").pack(zone))


_CT_FLUSH_HEAD, _PROPERTY = Struct(">B7x"), Struct(">HH")
_CT_ORIGINAL, _CT_REPLY, _CT_ZONE = 0, 1, 2
_CT_SOURCE, _CT_DESTINATION, _CT_DESTINATION_PORT = 0, 1, 3


def connections_flush(
    zone: int,
    protocol: int = 0,
    to: bytes = b"",
    port: int = 0,
    *,
    by: bytes = b"",
    answered_by: bytes = b"",
    answered_to: bytes = b"",
) -> Message:
    """Forget those connections of a conntrack zone of which all that is given holds (NXT_CT_FLUSH, Open vSwitch 3.1 or newer).

    They began with a packet by an address, to an address and port; the answers come from an address and go to one, as they are
    before they are translated back. Addresses are IPv4, packed. A port needs a protocol.
    """
    original = _address(_CT_SOURCE, by) + _address(_CT_DESTINATION, to)
    original += _property(_CT_DESTINATION_PORT, port.to_bytes(2, "big")) if port else b""
    reply = _address(_CT_SOURCE, answered_by) + _address(_CT_DESTINATION, answered_to)
    sides = b"".join(
        _property(kind, bytes(4) + side) for kind, side in ((_CT_ORIGINAL, original), (_CT_REPLY, reply)) if side
    )
    body = _CT_FLUSH_HEAD.pack(protocol) + sides + _property(_CT_ZONE, zone.to_bytes(2, "big"))
    return Message(Type.EXPERIMENTER, _EXPERIMENTER.pack(NICIRA, _CT_FLUSH) + body)


def _address(kind: int, ip: bytes) -> bytes:
    """As an IPv6 address that is an IPv4 one."""
    return _property(kind, bytes(10) + b"\xff\xff" + ip) if ip else b""


def _property(kind: int, value: bytes) -> bytes:
    """Padded to 8 bytes. Two bytes count as four (``ofpprop_put_be16`` in lib/ofp-prop.c)."""
    value += b"\0\0" if len(value) == 2 else b""
    length = _PROPERTY.size + len(value)
    return _PROPERTY.pack(kind, length) + value + bytes(-length & 7)


def ask_meters() -> Message:
    """Describe every meter."""
    return Message(Type.MULTIPART_REQUEST, _MULTIPART.pack(Multipart.METER_DESC, 0) + Struct(">I4x").pack(0xFFFFFFFF))
