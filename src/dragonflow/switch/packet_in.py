"""Punted packets as Open vSwitch tells them (NXT_PACKET_IN2), and packets to send (OFPT_PACKET_OUT).

Sources: Open vSwitch's include/openflow/nicira-ext.h (nx_packet_in2_prop_type); OpenFlow 1.5.1 §7.3.6 and §7.2.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from struct import Struct

from dragonflow.pipeline.fields import FIELDS, Field
from dragonflow.pipeline.match import match
from dragonflow.pipeline.punt import PacketOut, Punted
from dragonflow.switch.openflow.encode import encode_actions, encode_match
from dragonflow.switch.openflow.messages import Message, packet_out

_PROPERTY = Struct(">HH")
_PACKET, _METADATA, _USERDATA = 0, 6, 7
_OXM = Struct(">HBB")
_PKT_REG, _EXPERIMENTER = 0x8001, 0xFFFF
_IN_PORT = FIELDS["in_port"]

_BY_NUMBER: dict[tuple[int, int], Field] = {
    (int.from_bytes(field.header[:2], "big"), field.header[2] >> 1): field for field in FIELDS.values()
}


class Unreadable(ValueError):
    """What came is no packet that one of our flows has punted."""


def decode_packet_in(body: bytes) -> Punted:
    """Read the properties of an NXT_PACKET_IN2. :raises Unreadable: they are cut short, or miss what our flows give."""
    properties = dict(_properties(body))
    userdata, packet = properties.get(_USERDATA), properties.get(_PACKET)
    if not userdata or packet is None:
        raise Unreadable("a packet without user data, or user data without a packet")
    fields = dict(read_fields(properties.get(_METADATA, b"")))
    return Punted(userdata[0], userdata[1:], packet, fields.pop(_IN_PORT, 0), fields)


def _properties(body: bytes) -> Iterator[tuple[int, bytes]]:
    at, end = 0, len(body)
    while end - at >= _PROPERTY.size:
        kind, length = _PROPERTY.unpack_from(body, at)
        if not _PROPERTY.size <= length <= end - at:
            raise Unreadable(f"a property of {length} bytes, {end - at} are left")
        yield kind, body[at + _PROPERTY.size : at + length]
        at += length + 7 & ~7
    if at < end:
        raise Unreadable(f"{end - at} bytes are left over")


def read_fields(oxms: bytes) -> Iterator[tuple[Field, int]]:
    """The fields that are known to the pipeline; of a masked one, bits outside the mask are zero."""
    at, end = 0, len(oxms)
    while at < end:
        if end - at < _OXM.size:
            raise Unreadable(f"a field of {end - at} bytes")
        oxm_class, number, length = _OXM.unpack_from(oxms, at)
        start = at + _OXM.size
        if start + length > end:
            raise Unreadable(f"a field of {length} bytes, {end - start} are left")
        value = oxms[start : start + (length // 2 if number & 1 else length)]
        if oxm_class == _PKT_REG and len(value) == 8 and number >> 1 < 8:
            for register, half in ((number & ~1, value[:4]), (number | 1, value[4:])):
                yield FIELDS[f"reg{register}"], int.from_bytes(half, "big")
        elif oxm_class != _EXPERIMENTER and (field := _BY_NUMBER.get((oxm_class, number >> 1))):
            yield field, int.from_bytes(value, "big")
        at = start + length


def encode_packet_out(out: PacketOut) -> Message:
    """The message that sends it. :raises ValueError: it is too long for one."""
    return packet_out(out.packet, _came_in(out.in_port), encode_actions(out.actions))


@lru_cache(maxsize=1024)
def _came_in(port: int) -> bytes:
    return encode_match(match(in_port=port))
