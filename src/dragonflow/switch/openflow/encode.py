"""Matches, actions and facts → OpenFlow 1.5 bytes, in the very form in which Open vSwitch dumps them again.

That a dump equals what was sent is what lets the ledger compare a switch with the desired state by bytes alone. Two things
follow from it: pairs of 32-bit registers travel as one 64-bit ``pkt_reg``, and moves as OpenFlow's own ``copy_field``.

Sources: OpenFlow 1.5.1 §7.2; Open vSwitch's lib/nx-match.c and lib/ofp-actions.c.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address
from itertools import groupby
from struct import Struct
from typing import Any, NamedTuple

from dragonflow.pipeline.action import (
    Action,
    ApplyMeter,
    CheckSize,
    Clone,
    DecTtl,
    Move,
    Output,
    OutputTo,
    PopVlan,
    Punt,
    PushVlan,
    Resubmit,
    SetField,
    Spread,
    Track,
    Translate,
    Untrack,
)
from dragonflow.pipeline.facts import Clause
from dragonflow.pipeline.fields import FIELDS, Field
from dragonflow.pipeline.match import Match, Shape
from dragonflow.pipeline.registers import Bits

_PADDING = tuple(bytes(-length % 8) for length in range(8))

_PKT_REG = tuple(Struct(">HBB").pack(0x8001, number << 1, 8) for number in range(8))
_PKT_REG_MASKED = tuple(Struct(">HBB").pack(0x8001, number << 1 | 1, 16) for number in range(8))
_FULL_PKT_REG = (1 << 64) - 1

_MATCH = Struct(">HH")
_FLOW_NAME = Struct(">BB4xHIIIHH")
_ANY = 0xFFFFFFFF
_INSTRUCTION = Struct(">HH4x")
_GOTO = tuple(Struct(">HHB3x").pack(1, 8, table) for table in range(256))


class _Form(NamedTuple):
    """All matches of one shape on the wire, as a number of ``length`` bytes whose values are zero yet.

    ``shifts`` are the places of the values in it, in bits from its end.
    """

    number: int
    shifts: tuple[int, ...]
    length: int


def encode_match(match: Match) -> bytes:
    """An ``ofp_match`` of type OXM, with its padding to 8 bytes."""
    number, shifts, length = _form(match.shape)
    for value, shift in zip(match.values, shifts, strict=True):
        number |= value << shift
    return number.to_bytes(length, "big")


@lru_cache(maxsize=4096)
def _form(shape: Shape) -> _Form:
    oxms = b""
    ends = []  # of the values, in bytes
    for unit, conditions in groupby(shape.fields, key=_unit):
        if isinstance(unit, Field):
            ((_, mask),) = conditions
            ends.append(len(oxms) + 4 + unit.size)
            oxms += unit.header if mask == unit.full else unit.masked_header
            oxms += _value_and_mask(unit.size, unit.full, mask)
            continue
        pair_mask, second = 0, FIELDS[f"reg{2 * unit + 1}"]
        for register, mask in conditions:
            pair_mask |= mask if register is second else mask << 32
            ends.append(len(oxms) + (12 if register is second else 8))
        whole = pair_mask == _FULL_PKT_REG
        oxms += (_PKT_REG if whole else _PKT_REG_MASKED)[unit] + _value_and_mask(8, _FULL_PKT_REG, pair_mask)
    length = 4 + len(oxms)
    wire = _MATCH.pack(1, length) + oxms + _PADDING[length & 7]
    return _Form(int.from_bytes(wire, "big"), tuple(8 * (len(wire) - 4 - end) for end in ends), len(wire))


def _unit(condition: tuple[Field, int]) -> Field | int:
    """What travels together: a field by itself, or a pair of registers."""
    field, _ = condition
    return field if field.register is None else field.register >> 1


def _value_and_mask(size: int, full: int, mask: int) -> bytes:
    """Room for the value, and the mask unless it is full."""
    return bytes(size) if mask == full else bytes(size) + mask.to_bytes(size, "big")


_OUTPUT = Struct(">HHIH6x")
_NUMBERED = Struct(">HHI")
_PUSH_VLAN = Struct(">HHH2x")
_POP_VLAN = Struct(">HH4x").pack(18, 8)
_RESUBMIT = Struct(">HHIHHB3x")
_COPY_FIELD = Struct(">HHHHH2x")
_DEC_TTL = Struct(">HH4x").pack(24, 8)
_MULTIPATH = Struct(">HHIHHH2xHHI2xH4s")

_CHECK_PKT_LARGER = Struct(">HHIHHH4s6x")

_CONTROLLER2 = _CLONE = Struct(">HHIH6x")
_PROPERTY = Struct(">HH")

_CT = Struct(">HHIHHIHB3xH")
_CT_COMMIT, _CT_FORCE = 1, 2
_NAT = Struct(">HHIH2xHH")
_NAT_SOURCE, _NAT_DESTINATION = 1, 2
_NAT_ADDRESS, _NAT_FIRST_PORT, _NAT_LAST_PORT = 1, 16, 32
_CONJUNCTION = Struct(">HHIHBBI")

_PORT = Struct(">H")

NICIRA = 0x00002320
_NX_RESUBMIT_TABLE, _NX_CONTROLLER2, _NX_CLONE = 14, 37, 42
_NX_MULTIPATH = 10
_NX_CHECK_PKT_LARGER = 49
_NX_CONJUNCTION = 34
_NX_NO_RECIRCULATION = 0xFF
_NX_CT, _NX_NAT, _NX_CT_CLEAR = 35, 36, 43
_SYMMETRIC_L3L4, _MODULO_N = 2, 0
_NX_IN_PORT = 0xFFF8
_NX_USERDATA = 3
"""NXAC2PT_USERDATA. Without NXAC2PT_MAX_LEN the whole packet is sent."""


def _set_field_frame(field: Field, copies: int) -> tuple[bytes, bytes]:
    """What stands before and after the value (and mask) in a set_field of this field."""
    length = 8 + field.size * copies
    padding = _PADDING[length & 7]
    header = field.header if copies == 1 else field.masked_header
    return _MATCH.pack(25, length + len(padding)) + header, padding


_SET: Mapping[Field, tuple[bytes, bytes]] = {field: _set_field_frame(field, 1) for field in FIELDS.values()}
_SET_MASKED: Mapping[Field, tuple[bytes, bytes]] = {field: _set_field_frame(field, 2) for field in FIELDS.values()}


def _set_field(action: SetField) -> bytes:
    field, mask = action.field, action.mask
    size = field.size
    if mask is None or mask == field.full:
        before, after = _SET[field]
        return before + action.value.to_bytes(size, "big") + after
    before, after = _SET_MASKED[field]
    return before + action.value.to_bytes(size, "big") + mask.to_bytes(size, "big") + after


def _move(action: Move) -> bytes:
    frame = _COPY_FIELD.pack(28, 24, action.width, action.source_offset, action.target_offset)
    return frame + action.source.header + action.target.header + bytes(4)


def _punt(action: Punt) -> bytes:
    data = bytes((action.kind, *action.data))
    length = _PROPERTY.size + len(data)
    userdata = _PROPERTY.pack(_NX_USERDATA, length) + data + _PADDING[length & 7]
    return _CONTROLLER2.pack(0xFFFF, _CONTROLLER2.size + len(userdata), NICIRA, _NX_CONTROLLER2) + userdata


def _spread(action: Spread) -> bytes:
    target = action.target
    where = target.offset << 6 | target.width - 1
    how = (_NX_MULTIPATH, _SYMMETRIC_L3L4, 0, _MODULO_N, action.paths - 1, 0)
    return _MULTIPATH.pack(0xFFFF, _MULTIPATH.size, NICIRA, *how, where, FIELDS[target.field].header)


def _check_size(action: CheckSize) -> bytes:
    target = action.target
    what = (_NX_CHECK_PKT_LARGER, action.most, target.offset, FIELDS[target.field].header)
    return _CHECK_PKT_LARGER.pack(0xFFFF, _CHECK_PKT_LARGER.size, NICIRA, *what)


def _clone(action: Clone) -> bytes:
    inner = encode_actions(action.actions)
    return _CLONE.pack(0xFFFF, _CLONE.size + len(inner), NICIRA, _NX_CLONE) + inner


def _track(action: Track) -> bytes:
    if isinstance(action.zone, Bits):
        source = int.from_bytes(FIELDS[action.zone.field].header, "big")
        zone = action.zone.offset << 6 | action.zone.width - 1
    else:
        source, zone = 0, action.zone
        if not 0 < zone < 1 << 16:
            raise ValueError(f"conntrack zone {zone} is not within 1 … 65535")
    done = b"" if action.translate is None else _translate(action.translate)
    if action.mark is not None:
        done = _set_field(SetField(FIELDS["ct_mark"], action.mark))
    flags = (_CT_COMMIT if action.commit else 0) | (_CT_FORCE if action.force else 0)
    table = _NX_NO_RECIRCULATION if action.table is None else action.table
    return _CT.pack(0xFFFF, _CT.size + len(done), NICIRA, _NX_CT, flags, source, zone, table, action.helper or 0) + done


def _translate(action: Translate) -> bytes:
    flags = present = 0
    arguments = b""
    if (address := action.source or action.destination) is not None:
        flags = _NAT_SOURCE if action.source is not None else _NAT_DESTINATION
        present, arguments = _NAT_ADDRESS, IPv4Address(address).packed
    if action.ports is not None:
        first, last = action.ports
        present, arguments = present | _NAT_FIRST_PORT, arguments + _PORT.pack(first)
        if last != first:
            present, arguments = present | _NAT_LAST_PORT, arguments + _PORT.pack(last)
    arguments += _PADDING[len(arguments) & 7]
    return _NAT.pack(0xFFFF, _NAT.size + len(arguments), NICIRA, _NX_NAT, flags, present) + arguments


_UNTRACK = Struct(">HHIH6x").pack(0xFFFF, 16, NICIRA, _NX_CT_CLEAR)

_TRANSLATES = re.compile(
    # a ct action that commits, from its vendor number on, and in it a nat to one address
    re.escape(Struct(">IHH").pack(NICIRA, _NX_CT, _CT_COMMIT))
    + b".{4}(?P<zone>..).{6}"
    + re.escape(b"\xff\xff")
    + b".."
    + re.escape(Struct(">IH").pack(NICIRA, _NX_NAT))
    + b"..\0(?P<flags>.)\0(?P<present>.)(?P<address>.{4})(?P<ports>.{4})?",
    re.DOTALL,
)


_SOURCE_BEFORE, _ = _SET[FIELDS["ipv4_src"]]


class Translation(NamedTuple):
    """What a flow begins in a conntrack zone: connections with a new source address (packed) or destination, and its ports.

    ``guest`` is the source address that it writes before, if it does.
    """

    zone: int
    source: bool
    address: bytes
    ports: bytes
    guest: bytes = b""


_TRACKS = re.compile(
    # a ct action that does nothing but find out, in a zone that is a number
    re.escape(Struct(">HHIHHI").pack(0xFFFF, 24, NICIRA, _NX_CT, 0, 0)) + b"(?P<zone>..)",
    re.DOTALL,
)


def tracked(instructions: bytes) -> int | None:
    """The conntrack zone in which a flow, as it stands on a switch, finds connections without translating them."""
    found = _TRACKS.search(instructions)
    return None if found is None else int.from_bytes(found["zone"], "big")


def translation(instructions: bytes) -> Translation | None:
    """How a flow, as it stands on a switch, translates the connections that it begins; None if it begins none."""
    found = _TRANSLATES.search(instructions)
    if found is None or not found["present"][0] & _NAT_ADDRESS:
        return None
    present = found["present"][0]
    length = 2 * (bool(present & _NAT_FIRST_PORT) + bool(present & _NAT_LAST_PORT))
    source = bool(found["flags"][0] & _NAT_SOURCE)
    at = instructions.find(_SOURCE_BEFORE, 0, found.start())
    guest = b"" if at < 0 else instructions[at + len(_SOURCE_BEFORE) :][:4]
    ports = (found["ports"] or b"")[:length]
    return Translation(int.from_bytes(found["zone"], "big"), source, found["address"], ports, guest)


_ENCODERS: Mapping[type, Callable[[Any], bytes]] = {
    Output: lambda action: _OUTPUT.pack(0, 16, action.port, 0),
    OutputTo: lambda action: _NUMBERED.pack(22, 8, action.group),
    SetField: _set_field,
    Move: _move,
    PushVlan: lambda action: _PUSH_VLAN.pack(17, 8, action.ethertype),
    PopVlan: lambda _: _POP_VLAN,
    Resubmit: lambda action: _RESUBMIT.pack(0xFFFF, 16, NICIRA, _NX_RESUBMIT_TABLE, _NX_IN_PORT, action.table),
    ApplyMeter: lambda action: _NUMBERED.pack(29, 8, action.meter),
    DecTtl: lambda _: _DEC_TTL,
    Spread: _spread,
    CheckSize: _check_size,
    Punt: _punt,
    Clone: _clone,
    Track: _track,
    Untrack: lambda _: _UNTRACK,
}


def encode_actions(actions: Sequence[Action]) -> bytes:
    """A list of actions; each is padded to 8 bytes by itself."""
    return b"".join([_ENCODERS[type(action)](action) for action in actions])


def encode_instructions(actions: Sequence[Action], goto: int | None) -> bytes:
    """``apply_actions``, then ``goto_table``; nothing at all drops the packet."""
    done = b""
    if actions:
        done = encode_actions(actions)
        done = _INSTRUCTION.pack(4, 8 + len(done)) + done
    return done if goto is None else done + _GOTO[goto]


def conjunction(clause: Clause) -> bytes:
    """The action that says which dimension of a conjunction is fulfilled (NXAST_CONJUNCTION)."""
    what = clause.dimension - 1, clause.dimensions, clause.conjunction
    return _CONJUNCTION.pack(0xFFFF, _CONJUNCTION.size, NICIRA, _NX_CONJUNCTION, *what)


def conjunctions(cookie: bytes, actions: Iterable[bytes]) -> bytes:
    """What a flow holds that fulfils these dimensions (see ``flow_contents``)."""
    done = b"".join(sorted(actions))
    return cookie + _INSTRUCTION.pack(4, _INSTRUCTION.size + len(done)) + done


def flow_name(table: int, priority: int, match: Match) -> bytes:
    """What a flow table knows a flow by: table, priority and match.

    It is just the part of a flow mod from the table id to the match, so that most of a flow mod is ready-made.
    """
    return flow_name_of(table, priority, encode_match(match))


def flow_name_of(table: int, priority: int, match: bytes) -> bytes:
    """The same of an encoded match."""
    # OFPFC_ADD, no timeouts; no buffer, any port, any group, no flags, importance 0
    return _FLOW_NAME.pack(table, 0, priority, _ANY, _ANY, _ANY, 0, 0) + match


def match_of(name: bytes) -> bytes:
    """The fields (OXMs) that a flow's name matches."""
    end = _FLOW_NAME.size + int.from_bytes(name[_FLOW_NAME.size + 2 : _FLOW_NAME.size + 4], "big")
    return name[_FLOW_NAME.size + 4 : end]


def table_and_priority(name: bytes) -> tuple[int, int]:
    """Of a flow's name."""
    return name[0], int.from_bytes(name[6:8], "big")


def flow_contents(cookie: bytes, actions: Sequence[Action], goto: int | None) -> bytes:
    """What a flow holds under its name: cookie (8 bytes) and instructions."""
    return cookie + encode_instructions(actions, goto)
