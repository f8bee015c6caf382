"""What a flow matches: OpenFlow fields by their Open vSwitch names (see ovs-fields(7))."""

from __future__ import annotations

from typing import Any

import msgspec

from dragonflow.pipeline.fields import FIELDS, Field, check_needs, parse
from dragonflow.pipeline.registers import Bits


class Condition(msgspec.Struct, frozen=True):
    """One field's value, and which of its bits count (None: all)."""

    field: Field
    value: int
    mask: int | None = None


class Match(msgspec.Struct, frozen=True):
    """A conjunction of conditions in Open vSwitch's own order, each field at most once."""

    conditions: tuple[Condition, ...]


def match(*bits: tuple[Bits, int], **fields: Any) -> Match:
    """Build a match: ``match((NETWORK, 5), eth_dst="fa:16:3e:00:00:01", ipv4_dst="10.0.0.0/24")``.

    Values are integers, ``(value, mask)`` pairs, or the usual text of addresses and prefixes. Several ``Bits`` of one register
    become one condition.

    :raises ValueError: unknown field, value out of range, bits that contradict each other, or a field without the others that
        it needs (``ipv4_src`` without ``eth_type=0x0800``); names the field.
    """
    found: dict[str, tuple[int, int]] = {}
    for where, number in bits:
        value, mask = found.get(where.field, (0, 0))
        if mask & where.mask:
            raise ValueError(f"{where.field}: the same bits are matched twice")
        found[where.field] = value | where.place(number), mask | where.mask
    for name, given in fields.items():
        if name in found:
            raise ValueError(f"{name}: matched as a register and as a field")
        found[name] = parse(name, given)
    check_needs(found)
    conditions = [
        Condition(FIELDS[name], value, None if mask == FIELDS[name].full else mask)
        for name, (value, mask) in found.items()
    ]
    return Match(tuple(sorted(conditions, key=lambda condition: condition.field.order)))
