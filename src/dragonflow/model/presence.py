"""What is worked out of the rows of ports, and kept nowhere else: where networks are, here and in other
regions, and who may say which shared addresses are held.

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


class Sharing(msgspec.Struct, frozen=True, kw_only=True):
    """The chassis of this region that may say who holds the shared addresses of network ``id``, at least one.

    Each has, or is prepared for, a port there with allowed address pairs.
    """

    id: str
    members: frozenset[str]


Seated = Presence | RemoteChassis | Sharing

SEATED: tuple[type[Seated], ...] = (Presence, RemoteChassis, Sharing)


class Seat(NamedTuple):
    """What one port adds to such an object: the kind and id of the object, and its ``member``."""

    kind: type[Seated]
    id: str
    member: Any


def seats(port: LogicalPort | None) -> tuple[Seat, ...]:
    """Where the port counts; nowhere if it is bound nowhere."""
    if port is None or port.chassis is None:
        return ()
    if remote_vtep(port.chassis) is not None:
        encapsulation = None if port.remote is None else port.remote.encapsulation
        return (Seat(RemoteChassis, port.chassis, Stretched(port.network, encapsulation)),)
    here = Seat(Presence, port.network, port.chassis)
    if not port.address_pairs:
        return (here,)
    return (here, *(Seat(Sharing, port.network, chassis) for chassis in (port.chassis, *port.standby)))


def seated(ports: Iterable[LogicalPort]) -> Iterator[Seated]:
    """All that follows from these ports."""
    found: dict[tuple[type[Seated], str], set[Any]] = {}
    for port in ports:
        for it in seats(port):
            found.setdefault((it.kind, it.id), set()).add(it.member)
    return (kind(id=name, members=frozenset(members)) for (kind, name), members in found.items())
