"""What a chassis follows: its own networks, and all that routers lead to."""

from __future__ import annotations

from msgspec.structs import replace

from dragonflow.apps.wiring import MOST_NODES, gateway_candidates, sessions
from dragonflow.controller.replica import Replica
from dragonflow.controller.topology import needed_scopes
from dragonflow.model import (
    AddressPair,
    Alive,
    Binding,
    BridgeMapping,
    Chassis,
    ExternalNetwork,
    FixedIP,
    LogicalPort,
    LogicalRouter,
    PortForwarding,
    RouterGateway,
    SecurityGroup,
    SecurityRule,
)
from dragonflow.testing import worlds

OWN = {"alive", "chassis", "host:here", "status:here", "holds:here"}
BOUND = Binding(id="a", host="here", network="n1", generation=0)


def interface(router: str, net: str) -> worlds.AnyRow:
    return worlds.interface(router, 1, FixedIP("s", "10.0.0.1"), net=net)


def needed(*rows: worlds.AnyRow) -> set[str]:
    replica = Replica()
    worlds.load(replica, *rows)
    return needed_scopes("here", replica) - OWN


def test_without_ports_only_its_own() -> None:
    assert needed() == set()
    assert needed(Binding(id="b", host="there", network="n1", generation=0)) == set()


def test_a_port_leads_to_its_network_and_routers_to_theirs_step_by_step() -> None:
    chain = worlds.router("r1", 1, "n1", "n2"), worlds.router("r2", 2, "n2", "n3"), worlds.router("r3", 3, "n4", "n5")
    near, middle, far = interface("r1", "n1"), interface("r2", "n2"), interface("r3", "n4")
    assert needed(BOUND) == {"net:n1"}
    assert needed(BOUND, near) == {"net:n1", "router:r1"}
    assert needed(BOUND, near, chain[0]) == {"net:n1", "router:r1", "net:n2"}
    assert needed(BOUND, near, chain[0], middle) == {"net:n1", "router:r1", "net:n2", "router:r2"}
    everything = {"net:n1", "router:r1", "net:n2", "router:r2", "net:n3"}
    assert needed(BOUND, near, middle, far, *chain) == everything, "n4 isn't reached"


def test_what_no_port_leads_to_any_more_is_dropped_though_it_is_still_held() -> None:
    ring = worlds.router("r1", 1, "n1", "n2"), interface("r1", "n1"), interface("r1", "n2")
    assert needed(*ring) == set()
    assert needed(BOUND, *ring) == {"net:n1", "router:r1", "net:n2"}


def test_a_router_leads_to_its_external_network_but_not_to_others_there() -> None:
    edge = worlds.router("r1", 1, "n1", gateway=RouterGateway("r1-ext", "ext"))
    other = worlds.router("r2", 2, "ext", "n2", gateway=RouterGateway("r2-ext", "ext"))
    rows = BOUND, interface("r1", "n1"), edge, other, interface("r2", "ext"), interface("r2", "n2")
    assert needed(*rows) == {"net:n1", "router:r1", "net:ext"}


def test_a_gateway_port_leads_nowhere() -> None:
    gateway = worlds.port("g", 9, on=None, net="n1", device_owner="network:router_gateway", device_id="r1")
    assert needed(BOUND, gateway) == {"net:n1"}


def test_the_policies_of_its_own_ports_are_followed() -> None:
    gold, silver = worlds.port("a", 1, net="n1", qos="gold"), worlds.network("n1", 1, qos="silver")
    always = {"net:n1", "secgroup:open"}
    assert needed(BOUND, gold, silver) == {*always, "qos:gold"}
    assert needed(BOUND, worlds.port("a", 1, net="n1"), silver) == {*always, "qos:silver"}
    other = worlds.port("b", 2, on="there", net="n1", qos="gold")
    assert needed(BOUND, worlds.port("a", 1, net="n1"), other) == always


def test_the_groups_of_its_own_ports_are_followed_and_whom_their_rules_name() -> None:
    own = worlds.port("a", 1, net="n1", security_groups=("g",))
    other = worlds.port("b", 2, on="there", net="n1", security_groups=("h",))
    rules = SecurityRule("ingress", 4, remote_group="m"), SecurityRule("egress", 4, address_group="s")
    group = SecurityGroup(id="g", rules=rules, revision=1)
    assert needed(BOUND, own, other) == {"net:n1", "secgroup:g"}
    assert needed(BOUND, own, other, group) == {"net:n1", "secgroup:g", "members:m", "addrgroup:s"}


