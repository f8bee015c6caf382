"""What a chassis must make of a port by the DF DB alone is what its apps make of it when they see everything."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dragonflow.apps import APPS
from dragonflow.controller.expect import expect
from dragonflow.controller.replica import Replica
from dragonflow.controller.topology import needed_scopes
from dragonflow.controller.view import Me
from dragonflow.model import (
    AddressPair,
    Binding,
    Chassis,
    ExternalNetwork,
    FixedIP,
    LogicalPort,
    PortStatus,
    RouterGateway,
    Row,
)
from dragonflow.pipeline.facts import Distributed, Local, Locality, Remote
from dragonflow.testing import worlds
from dragonflow.testing.oracle import compile_world
from dragonflow.testing.worlds import World

HOSTS: list[Row] = [
    worlds.chassis("h1", "192.0.2.1"),
    worlds.chassis("h2", "192.0.2.2", tunnel_types=("geneve", "vxlan")),
    worlds.chassis("h3", "192.0.2.3", tunnel_types=("vxlan",)),
    worlds.chassis("h4", "192.0.2.4"),
]


def bound(port: LogicalPort, *, works: bool = True, generation: int = 0) -> list[Row]:
    """A port, a binding for each of its hosts, and the word of those hosts that it works there."""
    rows: list[Row] = [port]
    for host in (port.chassis, *port.standby):
        if host is not None:
            active = host == port.chassis
            rows.append(Binding(id=port.id, host=host, network=port.network, generation=port.generation, active=active))
            status = "ACTIVE" if works else "DOWN"
            rows.append(PortStatus(id=port.id, chassis=host, generation=generation, status=status, revision=1, at=0.0))
    return rows


PEERS = [
    worlds.network(),
    *bound(worlds.port("b", 12, on="h2")),
    *bound(worlds.port("c", 13, on="h3")),
    worlds.network("other", 2),
    *bound(worlds.port("d", 14, on="h4", net="other")),
]
AT_H1 = Remote("h1", 0, "192.0.2.1")


def places(port: LogicalPort, rows: Sequence[Row]) -> dict[str, Locality | None]:
    """Without OpenFlow ports."""
    return {it.chassis: _bare(it.place) for it in expect(port, rows)}


def _bare(place: Locality | None) -> Locality | None:
    if isinstance(place, Local):
        return Local(0)
    return Remote(place.chassis, 0, place.address) if isinstance(place, Remote) else place


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (bound(worlds.port("a", 11, on="h1")), {"h1": Local(0), "h2": AT_H1, "h3": None}),
        (bound(worlds.port("a", 11, on="h1"), works=False), {"h1": None, "h2": AT_H1, "h3": None}),
        (bound(worlds.port("a", 11, on="h1"), generation=7), {"h1": None, "h2": AT_H1, "h3": None}),
        (bound(worlds.port("a", 11, on="h1", admin_up=False)), {"h1": None, "h2": None, "h3": None}),
        (bound(worlds.port("a", 11, on="h1", standby=("h4",))), {"h1": Local(0), "h2": AT_H1, "h3": None, "h4": AT_H1}),
        (bound(worlds.port("a", 11, on=None)), {"h2": None, "h3": None}),
    ],
)
def test_each_chassis_that_follows_the_network_places_the_port(
    rows: list[Row], expected: dict[str, Locality | None]
) -> None:
    port = rows[0]
    assert isinstance(port, LogicalPort)
    assert places(port, [*HOSTS, *PEERS, *rows]) == expected


def test_it_is_said_why_a_chassis_places_a_port_nowhere() -> None:
    port = worlds.port("a", 11, on="h1")
    found = {it.chassis: it.troubles for it in expect(port, [*HOSTS, *PEERS, *bound(port)])}
    assert found["h2"] == ()
    assert found["h3"] == ("this chassis doesn't offer geneve: network net ends here",)


REGION: list[Row] = [
    *HOSTS,
    *PEERS,
    *(it for it in worlds.SUBNETS if isinstance(it, Row)),
    worlds.network("far", 3),
    worlds.network("vx", 4, network_type="vxlan"),
    worlds.network("flat", 5, network_type="flat", segmentation_id=None),
    worlds.router("r", 1, "net", "far"),
    worlds.interface("r", 21, FixedIP("v4", "10.0.0.1")),
    worlds.interface("r", 22, FixedIP("far4", "10.1.0.1"), net="far"),
    worlds.interface("gone", 23, FixedIP("v4", "10.0.0.9")),
    *bound(worlds.port("a", 11, on="h1", standby=("h2",))),
    *bound(worlds.port("e", 15, on="h4", net="far", fixed_ips=(FixedIP("far4", "10.1.0.15"),))),
    *bound(worlds.port("f", 16, on="h2", net="vx")),
    *bound(worlds.port("g", 17, on="h3", net="vx")),
    *bound(worlds.port("h", 18, on="h1", net="flat")),
    *bound(worlds.port("i", 19, on="h2", net="flat"), works=False),
    *bound(worlds.port("j", 20, on="elsewhere")),
    worlds.port("k", 24, on=None),
    *bound(worlds.port("p", 25, on="h1", standby=("h2",), trunk="t")),
    *bound(worlds.child("q", 26, "p", 101, net="far", on="h1", standby=("h2",))),
]


def seen_by(chassis: Chassis) -> World:
    """All that the controller of a chassis follows, with the interfaces that it has."""
    replica = Replica()
    while missing := needed_scopes(chassis.id, replica) - replica.scopes:
        for scope in missing:
            replica.reset_scope(scope, [(row, 1) for row in REGION if row.scope == scope], 1)
    for kind in chassis.tunnel_types:
        replica.upsert_port(worlds.tunnel_port(kind, 100))
    for status in replica.all(PortStatus):
        if status.status == "ACTIVE":
            replica.upsert_port(worlds.tap(status.id, 7))
    return World.held_by(
        replica, Me(chassis=chassis.id, tunnel_ip=chassis.tunnel_ip, tunnel_types=chassis.tunnel_types)
    )


def test_it_agrees_with_what_each_chassis_makes_of_all_that_it_follows() -> None:
    worlds_seen = {row.id: seen_by(row) for row in HOSTS if isinstance(row, Chassis)}
    compiled = {name: compile_world(APPS, world).places for name, world in worlds_seen.items()}
    kinds = set()
    for port in (row for row in REGION if isinstance(row, LogicalPort)):
        found = places(port, REGION)
        assert set(found) == {name for name, world in worlds_seen.items() if port in world.rows}
        for name, place in found.items():
            assert place == _bare(compiled[name].get(port.id)), (port.id, name)
            kinds.add(type(place))
    assert kinds == {Local, Remote, Distributed, type(None)}


def test_a_floating_ip_is_where_its_fixed_port_is() -> None:
    mapped = [worlds.chassis(f"h{number}", f"192.0.2.{number}", bridge_mappings=worlds.MAPPINGS) for number in (1, 2)]
    fixed = worlds.port("a", 11, on="h1")
    floating, own = worlds.floating("f", 61, "203.0.113.61", router="r", fixed_port="a", fixed_ip=fixed.ips[0])
    edge = worlds.router("r", 1, "net", gateway=RouterGateway("r-ext", "ext"))
    joint = worlds.interface("r", 21, FixedIP("v4", "10.0.0.1"))
    rows = [*mapped, *PEERS, *worlds.OUTSIDE, *bound(fixed), floating, own, edge, joint]
    assert places(own, rows) == {"h1": Local(0), "h2": Remote("h1", 0)}


def test_a_floating_ip_of_a_reserved_address_is_where_the_port_is_that_holds_it() -> None:
    mapped = [worlds.chassis(f"h{number}", f"192.0.2.{number}", bridge_mappings=worlds.MAPPINGS) for number in (1, 2)]
    vip = worlds.port("vip", 99, on=None)
    one, two = (
        worlds.port(name, key, on=on, address_pairs=(AddressPair(vip.ips[0]),))
        for name, key, on in (("a", 11, "h1"), ("e", 15, "h2"))
    )
    floating, own = worlds.floating("f", 61, "203.0.113.61", router="r", fixed_port="vip", fixed_ip=vip.ips[0])
    edge = worlds.router("r", 1, "net", gateway=RouterGateway("r-ext", "ext"))
    joint = worlds.interface("r", 21, FixedIP("v4", "10.0.0.1"))
    rows = [*mapped, *PEERS, *worlds.OUTSIDE, *bound(one), *bound(two), vip, floating, own, edge, joint]
    assert places(own, rows) == {"h1": None, "h2": None}
    held = worlds.holder(one, vip.ips[0])
    assert places(own, [*rows, held]) == {"h1": Local(0), "h2": Remote("h1", 0)}
    assert places(own, [*rows, held, worlds.holder(two, vip.ips[0], 2)]) == {"h1": Remote("h2", 0), "h2": Local(0)}


def test_a_floating_ip_that_forwards_ports_is_where_the_gateway_is_served() -> None:
    world = [it for it in worlds.GATEWAY if isinstance(it, Row)]
    bindings = [
        Binding(id=name, host=host, network="net", generation=0) for name, host in (("a", "here"), ("c", "there"))
    ]
    rows: list[Row] = [*world, *bindings]
    owns = [row for row in rows if isinstance(row, LogicalPort) and row.is_floating]
    found = {own.id: places(own, rows) for own in owns}
    assert {tuple(it) for it in found.values()} == {("here", "there")}
    served = {name: next(host for host, it in its.items() if isinstance(it, Local)) for name, its in found.items()}
    assert sorted(served.values()) == ["here", "there"], "each by its own router's gateway"
    for name, its in found.items():
        other = ({"here", "there"} - {served[name]}).pop()
        assert its[other] == Remote(served[name], 0)
    node = worlds.chassis("node", "192.0.2.9", bridge_mappings=worlds.MAPPINGS, gateway=True)
    pointer = ExternalNetwork(id="ext", physical_network="physnet1")
    for own in owns:
        assert places(own, [*rows, node, pointer]) == {
            "here": Remote("node", 0),
            "node": Local(0),
            "there": Remote("node", 0),
        }
