"""Which chassis could serve a router's gateway, which one does, and who listens to whom."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from dragonflow.apps.wiring import gateway_candidates, gateway_chassis, heard, peer_name, sessions
from dragonflow.controller.replica import Object, Replica
from dragonflow.model import Alive, FixedIP, LogicalRouter, OvsPort, RouterGateway
from dragonflow.testing import worlds

NAMES = ("h0", "h1", "h2", "h3", "h4")
HOSTS = tuple(
    worlds.chassis(name, f"192.0.2.{number}", bridge_mappings=worlds.MAPPINGS) for number, name in enumerate(NAMES, 1)
)
ALIVE = tuple(Alive(id=name, since=0.0) for name in NAMES)
PORTS = tuple(worlds.port(f"p{number}", 100 + number, on=name) for number, name in enumerate(NAMES))
NETWORK, ROUTER = worlds.external(), worlds.router("r", 1, "net", gateway=RouterGateway("r-ext", "ext"))
GATEWAY = worlds.gateway("r", 22, FixedIP("ext4", "203.0.113.2"))
BASE = (worlds.network(), NETWORK, ROUTER, worlds.interface("r", 21, FixedIP("v4", "10.0.0.1")), GATEWAY)


def world(*objects: Object) -> Replica:
    replica = Replica()
    worlds.load(replica, *objects)
    return replica


def bfd(chassis: str, state: str | None) -> OvsPort:
    return worlds.peer_port(chassis, bfd=state)


def candidates(*objects: Object) -> tuple[str, ...]:
    return gateway_candidates(GATEWAY, NETWORK, world(*objects))


RANKED = candidates(*BASE, *HOSTS, *PORTS)


def test_candidates_are_those_with_a_way_and_a_port_behind_the_router() -> None:
    assert sorted(RANKED) == sorted(NAMES)
    assert candidates(*BASE, *HOSTS, *PORTS[1:3]) == tuple(it for it in RANKED if it in ("h1", "h2"))
    unmapped = [replace(it, bridge_mappings=()) if it.id == "h1" else it for it in HOSTS]
    assert candidates(*BASE, *unmapped, *PORTS[1:3]) == ("h2",)
    assert candidates(*BASE, *HOSTS, *(replace(it, network="other") for it in PORTS)) == ()


def test_a_port_behind_another_router_counts() -> None:
    """That router's packets come to this one on the chassis where they start."""
    further = (
        worlds.network("far", 2),
        worlds.router("s", 2, "net", "far"),
        worlds.interface("s", 31, FixedIP("v4", "10.0.0.2")),
        worlds.interface("s", 32, FixedIP("far4", "10.1.0.1"), net="far"),
        worlds.port("x", 40, net="far", on="h3"),
    )
    assert candidates(*BASE, *HOSTS, *further) == ("h3",)


def test_where_there_are_gateway_nodes_these_alone_are_candidates() -> None:
    node = worlds.chassis("node", "192.0.2.9", bridge_mappings=worlds.MAPPINGS, gateway=True)
    assert candidates(*BASE, *HOSTS, *PORTS, node) == ("node",), "without a port behind the router"
    assert candidates(*BASE, *HOSTS, *PORTS, replace(node, bridge_mappings=())) == RANKED, "it has no way there"
    nodes = [replace(it, gateway=True) for it in HOSTS]
    assert candidates(*BASE, *nodes) == RANKED[:3]
    alive = [it for it in ALIVE if it.id == RANKED[-1]]
    assert candidates(*BASE, *nodes, *alive) == (*RANKED[:3], RANKED[-1])
    assert candidates(*BASE, *HOSTS[1:], *PORTS, nodes[0], *ALIVE) == ("h0",)


def test_the_order_is_that_of_the_gateway_and_liveness_has_no_part_in_it() -> None:
    other = replace(GATEWAY, id="another")
    assert gateway_candidates(other, NETWORK, world(*BASE, *HOSTS, *PORTS)) != RANKED
    assert candidates(*BASE, *HOSTS, *PORTS, *ALIVE[:1], bfd(RANKED[0], "down")) == RANKED


def serving(*objects: Object, me: str | None = None) -> str | None:
    return gateway_chassis(GATEWAY, NETWORK, world(*BASE, *HOSTS, *PORTS, *objects), me)


