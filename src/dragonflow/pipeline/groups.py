"""The ids of groups. Each kind of group has a range of its own, in which an object's key is the number."""

from __future__ import annotations

from enum import IntEnum

_KEY_BITS = 24


class GroupKind(IntEnum):
    """What a group is for; the key is that of a logical switch."""

    FLOOD = 1
    FLOOD_HERE = 2
    UNKNOWN = 3
    UNKNOWN_HERE = 4


PURPOSES = {
    GroupKind.FLOOD: "broadcast and multicast from a port here: to all here, once to each other chassis, to the physical network",
    GroupKind.FLOOD_HERE: "broadcast and multicast from outside: to all here",
    GroupKind.UNKNOWN: "unicast to nobody's MAC from a port here: to ports without port security, to the physical network",
    GroupKind.UNKNOWN_HERE: "unicast to nobody's MAC from outside: to ports without port security here",
}


def group_id(kind: GroupKind, key: int) -> int:
    """The OpenFlow group id. :raises ValueError: the key doesn't fit into 24 bits."""
    if not 0 <= key < 1 << _KEY_BITS:
        raise ValueError(f"{key} is no key of a logical switch (24 bits)")
    return kind << _KEY_BITS | key
