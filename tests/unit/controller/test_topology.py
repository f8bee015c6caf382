"""What a chassis follows: its own networks, and all that routers lead to."""

from __future__ import annotations

from msgspec.structs import replace

from dragonflow.controller.replica import Replica
from dragonflow.controller.topology import needed_scopes
from dragonflow.model import Binding, FixedIP, RouterGateway
from dragonflow.testing import worlds

OWN = {"alive", "chassis", "host:here", "status:here"}
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
    assert needed(BOUND, gold, silver) == {"net:n1", "qos:gold"}
    assert needed(BOUND, worlds.port("a", 1, net="n1"), silver) == {"net:n1", "qos:silver"}
    other = worlds.port("b", 2, on="there", net="n1", qos="gold")
    assert needed(BOUND, worlds.port("a", 1, net="n1"), other) == {"net:n1"}


def test_the_policies_of_its_floating_ips_are_followed() -> None:
    floating, _ = worlds.floating("f", 61, "203.0.113.61", fixed_port="a", qos="gold")
    unlimited, outside = replace(floating, qos=None), worlds.external(qos="silver")
    assert needed(BOUND, floating, outside) == {"net:n1", "qos:gold"}
    assert needed(BOUND, unlimited, outside) == {"net:n1", "qos:silver"}
    assert needed(BOUND, replace(floating, fixed_port="b"), outside) == {"net:n1"}