def test_the_first_usable_one_serves() -> None:
    first, second, third, *_ = RANKED
    alive = {it.id: it for it in ALIVE}
    assert serving(*ALIVE) == first
    assert serving(alive[second], alive[third]) == second, "leases decide where nothing is heard"
    assert serving(alive[second], bfd(first, None)) == second, "a session that was never up says nothing"
    assert serving(*ALIVE, bfd(first, "down")) == second, "its controller lives, its data path doesn't"
    assert serving(alive[second], bfd(first, "up")) == first, "its data path works without the controller"
    assert serving(alive[third], bfd(third, "up"), bfd(first, "down"), me=second) == second, "who hears others lives"
    assert serving(me=second) == serving(me=first) == first, "when all leases ran out, all agree"
    assert serving(bfd(first, "down"), me=second) == second, "but not on one that is dead"
    assert serving() == first, "nobody is known to live"
    assert gateway_chassis(GATEWAY, NETWORK, world(*BASE, *HOSTS, *ALIVE)) is None


@pytest.mark.parametrize(("state", "expected"), [("up", True), ("down", False), (None, None)])
def test_a_session_says_who_is_heard(state: str | None, expected: bool | None) -> None:
    assert heard("h1", world(bfd("h1", state))) is expected
    assert heard("h2", world(bfd("h1", state))) is None
    foreign = OvsPort(id=peer_name("h1"), ofport=1, bfd="up")
    assert heard("h1", world(foreign)) is None, "somebody else's interface"


def listeners(*objects: Object, of: LogicalRouter = ROUTER) -> dict[str, tuple[str, ...]]:
    known = world(*objects)
    return {name: sessions(of, name, known) for name in NAMES if sessions(of, name, known)}


def test_all_behind_the_router_listen_to_the_first_two_and_these_to_all() -> None:
    first, second, *others = RANKED
    assert listeners(*BASE, *HOSTS, *PORTS) == {
        first: tuple(sorted((second, *others))),
        second: tuple(sorted((first, *others))),
        **dict.fromkeys(others, tuple(sorted((first, second)))),
    }


def test_a_chassis_without_a_way_out_listens_but_is_not_listened_to_for_it() -> None:
    hosts = [it if it.id == "h4" else replace(it, bridge_mappings=()) for it in HOSTS]
    assert listeners(*BASE, *hosts, *PORTS) == {
        "h4": ("h0", "h1", "h2", "h3"),
        **dict.fromkeys(("h0", "h1", "h2", "h3"), ("h4",)),
    }


def test_gateway_nodes_listen_to_each_other_and_to_all_behind_the_router() -> None:
    hosts = [replace(it, gateway=it.id in ("h0", "h1", "h2")) for it in HOSTS]
    first, second, third = candidates(*BASE, *hosts, *PORTS[4:])
    assert listeners(*BASE, *hosts, *PORTS[4:]) == {
        first: tuple(sorted((second, third, "h4"))),
        second: tuple(sorted((first, third, "h4"))),
        **dict.fromkeys((third, "h4"), tuple(sorted((first, second)))),
    }


def test_no_session_without_a_gateway_or_a_port_behind_the_router() -> None:
    assert not listeners(*BASE, *HOSTS, *PORTS[:1]), "alone"
    assert not listeners(*BASE, *HOSTS, *PORTS, of=replace(ROUTER, gateway=None))
    for lacking in ("r-ext", "ext", "r-net", "net"):
        kept = [it for it in BASE if it.id != lacking]
        assert bool(listeners(*kept, *HOSTS, *PORTS)) == (lacking in ("r-net", "net"))
    assert not listeners(*BASE, *HOSTS, *(replace(it, chassis=None) for it in PORTS))


def test_names_of_interfaces_are_short_and_differ() -> None:
    names = {peer_name(f"compute-{number}.rack.example.org") for number in range(1000)}
    assert len(names) == 1000
    assert max(map(len, names)) <= 15


def test_sessions_are_mutual() -> None:
    known = world(*BASE, *HOSTS, *PORTS)
    pairs = {(one, other) for one in NAMES for other in sessions(ROUTER, one, known)}
    assert pairs == {(other, one) for one, other in pairs}
