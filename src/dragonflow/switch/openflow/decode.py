"""OpenFlow 1.5 dumps → the names and contents that ``encode`` makes, so that a switch can be compared by bytes.

Sources: OpenFlow 1.5.1 §7.3.5.2 (flow desc), §7.3.5.8 (group desc), §7.3.5.14 (meter desc).
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct, error
from typing import NamedTuple

from dragonflow.pipeline.fields import FIELDS, Field
from dragonflow.switch.openflow.encode import flow_name_of
from dragonflow.switch.openflow.messages import METER_BITS, METER_PACKETS, BucketBytes

FOREIGN = b""
"""As a flow's contents: none that the ledger could ever want (it has timeouts, flags or an importance)."""

_FLOW = Struct(">H2xBxHHHHH8s HH")
_LENGTHS = Struct(">HH")
_FLOW_FIXED = 24


_OXM = Struct(">HBB")
_PKT_REG, _EXPERIMENTER = 0x8001, 0xFFFF

_BY_NUMBER: dict[tuple[int, int], Field] = {
    (int.from_bytes(field.header[:2], "big"), field.header[2] >> 1): field for field in FIELDS.values()
}


class Unreadable(ValueError):
    """What came is nothing that one of our flows has made."""


class GroupBytes(NamedTuple):
    """A group as dumped; ``buckets`` is None where it isn't a plain ``all`` group."""

    id: int
    buckets: tuple[BucketBytes, ...] | None


class MeterFigures(NamedTuple):
    """A meter as dumped; ``figures`` (rate, burst, whether in kilobits) is None where it isn't one of ours."""

    id: int
    figures: tuple[int, int, bool] | None


def _check(least: int, length: int, left: int) -> None:
    if not least <= length <= left:
        raise error(f"an entry of {length} bytes, {left} are left")


def decode_flows(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, contents) of each flow in a reply's body. :raises struct.error: the reply is cut short."""
    at, end = 0, len(body)
    while at < end:
        length, table, priority, idle, hard, flags, importance, cookie, _, match_length = _FLOW.unpack_from(body, at)
        match_end = at + _FLOW_FIXED + (match_length + 7 & ~7)
        _, stats_length = _LENGTHS.unpack_from(body, match_end)
        instructions = match_end + (stats_length + 7 & ~7)
        _check(_FLOW_FIXED, length, end - at)
        name = flow_name_of(table, priority, body[at + _FLOW_FIXED : match_end])
        plain = not (idle or hard or flags or importance)
        yield name, cookie + body[instructions : at + length] if plain else FOREIGN
        at += length


_OXS = Struct(">HBB")
_PACKET_COUNT = (0x8002, 4 << 1)
"""Class and field of a flow's packet counter (OpenFlow 1.5.1 §7.2.4.2)."""


def decode_counters(body: bytes) -> Iterator[tuple[dict[Field, int], int]]:
    """What each flow in a reply's body matches, and how many packets it has had.

    :raises struct.error: the reply is cut short; :raises Unreadable: so is a match.
    """
    at, end = 0, len(body)
    while at < end:
        length, *_, match_length = _FLOW.unpack_from(body, at)
        _check(_FLOW_FIXED, length, end - at)
        oxms = body[at + _FLOW.size : at + _FLOW_FIXED + match_length]
        statistics = at + _FLOW_FIXED + (match_length + 7 & ~7)
        _, size = _LENGTHS.unpack_from(body, statistics)
        packets = _packet_count(body[statistics + _LENGTHS.size : statistics + size])
        yield {field: value for field, value, _ in read_conditions(oxms)}, packets
        at += length


def _packet_count(statistics: bytes) -> int:
    at = 0
    while at < len(statistics):
        oxs_class, number, length = _OXS.unpack_from(statistics, at)
        at += _OXS.size
        if (oxs_class, number) == _PACKET_COUNT:
            return int.from_bytes(statistics[at : at + length], "big")
        at += length
    return 0


def read_conditions(oxms: bytes) -> Iterator[tuple[Field, int, int]]:
    """Field, value and mask of each condition that is known to the pipeline. :raises Unreadable: they are cut short."""
    at, end = 0, len(oxms)
    while at < end:
        if end - at < _OXM.size:
            raise Unreadable(f"a field of {end - at} bytes")
        oxm_class, number, length = _OXM.unpack_from(oxms, at)
        start = at + _OXM.size
        if start + length > end:
            raise Unreadable(f"a field of {length} bytes, {end - start} are left")
        value = oxms[start : start + (length // 2 if number & 1 else length)]
        mask = oxms[start + len(value) : start + length] or b"\xff" * len(value)
        if oxm_class == _PKT_REG and len(value) == 8 and number >> 1 < 8:
            for register, half in ((number & ~1, slice(4)), (number | 1, slice(4, 8))):
                yield FIELDS[f"reg{register}"], int.from_bytes(value[half], "big"), int.from_bytes(mask[half], "big")
        elif oxm_class != _EXPERIMENTER and (field := _BY_NUMBER.get((oxm_class, number >> 1))):
            yield field, int.from_bytes(value, "big"), int.from_bytes(mask, "big")
        at = start + length


_GROUP = Struct(">HBxIH")
_GROUP_FIXED = 16
_BUCKET = Struct(">HHI")


def decode_groups(body: bytes) -> Iterator[GroupBytes]:
    """Each group in a reply's body. :raises struct.error: the reply is cut short."""
    at = 0
    while at < len(body):
        length, kind, group, buckets_length = _GROUP.unpack_from(body, at)
        _check(_GROUP_FIXED, length, len(body) - at)
        start = at + _GROUP_FIXED
        properties = length - _GROUP_FIXED - buckets_length
        buckets = tuple(_decode_buckets(body[start : start + buckets_length]))
        plain = kind == 0 and not properties and None not in buckets
        yield GroupBytes(group, tuple(bucket for bucket in buckets if bucket) if plain else None)
        at += length


def _decode_buckets(body: bytes) -> Iterator[BucketBytes | None]:
    """Each bucket; None for one with properties (watch ports, weights), which ours never have."""
    at = 0
    while at < len(body):
        length, actions_length, bucket = _BUCKET.unpack_from(body, at)
        _check(_BUCKET.size, length, len(body) - at)
        start = at + _BUCKET.size
        plain = length == _BUCKET.size + actions_length
        yield BucketBytes(bucket, body[start : start + actions_length]) if plain else None
        at += length


_METER = Struct(">HHI")
_BAND = Struct(">HHII")


def decode_meters(body: bytes) -> Iterator[MeterFigures]:
    """Each meter in a reply's body. :raises struct.error: the reply is cut short."""
    at = 0
    while at < len(body):
        length, flags, meter = _METER.unpack_from(body, at)
        _check(_METER.size, length, len(body) - at)
        figures = None
        if length == _METER.size + 16 and flags in (METER_PACKETS, METER_BITS):
            kind, _, rate, burst = _BAND.unpack_from(body, at + _METER.size)
            figures = (rate, burst, flags == METER_BITS) if kind == 1 else None
        yield MeterFigures(meter, figures)
        at += length
