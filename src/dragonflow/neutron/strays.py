"""What chassis and servers have left in the DF DB and nobody will ever take away. Pure: the records come in.

A controller that lives writes its own rows anew when they are missing, so to take one away too many costs a moment, not a fault.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from dragonflow.model import (
    ALIVE_SCOPE,
    CHASSIS_SCOPE,
    LEADER_SCOPE,
    SERVER_SCOPE,
    Alive,
    Chassis,
    Corrupt,
    NewerSchema,
    PortStatus,
    TunnelState,
    UnknownKind,
    decode,
)
from dragonflow.store.protocol import Record

SCOPES = (CHASSIS_SCOPE, ALIVE_SCOPE, SERVER_SCOPE, LEADER_SCOPE, "status:*")


def strays(records: Iterable[Record], ports: Collection[str]) -> Iterator[tuple[Record, str]]:
    """The records of ``SCOPES`` that can go, and why. ``ports`` are Neutron's, as far as any status row speaks of them.

    What a newer Dragonflow wrote is none of them.
    """
    records = tuple(records)
    chassis = {record.key.id for record in records if record.key.kind == Chassis.__name__}
    alive = {record.key.id for record in records if record.key.kind == Alive.__name__}
    for record in records:
        key = record.key
        try:
            decode(key.kind, key.id, record.data or b"", key.scope)
        except (NewerSchema, UnknownKind):
            continue
        except Corrupt as error:
            yield record, f"corrupt: {error}"
            continue
        if key.kind == PortStatus.__name__:
            host = key.scope.removeprefix("status:")
            if key.id not in ports:
                yield record, f"orphan: {host} speaks of a port that Neutron has not"
            elif host not in chassis and host not in alive:
                yield record, f"orphan: there is no chassis {host}"
        elif key.kind == TunnelState.__name__:
            host = key.scope.removeprefix("status:")
            if host not in chassis and host not in alive:
                yield record, f"orphan: there is no chassis {host}"
        elif key.kind == Alive.__name__ and key.id not in chassis:
            yield record, "orphan: alive, but there is no such chassis"
