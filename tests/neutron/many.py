"""Thousands of bound ports at once: lines of Neutron's tables and rows of the DF DB as its API would have left them."""

from __future__ import annotations

import uuid
from collections.abc import Collection

import sqlalchemy as sa
from msgspec.structs import replace
from region import Region, Server

from dragonflow.model import Binding, LogicalPort, PortStatus, decode, encode
from dragonflow.store.protocol import Delete, Key, Put, Txn

BATCH = 1000
TABLES = ("standardattributes", "ports", "ml2_port_bindings", "ml2_port_binding_levels", "df_port_generations")


def many_ports(region: Region, server: Server, number: int, hosts: Collection[str], status: str = "DOWN") -> list[str]:
    """So many ports like one that Neutron makes, bound to the hosts in turn, in both databases. They hold no keys."""
    network = region.network(server)
    (model,) = region.ports(server, network, 1, next(iter(hosts)))
    metadata = sa.MetaData()
    with region.engine.begin() as connection:
        tables = {
            name: sa.Table(name, metadata, autoload_with=connection) for name in (*TABLES, "portsecuritybindings")
        }

        def one(table: str, column: str, value: object) -> dict[str, object]:
            found = connection.execute(sa.select(tables[table]).where(tables[table].c[column] == value))
            return dict(found.mappings().one())

        port = one("ports", "id", model)
        attributes = one("standardattributes", "id", port["standard_attr_id"])
        rest = {name: one(name, "port_id", model) for name in (*TABLES[2:], "portsecuritybindings")}
        first = connection.scalar(sa.select(sa.func.max(tables["standardattributes"].c.id))) + 1000
        ids = [str(uuid.UUID(int=uuid.uuid4().int)) for _ in range(number)]
        places = dict(zip(ids, (list(hosts) * (number // len(hosts) + 1))[:number], strict=True))
        for start in range(0, number, BATCH):
            some = list(enumerate(ids[start : start + BATCH], first + start))
            connection.execute(sa.insert(tables["standardattributes"]), [attributes | {"id": n} for n, _ in some])
            lines = [
                port
                | {
                    "id": port_id,
                    "standard_attr_id": n,
                    "status": status,
                    "mac_address": _mac(n),
                    "device_id": port_id,
                }
                for n, port_id in some
            ]
            connection.execute(sa.insert(tables["ports"]), lines)
            for name, line in rest.items():
                hosted = [{"host": places[port_id]} if "host" in line else {} for _, port_id in some]
                lines = [line | host | {"port_id": port_id} for host, (_, port_id) in zip(hosted, some, strict=True)]
                connection.execute(sa.insert(tables[name]), lines)
    key = Key(f"net:{network}", "LogicalPort", model)
    record = region.dfdb.store.get(key)
    assert record is not None
    row = decode(key.kind, model, record.data or b"")
    assert isinstance(row, LogicalPort)
    writes: list[Put | Delete] = []
    for n, port_id in enumerate(ids, first):
        new = replace(row, id=port_id, key=n, mac=_mac(n), device_id=port_id, chassis=places[port_id])
        binding = Binding(id=port_id, host=places[port_id], network=network, generation=row.generation)
        writes += [Put(Key(r.scope, type(r).__name__, port_id), encode(r)) for r in (new, binding)]
    for start in range(0, len(writes), BATCH):
        region.dfdb.store.commit(Txn(tuple(writes[start : start + BATCH])))
    region.generation = row.generation
    region.places |= places
    return ids


def say(region: Region, status: str, ports: Collection[str]) -> None:
    """What the hosts of these ports say, in commits of a hundred."""
    rows = [
        PortStatus(
            id=port, chassis=region.places[port], generation=region.generation, status=status, revision=1, at=0.0
        )
        for port in ports
    ]
    region.put(*rows)


def _mac(number: int) -> str:
    return "fa:16:" + ":".join(f"{byte:02x}" for byte in number.to_bytes(4, "big"))
