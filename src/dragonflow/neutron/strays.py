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
    CodecError,
    Corrupt,
    Holder,
    NewerSchema,
    PortStatus,
    TunnelState,
    UnknownKind,
    decode,
    holder_scope,
    status_scope,
)
from dragonflow.store.protocol import Record

SCOPES = (CHASSIS_SCOPE, ALIVE_SCOPE, SERVER_SCOPE, LEADER_SCOPE, status_scope("*"), holder_scope("*"))


def strays(records: Iterable[Record], ports: Collection[str]) -> Iterator[tuple[Record, str]]:
    """The records of ``SCOPES`` that can go, and why. ``ports`` are Neutron's, as far as any of the records speaks of them.

    What a newer Dragonflow wrote is none of them.
    """
    records = tuple(records)
    chassis = {record.key.id for record in records if record.key.kind == Chassis.__name__}
    alive = {record.key.id for record in records if record.key.kind == Alive.__name__}
    for record in records:
        key = record.key
        try:
            row = decode(key.kind, key.id, record.data or b"", key.scope)
        except (NewerSchema, UnknownKind):
            continue
        except Corrupt as error:
            yield record, f"corrupt: {error}"
            continue
        if isinstance(row, PortStatus | Holder):
            if spoken_of(record) not in ports:
                yield record, f"orphan: {row.chassis} speaks of a port that Neutron has not"
            elif row.chassis not in chassis and row.chassis not in alive:
                yield record, f"orphan: there is no chassis {row.chassis}"
        elif isinstance(row, TunnelState):
            if row.chassis not in chassis and row.chassis not in alive:
                yield record, f"orphan: there is no chassis {row.chassis}"
        elif key.kind == Alive.__name__ and key.id not in chassis:
            yield record, "orphan: alive, but there is no such chassis"


def spoken_of(record: Record) -> str | None:
    """The port of which a chassis speaks in the record, as far as it can be read; None if it is no such record."""
    if record.key.kind == PortStatus.__name__:
        return record.key.id
    if record.key.kind != Holder.__name__:
        return None
    try:
        row = decode(record.key.kind, record.key.id, record.data or b"", record.key.scope)
    except CodecError:
        return None
    return row.port if isinstance(row, Holder) else None
