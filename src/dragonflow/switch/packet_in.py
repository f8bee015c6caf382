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
from dragonflow.switch.openflow.decode import Unreadable, read_conditions
from dragonflow.switch.openflow.encode import encode_actions, encode_match
from dragonflow.switch.openflow.messages import Message, packet_out

_PROPERTY = Struct(">HH")
_PACKET, _METADATA, _USERDATA = 0, 6, 7
_IN_PORT = FIELDS["in_port"]


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
    return ((field, value) for field, value, _ in read_conditions(oxms))


def encode_packet_out(out: PacketOut) -> Message:
    """The message that sends it. :raises ValueError: it is too long for one."""
    return packet_out(out.packet, _came_in(out.in_port), encode_actions(out.actions))


@lru_cache(maxsize=1024)
def _came_in(port: int) -> bytes:
    return encode_match(match(in_port=port))
