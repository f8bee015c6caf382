"""What is worked out of the rows of ports, and kept nowhere else: where networks are, here and in other regions.

Who needs to know reads this, not the ports: it changes only when a chassis gets its first port of a network or loses its last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from dragonflow.model.rows import LogicalPort, remote_vtep


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """The chassis of this region to which ports of network ``id`` are bound, at least one."""

    id: str
    members: frozenset[str]

    @property
    def chassis(self) -> frozenset[str]:
        """Their names."""
        return self.members


class Stretched(NamedTuple):
    """A network that has ports at a chassis of another region.

    ``encapsulation`` is the one that its network has there; None: the same as here.
    """

    network: str
    encapsulation: str | None


class RemoteChassis(msgspec.Struct, frozen=True, kw_only=True):
    """A chassis of another region, known only by the ports there, at least one; ``id`` is its name (see ``remote_chassis``)."""

    id: str
    members: frozenset[Stretched]

    @property
    def vtep(self) -> str:
        """Its VTEP."""
        return remote_vtep(self.id) or ""

    @property
    def networks(self) -> frozenset[str]:
        """The networks (their ids here) of its ports."""
        return frozenset(it.network for it in self.members)


class Seat(NamedTuple):
    """What one port adds to such an object: the kind and id of the object, and its ``member``."""

    kind: type[Presence | RemoteChassis]
    id: str
    member: Any


DERIVED: tuple[type[Presence | RemoteChassis], ...] = (Presence, RemoteChassis)


def seat(port: LogicalPort | None) -> Seat | None:
    """Where the port counts; None if it is bound nowhere."""
    if port is None or port.chassis is None:
        return None
    if remote_vtep(port.chassis) is None:
        return Seat(Presence, port.network, port.chassis)
    encapsulation = None if port.remote is None else port.remote.encapsulation
    return Seat(RemoteChassis, port.chassis, Stretched(port.network, encapsulation))


def worked_out(ports: Iterable[LogicalPort]) -> Iterator[Presence | RemoteChassis]:
    """All that follows from these ports."""
    found: dict[tuple[type[Presence | RemoteChassis], str], set[Any]] = {}
    for it in filter(None, map(seat, ports)):
        found.setdefault((it.kind, it.id), set()).add(it.member)
    return (kind(id=name, members=frozenset(members)) for (kind, name), members in found.items())
