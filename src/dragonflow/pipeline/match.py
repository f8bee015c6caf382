"""What a flow matches: OpenFlow fields by their Open vSwitch names (see ovs-fields(7))."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import msgspec

from dragonflow.pipeline.fields import DECIDING, FIELDS, Field, check_needs, parse
from dragonflow.pipeline.registers import Bits


class Shape(msgspec.Struct, frozen=True, eq=False):
    """The fields of a match in Open vSwitch's own order, each with the mask of the bits that count: all but the values.

    There is exactly one object of each, so identity is equality. A few shapes serve all objects, so what can be found out from
    the shape alone (whether a table allows it, where the values go on the wire) is found out once.
    """

    fields: tuple[tuple[Field, int], ...]


class Match(msgspec.Struct, frozen=True):
    """A conjunction of conditions: a value for each field of the shape."""

    shape: Shape
    values: tuple[int, ...]


def match(*bits: tuple[Bits, int], **fields: Any) -> Match:
    """Build a match: ``match((NETWORK, 5), eth_dst="fa:16:3e:00:00:01", ipv4_dst="10.0.0.0/24")``.

    Values are integers, ``(value, mask)`` pairs, or the usual text of addresses and prefixes. Several ``Bits`` of one register
    become one condition.

    :raises ValueError: unknown field, value out of range, bits that contradict each other, or a field without the others that
        it needs (``ipv4_src`` without ``eth_type=0x0800``); names the field.
    """
    found: dict[str, tuple[int, int]] = {}
    for where, number in bits:
        name, value, mask = where.field, where.place(number), where.mask
        if name in found:
            value_before, mask_before = found[name]
            if mask & mask_before:
                raise ValueError(f"{name}: the same bits are matched twice")
            value, mask = value | value_before, mask | mask_before
        found[name] = value, mask
    for name, given in fields.items():
        if name in found:
            raise ValueError(f"{name}: matched as a register and as a field")
        found[name] = _parse(name, given)
    shape, order = _arrange(
        tuple([(name, mask, value if name in DECIDING else 0) for name, (value, mask) in found.items()])
    )
    return Match(shape, tuple([found[name][0] for name in order]))


def port_masks(first: int, last: int) -> Iterator[tuple[int, int]]:
    """A range of ports, both ends included, as the fewest ``(value, mask)`` pairs; at the most 30."""
    while first <= last:
        size = first & -first or 1 << 16
        while first + size - 1 > last:
            size >>= 1
        yield first, 0xFFFF & ~(size - 1)
        first += size


_parse = lru_cache(maxsize=4096)(parse)
"""Most values recur."""

_SHAPES: dict[tuple[tuple[Field, int], ...], Shape] = {}


@lru_cache(maxsize=4096)
def _arrange(given: tuple[tuple[str, int, int], ...]) -> tuple[Shape, tuple[str, ...]]:
    """The shape of what is given (name, mask, and the value if it is a deciding one), and the names in the shape's order.

    :raises ValueError: as ``match``
    """
    for name, mask, _ in given:
        parse(name, (0, mask))  # of named bits, nobody has seen yet whether the field has them
    check_needs({name: (value, mask) for name, mask, value in given})
    ordered = sorted(given, key=lambda condition: FIELDS[condition[0]].order)
    fields = tuple((FIELDS[name], mask) for name, mask, _ in ordered)
    return _SHAPES.setdefault(fields, Shape(fields)), tuple(name for name, _, _ in ordered)
