"""Where each chassis must place a port, as far as the DF DB tells: by the apps themselves, on the rows that each chassis follows.

The DF DB doesn't hold interfaces. It is taken for granted that a chassis has the tunnel ports that it offers, that the bridges it
maps are there, and that a port is plugged where a status row says that it works. OpenFlow ports are made up: they mean nothing.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from dragonflow.apps import APPS
from dragonflow.apps.tunnel import tunnel_name
from dragonflow.apps.wiring import patch_name, reached
from dragonflow.controller.engine import Engine
from dragonflow.controller.replica import Replica
from dragonflow.controller.topology import needed_scopes
from dragonflow.controller.view import Me
from dragonflow.model import (
    Alive,
    Binding,
    Chassis,
    FloatingIp,
    GroupMember,
    Holder,
    LogicalPort,
    LogicalRouter,
    LogicalSwitch,
    OvsPort,
    PortStatus,
    Row,
    Subnet,
    place_of,
    worked_out,
)
from dragonflow.pipeline.facts import Locality

M = TypeVar("M", bound=Any)

_APART = (Alive, Binding, Chassis, GroupMember, PortStatus)
"""Rows of which there are many, and few matter: those are picked out."""


class Expected(msgspec.Struct, frozen=True):
    """Where a chassis must place the port (of ``place`` only the OpenFlow port is made up), and what it would complain of."""

    chassis: str
    place: Locality | None
    troubles: tuple[str, ...]


def expect(port: LogicalPort, rows: Sequence[Row]) -> Iterator[Expected]:
    """For each chassis that follows the port's network, given all rows of the DF DB. Costs milliseconds a chassis."""
    known = Rows(rows)
    family = [
        it
        for it in known.all(LogicalPort)
        if it is port or it.id == port.parent or (port.device_id and it.device_id == port.device_id)
    ]
    floating = known.where(FloatingIp, port=port.id)
    stands_for = {it.fixed_port for it in floating}
    family += [it for it in known.all(LogicalPort) if it.id in stands_for]
    family += _holding(family, known)
    forwards = [it.router for it in floating if it.forwardings and it.router is not None]
    family += (it for router in forwards for it in _around_gateway(router, known))
    networks = {it.scope for it in family}
    named = {name for it in family for name in (it.chassis, *it.standby)}
    near: list[Row] = [row for row in rows if not isinstance(row, _APART) and _is_near(row, networks)]
    near += family
    for chassis in known.all(Chassis):
        scopes = needed_scopes(chassis.id, known)
        if port.scope in scopes:
            seen = [row for row in near if row.scope in scopes]
            seen += (bound for it in family for bound in known.where(Binding, id=it.id) if bound.host == chassis.id)
            peers = [it for it in known.all(Chassis) if forwards or it is chassis or it.id in named]
            yield _expect(port, chassis, (*seen, *peers, *(known.all(Alive) if forwards else ())), known)


def _holding(ports: Iterable[LogicalPort], known: Rows) -> list[LogicalPort]:
    """The ports that hold addresses which these reserve."""
    places = {place_of(port.network, ip) for port in ports for ip in port.ips}
    names = {holder.port for place in places for holder in known.where(Holder, place=place)}
    return [port for name in sorted(names) if (port := known.get(LogicalPort, name)) is not None]


def _around_gateway(name: str, known: Rows) -> Iterator[LogicalPort]:
    """The ports by which it is known who serves the router's gateway: the gateway, the interfaces of all routers that are reached
    behind it, and of the guests there one for each network on each chassis."""
    router = known.get(LogicalRouter, name)
    if router is None or router.gateway is None:
        return
    networks, _ = reached((it.network for it in router.interfaces), known)
    for port in known.all(LogicalPort):
        if port.id == router.gateway.port or port.routed_network in networks:
            yield port
    behind = (port for port in known.all(LogicalPort) if port.chassis is not None and port.network in networks)
    yield from {(port.network, port.chassis): port for port in behind}.values()


def _is_near(row: Row, networks: Container[str]) -> bool:
    """Whether the place of a port of these networks may rest on the row. Of other ports the family alone counts."""
    if isinstance(row, LogicalSwitch | Subnet):
        return row.scope in networks
    return not isinstance(row, LogicalPort)


def _expect(port: LogicalPort, chassis: Chassis, seen: Iterable[Row], known: Rows) -> Expected:
    replica = Replica()
    for row in seen:
        if row.scope not in replica.scopes:
            replica.reset_scope(row.scope, (), 0)
        replica.upsert(row, 1)
        if isinstance(row, LogicalPort) and _works(row, chassis, known):
            replica.upsert_port(OvsPort(id=f"tap-{row.id}", ofport=row.key, iface_id=row.id, attached_mac=row.mac))
    for number, kind in enumerate(chassis.tunnel_types, 1):
        name = tunnel_name(kind)
        replica.upsert_port(OvsPort(id=name, ofport=(1 << 24) + number, tunnel=name))
    for number, mapping in enumerate(chassis.bridge_mappings, 1):
        name = patch_name(mapping.bridge)
        replica.upsert_port(OvsPort(id=name, ofport=(1 << 25) + number, patch=mapping.bridge))
    engine = Engine(APPS, replica, Me.of(chassis))
    engine.settle()
    troubles = {owner: said for owner, said in engine.degraded.items() if owner.id in (port.id, port.network)}
    return Expected(chassis.id, engine.locality(port.id), tuple(dict.fromkeys(troubles.values())))


def _works(port: LogicalPort, chassis: Chassis, known: Rows) -> bool:
    """Whether the chassis has said that it has the port plugged, for the present binding."""
    return any(
        it.chassis == chassis.id and it.status == "ACTIVE" and it.generation == port.generation
        for it in known.where(PortStatus, id=port.id)
    )


class Rows:
    """All rows of a DF DB. Unlike a controller's replica it holds a row of each host where several speak of one port."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._of: dict[type[Any], list[Any]] = {}
        rows = tuple(rows)
        derived = worked_out(row for row in rows if isinstance(row, LogicalPort))
        for it in sorted((*rows, *derived), key=lambda it: it.id):
            self._of.setdefault(type(it), []).append(it)
        self._indices: dict[tuple[type[Any], str], dict[Any, list[Any]]] = {}

    def all(self, model: type[M]) -> Sequence[M]:
        """All of a kind, by id."""
        return self._of.get(model, ())

    def get(self, model: type[M], id: str) -> M | None:
        """The first of that id, or None."""
        return next(iter(self.where(model, id=id)), None)

    def where(self, model: type[M], **condition: str | int) -> tuple[M, ...]:
        """Those whose field has the value, by id."""
        ((field, value),) = condition.items()
        index = self._indices.get((model, field))
        if index is None:
            index = self._indices[model, field] = {}
            for row in self.all(model):
                index.setdefault(getattr(row, field), []).append(row)
        return tuple(index.get(value, ()))
