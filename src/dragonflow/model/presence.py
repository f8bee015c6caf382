"""Where networks are: worked out of the rows of their ports, and kept nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from dragonflow.model.rows import LogicalPort


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """The chassis to which ports of network ``id`` are bound, at least one.

    Who needs to know them reads this, not the ports: it changes only when a chassis gets its first port or loses its last.
    """

    id: str
    chassis: frozenset[str]


def presences(ports: Iterable[LogicalPort]) -> Iterator[Presence]:
    """Those of all networks in which any of these ports is bound."""
    found: dict[str, set[str]] = {}
    for port in ports:
        if port.chassis is not None:
            found.setdefault(port.network, set()).add(port.chassis)
    return (Presence(id=network, chassis=frozenset(chassis)) for network, chassis in found.items())