def test_who_holds_shared_addresses_is_told_by_the_chassis_that_may_hear_it() -> None:
    pairs = (AddressPair("10.0.0.99"),)
    b, c, far, alone = (
        worlds.port("b", 2, on="b1", net="n1", address_pairs=pairs, standby=("b2",)),
        worlds.port("c", 3, on="c1", net="n1"),
        worlds.port("d", 4, on="d1", net="n2", address_pairs=pairs),
        worlds.port("e", 5, on=None, net="n1", address_pairs=pairs),
    )
    assert needed(BOUND, b, c, far, alone) == {"net:n1", "holds:b1", "holds:b2"}
    held = worlds.holder(worlds.port("a", 1, net="n1"), "10.0.0.99")
    floating, _ = worlds.floating("f", 61, "203.0.113.61", fixed_port="vip", fixed_ip="10.0.0.99", qos="gold")
    assert needed(BOUND, floating) == {"net:n1"}
    assert needed(BOUND, floating, held) == {"net:n1", "qos:gold"}


NODE = worlds.chassis("here", "192.0.2.1", bridge_mappings=worlds.MAPPINGS, gateway=True)
POINTER = ExternalNetwork(id="ext", physical_network="physnet1")
LED_OUT = worlds.external(), worlds.gateway("r1", 9, FixedIP("ext4", "203.0.113.2"))


def test_a_gateway_node_finds_the_routers_that_it_could_serve_step_by_step() -> None:
    edge = worlds.router("r1", 1, "n1", gateway=RouterGateway("r1-ext", "ext"))
    inner = worlds.router("r2", 2, "n1", "n2")
    assert needed(NODE) == {"external"}
    assert needed(NODE, POINTER) == {"external", "net:ext"}
    assert needed(NODE, POINTER, *LED_OUT) == {"external", "net:ext", "router:r1"}
    assert needed(NODE, POINTER, *LED_OUT, edge) == {"external", "net:ext", "router:r1", "net:n1"}
    everything = {"external", "net:ext", "router:r1", "net:n1", "router:r2", "net:n2"}
    assert needed(NODE, POINTER, *LED_OUT, edge, interface("r1", "n1"), interface("r2", "n1"), inner) == everything


def test_only_a_gateway_node_and_only_with_a_way_there() -> None:
    unmapped = worlds.chassis("here", "192.0.2.1", bridge_mappings=(BridgeMapping("elsewhere", "br-x"),), gateway=True)
    compute = worlds.chassis("here", "192.0.2.1", bridge_mappings=worlds.MAPPINGS)
    assert needed(unmapped, POINTER, *LED_OUT) == {"external"}
    assert needed(compute, POINTER, *LED_OUT) == set()


def region() -> list[worlds.AnyRow]:
    """40 routers, each with a network and a VM on one of three computes that have no way outside; and eight gateway nodes."""
    rows: list[worlds.AnyRow] = [POINTER, LED_OUT[0]]
    rows += [worlds.chassis(f"c{number}", f"192.0.2.{number}") for number in range(3)]
    nodes = [replace(NODE, id=f"g{number}", tunnel_ip=f"192.0.2.{100 + number}") for number in range(8)]
    rows += [*nodes, *(Alive(id=it.id, since=0.0) for it in nodes)]
    for number in range(40):
        net, router = f"n{number}", f"r{number}"
        host = f"c{number % 3}"
        rows += [
            worlds.network(net, 100 + number),
            worlds.port(f"p{number}", 200 + number, on=host, net=net),
            Binding(id=f"p{number}", host=host, network=net, generation=0),
            worlds.router(router, 1 + number, net, gateway=RouterGateway(f"{router}-ext", "ext")),
            worlds.interface(router, 300 + number, FixedIP("s", "10.0.0.1"), net=net),
            worlds.gateway(router, 400 + number, FixedIP("ext4", f"203.0.113.{number}")),
        ]
    return rows


def held_by(chassis: str, rows: list[worlds.AnyRow]) -> Replica:
    replica = Replica()
    while missing := needed_scopes(chassis, replica) - replica.scopes:
        for scope in missing:
            replica.reset_scope(scope, [(row, 1) for row in rows if row.scope == scope], 1)
    return replica


