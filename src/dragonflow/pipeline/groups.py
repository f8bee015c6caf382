"""The ids of groups. Each kind of group has a range of its own, in which an object's key is the number."""

from __future__ import annotations

from enum import IntEnum

_KEY_BITS = 24


class GroupKind(IntEnum):
    """What a group is for; the key is that of a logical switch."""

    FLOOD = 1
    """Broadcast and multicast of a network, from a port of this chassis: to all others here and once to each other chassis."""

    FLOOD_HERE = 2
    """The same for packets that came from another chassis: to the ports here alone."""

    UNKNOWN = 3
    """Unicast to a MAC that no port is known to have, from a port of this chassis."""

    UNKNOWN_HERE = 4
    """The same for packets that came from another chassis."""


def group_id(kind: GroupKind, key: int) -> int:
    """The OpenFlow group id. :raises ValueError: the key doesn't fit into 24 bits."""
    if not 0 <= key < 1 << _KEY_BITS:
        raise ValueError(f"{key} is no key of a logical switch (24 bits)")
    return kind << _KEY_BITS | key
