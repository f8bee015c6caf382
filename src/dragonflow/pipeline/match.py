"""What a flow matches: OpenFlow fields by their Open vSwitch names (see ovs-fields(7))."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec

from dragonflow.pipeline.fields import DECIDING, FIELDS, Field, check_needs, parse
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
    found: dict[str, Condition] = {}
    for where, number in bits:
        other = found.get(where.field)
        if other is None:
            found[where.field] = _named(where, number)
            continue
        mask = other.field.full if other.mask is None else other.mask
        if mask & where.mask:
            raise ValueError(f"{where.field}: the same bits are matched twice")
        found[where.field] = _condition(where.field, (other.value | where.place(number), mask | where.mask))
    for name, given in fields.items():
        if name in found:
            raise ValueError(f"{name}: matched as a register and as a field")
        found[name] = _condition(name, given)
    shape = []
    for name, condition in found.items():
        shape.append((name, condition.mask is None, condition.value if name in DECIDING else None))
    return Match(tuple([found[name] for name in _order(tuple(shape))]))


@lru_cache(maxsize=4096)
def _condition(name: str, given: Any) -> Condition:
    """One condition; remembered, because most recur: equal ones are one object."""
    value, mask = parse(name, given)
    return Condition(FIELDS[name], value, None if mask == FIELDS[name].full else mask)


@lru_cache(maxsize=4096)
def _named(where: Bits, number: int) -> Condition:
    return _condition(where.field, (where.place(number), where.mask))


@lru_cache(maxsize=4096)
def _order(shape: tuple[tuple[str, bool, int | None], ...]) -> tuple[str, ...]:
    """The fields in Open vSwitch's order, if they may stand together; the same few combinations recur for all objects."""
    check_needs({name: (value or 0, FIELDS[name].full if whole else 0) for name, whole, value in shape})
    return tuple(sorted((name for name, _, _ in shape), key=lambda name: FIELDS[name].order))