def test_gateway_nodes_share_the_routers_and_all_agree_on_who_could_serve_them() -> None:
    rows = region()
    everybody = {row.id: held_by(row.id, rows) for row in rows if isinstance(row, Chassis)}
    following: dict[str, set[str]] = {}
    for router in (row for row in rows if isinstance(row, LogicalRouter)):
        gateway = next(row for row in rows if row.id == f"{router.id}-ext" and isinstance(row, LogicalPort))
        holders = {name: held for name, held in everybody.items() if held.get(LogicalRouter, router.id) is not None}
        ((found),) = {gateway_candidates(gateway, LED_OUT[0], held) for held in holders.values()}
        assert len(found) == MOST_NODES
        assert set(found) == {name for name in holders if name.startswith("g")}, "nobody else follows the router"
        computes = {name for name in holders if name.startswith("c")}
        heard = {(one, other) for one in holders for other in sessions(router, one, holders[one])}
        assert heard == {(other, one) for one, other in heard}
        assert {one for one, _ in heard} == {*found, *computes}
        for name in found:
            following.setdefault(name, set()).add(router.id)
            held = holders[name]
            assert held.get(LogicalPort, f"p{router.id[1:]}") is not None, "who is behind it"
    assert set(following) == {f"g{number}" for number in range(8)}
    for name, routers in following.items():
        held = everybody[name]
        assert {it.id for it in held.all(LogicalRouter)} == routers, "and no others"
        assert len(held.all(LogicalPort)) == 2 * len(routers) + 40, "of the others it knows the gateways alone"
        assert len(routers) < 30


def test_a_rack_that_fails_takes_no_gateway_along() -> None:
    rows = region()
    gateway = next(row for row in rows if row.id == "r7-ext")
    assert isinstance(gateway, LogicalPort)
    before = gateway_candidates(gateway, LED_OUT[0], held_by("c1", rows))
    rest = [row for row in rows if not isinstance(row, Alive) or row.id not in before]
    after = gateway_candidates(gateway, LED_OUT[0], held_by("c1", rest))
    assert after[:MOST_NODES] == before, "who comes back has its old place"
    assert len(after) == 2 * MOST_NODES
    assert all(held_by(name, rest).get(LogicalRouter, "r7") is not None for name in after)
    nobody = [row for row in rows if not isinstance(row, Alive)]
    assert gateway_candidates(gateway, LED_OUT[0], held_by("c1", nobody)) == before


def test_the_policies_of_its_floating_ips_are_followed() -> None:
    floating, _ = worlds.floating("f", 61, "203.0.113.61", fixed_port="a", qos="gold")
    unlimited, outside = replace(floating, qos=None), worlds.external(qos="silver")
    assert needed(BOUND, floating, outside) == {"net:n1", "qos:gold"}
    assert needed(BOUND, unlimited, outside) == {"net:n1", "qos:silver"}
    assert needed(BOUND, replace(floating, fixed_port="b"), outside) == {"net:n1"}


def test_the_policies_of_gateways_are_followed_by_who_may_serve_them() -> None:
    gateway = RouterGateway("r-ext", "ext", qos="gold")
    forwarding = PortForwarding("tcp", 80, 80, "a", "10.0.0.11", 80, 80)
    floating, _ = worlds.floating("f", 61, "203.0.113.61", router="r", forwardings=(forwarding,), qos="silver")
    rows = BOUND, worlds.network("n1", 1), worlds.interface("r", 21, net="n1"), worlds.external(qos="bronze")
    router = worlds.router("r", 1, "n1", gateway=gateway)
    mapped = worlds.chassis("here", "192.0.2.1", bridge_mappings=worlds.MAPPINGS)
    followed = {"net:n1", "net:ext", "router:r"}
    assert needed(*rows, router, floating) == followed
    assert needed(*rows, router, floating, worlds.chassis("here", "192.0.2.1")) == followed
    assert needed(*rows, router, floating, mapped) == followed | {"qos:gold", "qos:silver"}
    plain = worlds.router("r", 1, "n1", gateway=replace(gateway, qos=None))
    assert needed(*rows, plain, mapped, replace(floating, forwardings=())) == followed | {"qos:bronze"}
