"""Which conntrack zones of a chassis are whose: one a router, one a port, and one for each address of the chassis's own.

A zone is a number of 16 bits, and 0 is the host's. Routers have theirs by their keys; the last ones are the chassis's own. Those
of ports (``model.zones``) lie between.
"""

from __future__ import annotations

from dragonflow.model.zones import NUMBERS as PORTS

_LAST = 0xFFFF

MOST_ADDRESSES = 256
"""So many addresses of its own a chassis may have."""

_ROUTERS = PORTS[0] - 1


def router_zone(key: int) -> int:
    """The zone of the router with this key: unique as long as the region's routers have no more than 24575 numbers."""
    return 1 + (key - 1) % _ROUTERS


def is_ports(zone: int) -> bool:
    """Whether the zone is a port's."""
    return PORTS[0] <= zone <= PORTS[1]


def address_zone(number: int) -> int:
    """The zone of the chassis's own address of this number, from 0 on."""
    return _LAST - number
