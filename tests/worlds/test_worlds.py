"""Named states reached in every order: what is wanted depends on where one is, never on the way."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from dragonflow.apps import APPS
from dragonflow.apps.classification import Classification
from dragonflow.apps.delivery import Delivery
from dragonflow.apps.l3 import L3
from dragonflow.apps.wiring import qos_policy
from dragonflow.controller.engine import Engine
from dragonflow.controller.replica import Replica
from dragonflow.controller.view import Me
from dragonflow.model import FixedIP, LogicalPort, Neighbour, OvsPort, Route
from dragonflow.pipeline import (
    DESTINATION,
    FROM_TUNNEL,
    Bucket,
    Clause,
    Distributed,
    Fact,
    Flow,
    Local,
    Meter,
    Output,
    Owner,
    Remote,
    TunnelPort,
    match,
)
from dragonflow.testing import worlds
from dragonflow.testing.oracle import Compiled, Oracle, compile_world
from dragonflow.testing.worlds import World


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    with Oracle() as oracle:
        yield oracle


@pytest.mark.parametrize("name", worlds.STATES)
def test_every_order_of_arrival_leads_to_the_same_facts(oracle: Oracle, name: str) -> None:
    world = worlds.STATES[name]()
    expected = oracle.ask(world)
    for order in worlds.permuted(world.objects):
        replica, wanted = Replica(), dict[Owner, tuple[Fact, ...]]()
        engine = Engine(APPS, replica, world.me)
        for it in order:
            worlds.load(replica, it)
            engine.settle(wanted.__setitem__)
        assert Compiled(wanted, dict(engine.places)).text() == expected


def test_states_visited_in_any_order_leave_nothing_behind(oracle: Oracle) -> None:
    rebound = (*worlds.ACROSS[:-1], worlds.port("c", 13, on="here"), worlds.tap("c", 3))
    states = [*(make() for make in worlds.STATES.values()), World.of(worlds.ME, *rebound)]
    states = [msgspec.structs.replace(state, me=worlds.OWNER) for state in states]  # a chassis doesn't change
    scopes = sorted({row.scope for state in states for row in state.rows})
    for order in worlds.permuted(states, limit=80):
        replica, wanted = Replica(), dict[Owner, tuple[Fact, ...]]()
        engine = Engine(APPS, replica, worlds.OWNER)
        for revision, state in enumerate(order, 1):
            for scope in scopes:
                rows = [(row, revision) for row in state.rows if row.scope == scope]
                replica.reset_scope(scope, rows, revision)
            replica.reset_ports(state.ports)
            for gone in {it.id for it in replica.all(Neighbour)} - {it.id for it in state.neighbours}:
                replica.remove_neighbour(gone)
            for neighbour in state.neighbours:
                replica.upsert_neighbour(neighbour)
            replica.set_watched([it.id for it in state.watched])
            engine.settle(wanted.__setitem__)
        assert Compiled(wanted, dict(engine.places)).text() == oracle.ask(order[-1])


def places(*objects: LogicalPort | OvsPort | worlds.AnyRow) -> dict[str, Local | Remote | object]:
    return dict(compile_world(APPS, World.of(worlds.ME, *objects)).places)


NET, A = worlds.network(), worlds.port("a", 11)
THERE, C = worlds.chassis("there", "192.0.2.2"), worlds.port("c", 13, on="there")


@pytest.mark.parametrize(
    "missing",
    [
        (A, worlds.tap("a", 1)),
        (NET, worlds.tap("a", 1)),
        (NET, A),
        (NET, A, worlds.tap("a", None)),
        (NET, A, worlds.tap("a", -1)),
        (NET, worlds.port("a", 11, on="there"), worlds.tap("a", 1)),
        (NET, worlds.port("a", 11, on=None), worlds.tap("a", 1)),
        (NET, worlds.port("a", 11, admin_up=False), worlds.tap("a", 1)),
        (worlds.network(admin_up=False), A, worlds.tap("a", 1)),
    ],
)
def test_a_port_without_all_it_needs_is_not_here(missing: tuple[worlds.AnyRow | OvsPort, ...]) -> None:
    assert places(*missing) == {}


@pytest.mark.parametrize(
    "missing",
    [
        (NET, C, worlds.tunnel_port()),
        (NET, C, THERE),
        (NET, C, THERE, worlds.tunnel_port(ofport=None)),
        (NET, C, THERE, OvsPort(id="df-geneve", ofport=100)),
        (C, THERE, worlds.tunnel_port()),
        (NET, C, worlds.chassis("there", "2001:db8::2"), worlds.tunnel_port()),
        (NET, C, worlds.chassis("there", worlds.ME.tunnel_ip), worlds.tunnel_port()),
        (NET, C, worlds.chassis("there", "192.0.2.2", tunnel_types=("gre",)), worlds.tunnel_port()),
        (worlds.network(network_type="vlan"), C, THERE, worlds.tunnel_port()),
        (worlds.network(network_type="vxlan"), C, THERE, worlds.tunnel_port(), worlds.tunnel_port("vxlan")),
        (worlds.network(segmentation_id=None), C, THERE, worlds.tunnel_port()),
        (NET, worlds.port("c", 13, on="there", admin_up=False), THERE, worlds.tunnel_port()),
    ],
)
def test_a_port_that_no_tunnel_reaches_is_not_there(missing: tuple[worlds.AnyRow | OvsPort, ...]) -> None:
    assert places(*missing) == {}


def test_a_port_that_moves_here_is_wired_before_it_is_here() -> None:
    """What it sends is let in and what comes for it by tunnel is delivered; who is here still finds it there, by tunnel."""
    compiled = compile_world(APPS, worlds.STATES["migrating"]())
    assert compiled.places["d"] == Remote("there", 100, "192.0.2.2")
    flows = [fact for owner, facts in compiled.facts.items() if owner.id == "d" for fact in facts]
    delivery = [fact for fact in flows if isinstance(fact, Flow) and fact.table == Delivery.delivery.number]
    assert sorted(repr(flow.match) for flow in delivery) == sorted(
        repr(match((DESTINATION, 14), (FROM_TUNNEL, from_tunnel))) for from_tunnel in (0, 1)
    )
    assert (
        Output(4) in next(flow for flow in delivery if flow.match == match((DESTINATION, 14), (FROM_TUNNEL, 1))).actions
    )
    assert any(isinstance(fact, Flow) and fact.match == match(in_port=4) for fact in flows)
    assert not any(isinstance(fact, Bucket) and fact.id == 14 for fact in flows)
    gone = World.of(worlds.ME, *(it for it in worlds.MIGRATING if it != worlds.tap("d", 4)))
    assert not any(
        Output(4) in fact.actions
        for it in compile_world(APPS, gone).facts.values()
        for fact in it
        if isinstance(fact, Flow)
    )


PHYSICAL = {it.id: it for it in worlds.PHYSICAL}


def test_ports_on_a_physical_network_are_behind_its_bridge_and_others_behind_tunnels_at_the_same_time() -> None:
    assert places(*worlds.PHYSICAL) == {
        "a": Local(1),
        "b": Local(2),
        "v": Local(5),
        "c": Remote("there", 100, "192.0.2.2"),
        "w": Remote("there", 110),
        "f": Remote("there", 110),
    }


@pytest.mark.parametrize(
    "other",
    [
        worlds.patch_port(ofport=None),
        msgspec.structs.replace(worlds.patch_port(), patch=None),
        worlds.chassis("there", "192.0.2.2"),
        worlds.vlan("vlan", 4, 100, physical_network="physnet2"),
        worlds.vlan("vlan", 4, 100, admin_up=False),
        worlds.vlan("vlan", 4, 100, segmentation_id=None),
        worlds.port("w", 42, on="there", net="vlan", admin_up=False),
        worlds.port("w", 42, on="elsewhere", net="vlan"),
    ],
)
def test_a_port_that_no_physical_network_reaches_is_not_there(other: worlds.AnyRow | OvsPort) -> None:
    assert "w" not in places(*{**PHYSICAL, other.id: other}.values())


def troubles(me: Me, *objects: LogicalPort | OvsPort | worlds.AnyRow) -> dict[str, str]:
    """What the app ``provider`` has to tell, by object."""
    replica = Replica()
    worlds.load(replica, *objects)
    engine = Engine(APPS, replica, me)
    engine.settle()
    assert not engine.broken
    return {owner.id: reason for owner, reason in engine.degraded.items() if owner.app == "provider"}


def test_what_keeps_a_physical_network_away_is_told() -> None:
    vlan = PHYSICAL["vlan"]
    unmapped = msgspec.structs.replace(worlds.ME, bridge_mappings=())
    assert troubles(worlds.ME, *worlds.PHYSICAL) == {}
    assert troubles(unmapped, vlan) == {"vlan": "this chassis has no bridge for physical network physnet1"}
    assert troubles(worlds.ME, vlan) == {"vlan": "bridge br-ex of physical network physnet1 isn't joined to br-int"}
    there = worlds.chassis("there", "192.0.2.2")
    told = troubles(worlds.ME, vlan, PHYSICAL["w"], worlds.patch_port(), there)
    assert told == {"w": "chassis there has no bridge for physical network physnet1"}


def test_ports_of_a_network_without_a_bridge_here_reach_each_other() -> None:
    vlan = worlds.network(network_type="vlan", physical_network="physnet")
    assert places(vlan, A, worlds.tap("a", 1), C, THERE, worlds.tunnel_port()) == {"a": Local(1)}


def test_each_encapsulation_has_its_tunnel_port() -> None:
    me = worlds.Me(chassis="here", tunnel_ip="2001:db8::1", tunnel_types=("vxlan", "gre"))
    facts = compile_world(APPS, World.of(me)).facts[Owner("tunnel", "Me", "here")]
    assert facts == (TunnelPort("df-vxlan", "vxlan", "2001:db8::1"), TunnelPort("df-gre", "gre", "2001:db8::1"))


def test_each_chassis_has_its_own_bucket() -> None:
    others = [worlds.chassis(f"c{number}", f"192.0.2.{number}") for number in range(2, 200)]
    ports = [worlds.port(f"p{number}", number, on=f"c{number}") for number in range(2, 200)]
    facts = compile_world(APPS, World.of(worlds.ME, NET, worlds.tunnel_port(), *others, *ports)).facts.values()
    ids = [fact.id for some in facts for fact in some if type(fact).__name__ == "Bucket"]
    assert len(set(ids)) == len(ids) == 198


TRUNKED = {it.id: it for it in worlds.TRUNKED}


def test_children_are_where_their_parents_are() -> None:
    here = places(*worlds.TRUNKED)
    assert (here["p"], here["p1"], here["p2"]) == (Local(5), Local(5, 101), Local(5, 102))
    assert here["q"] == here["q1"] == Remote("there", 100, "192.0.2.2")


@pytest.mark.parametrize("missing", ["p", "p1", "tags", "tap-p"])
def test_a_child_without_all_it_needs_is_nowhere(missing: str) -> None:
    rows = tuple(it for name, it in TRUNKED.items() if name != missing)
    assert "p1" not in places(*rows)


@pytest.mark.parametrize(
    ("who", "fields"),
    [
        ("p", {"admin_up": False}),
        ("p", {"chassis": "there"}),
        ("p", {"parent": "p1", "vlan": 5}),
        ("p1", {"admin_up": False}),
        ("p1", {"chassis": None}),
        ("tags", {"admin_up": False}),
    ],
)
def test_a_child_is_not_here_if_it_or_its_parent_is_not(who: str, fields: dict[str, object]) -> None:
    assert "p1" not in {
        name
        for name, place in places(*(TRUNKED | {who: msgspec.structs.replace(TRUNKED[who], **fields)}).values()).items()
        if isinstance(place, Local)
    }


def test_a_trunk_that_moves_here_is_wired_with_its_children() -> None:
    away = {"chassis": "there", "standby": ("here",)}
    moving = TRUNKED | {name: msgspec.structs.replace(TRUNKED[name], **away) for name in ("p", "p1", "p2")}
    compiled = compile_world(APPS, World.of(worlds.ME, *moving.values()))
    assert {compiled.places[name] for name in ("p", "p1", "p2")} == {Remote("there", 100, "192.0.2.2")}
    for name in ("p", "p1"):
        flows = [fact for fact in compiled.facts[Owner("trunk", "LogicalPort", name)] if isinstance(fact, Flow)]
        assert len(flows) == 3
        assert any(Output(5) in flow.actions for flow in flows)


def test_a_child_is_here_while_its_row_says_so_and_its_parent_is_wired() -> None:
    """In a live migration, away with the parent's row first or to here with the child's."""
    parent = msgspec.structs.replace(TRUNKED["p"], chassis="there", standby=("here",))
    assert places(*(TRUNKED | {"p": parent}).values())["p1"] == Local(5, 101)


def test_each_port_has_meters_of_its_own_and_flows_as_its_app_says() -> None:
    facts = compile_world(APPS, worlds.STATES["limited"]()).facts

    def of(name: str) -> tuple[int, set[tuple[int, int, bool]]]:
        found = facts[Owner("qos", "LogicalPort", name)]
        meters = {(it.rate, it.burst, it.bits) for it in found if isinstance(it, Meter)}
        return sum(isinstance(it, Flow) for it in found), meters

    silver = {(1000, 100, True), (2000, 200, True)}
    assert of("a") == (1 + 2, silver)
    assert of("b") == of("p") == (3, {(9000, 900, True)})
    assert of("p1") == (1 + 1, silver), "a trunk's port has a flow against what comes back anyway"
    ids = [it.id for owner, some in facts.items() if owner.app == "qos" for it in some if isinstance(it, Meter)]
    assert len(ids) == len(set(ids)) == 6


def test_what_belongs_to_the_network_has_no_policy() -> None:
    network, lport = worlds.network(qos="silver"), worlds.port("a", 11, device_owner="network:dhcp")
    assert qos_policy(lport, network) is None
    assert qos_policy(worlds.port("a", 11), network) == "silver"
    assert qos_policy(worlds.port("a", 11, qos="gold"), network) == "gold"


def test_flows_per_trunk_are_as_its_app_says() -> None:
    facts = compile_world(APPS, worlds.STATES["trunked"]()).facts

    def count(name: str) -> int:
        tables = Classification.ports.number, Delivery.delivery.number
        found = [it for owner, some in facts.items() if owner.id == name for it in some if isinstance(it, Flow)]
        return sum(flow.table in tables for flow in found)

    assert {name: count(name) for name in ("a", "p", "p1", "p2")} == {"a": 2, "p": 4, "p1": 3, "p2": 3}


ROUTED = {it.id: it for it in worlds.ROUTED}


@pytest.mark.parametrize("missing", ["net", "r", "r-net"])
def test_an_interface_without_all_it_needs_is_nowhere(missing: str) -> None:
    assert places(*worlds.ROUTED)["r-net"] == Distributed()
    assert "r-net" not in places(*(it for name, it in ROUTED.items() if name != missing))


@pytest.mark.parametrize("down", ["net", "r", "r-net"])
def test_what_is_switched_off_routes_nothing_and_takes_its_packets(down: str) -> None:
    rows = (*(it for it in worlds.ROUTED if it.id != down), msgspec.structs.replace(ROUTED[down], admin_up=False))
    compiled = compile_world(APPS, World.of(worlds.ME, *rows))
    assert "r-net" not in compiled.places
    flows = [fact for fact in compiled.facts[Owner("l3", "LogicalPort", "r-net")] if isinstance(fact, Flow)]
    assert [(flow.table, flow.actions, flow.goto) for flow in flows] == [(L3.entry.number, (), None)]


def test_an_interface_that_its_router_does_not_know_is_none() -> None:
    """A tenant may write into its port that it is a router's."""
    fake = worlds.interface("r", 66, FixedIP("v4", "10.0.0.66"), net="net", id="fake")
    assert "fake" not in places(*worlds.ROUTED, fake)


def test_a_route_to_nowhere_is_told_and_left_out() -> None:
    lost = msgspec.structs.replace(ROUTED["r"], routes=(Route("192.0.2.0/24", "198.51.100.1"),))
    replica = Replica()
    worlds.load(replica, *(it for it in worlds.ROUTED if it.id != "r"), lost)
    engine = Engine(APPS, replica, worlds.ME)
    engine.settle()
    owner = Owner("l3", "LogicalRouter", "r")
    assert "198.51.100.1 is in no subnet" in engine.degraded[owner]
    assert owner not in engine.broken


def test_flows_per_router_are_as_its_app_says() -> None:
    compiled = compile_world(APPS, worlds.STATES["routed"]())

    def count(port: str) -> int:
        return sum(isinstance(fact, Flow) for fact in compiled.facts[Owner("l3", "LogicalPort", port)])

    neighbours = 2
    assert count("r-net") == 1 + 2 * 2 + 2 + 2 + neighbours
    assert count("x") == neighbours
    assert count("a") == neighbours + 8


def test_flows_of_security_groups_are_as_their_apps_say() -> None:
    facts = compile_world(APPS, worlds.STATES["guarded"]()).facts

    def count(app: str, kind: str, id: str) -> int:
        return sum(isinstance(fact, Flow | Clause) for fact in facts.get(Owner(app, kind, id), ()))

    macs, ipv4, ipv6 = 1, 2, 2
    assert count("guard", "LogicalPort", "a") == 7 * macs + 2 * ipv4 + 4 * ipv6, "own, a pair's, link-local"
    classes = {"web": 4, "db": 3, "plain": 2}
    for port, groups in (("a", ("web",)), ("b", ("web", "db")), ("e", ("plain",))):
        assert count("egress", "LogicalPort", port) == count("ingress", "LogicalPort", port) == 2
        assert count("rules", "LogicalPort", port) == sum(classes[group] for group in groups)
    assert count("rules", "LogicalPort", "c") == 0, "its own chassis sees to that"
    assert count("rules", "SecurityGroup", "web") == 2 + (1 + 1) + 1, (
        "two classes, masks; the others are the ports alone"
    )
    assert count("rules", "SecurityGroup", "db") == 3 + (1 + 1 + 1) + (1 + 1), "masks of three rules, two prefixes"
    assert count("rules", "SecurityGroup", "plain") == 1 + 2
    naming = 1 + 1
    assert count("rules", "GroupMember", "web/a") == naming + 1, "each address for each class that names its IP version"
    assert count("rules", "GroupMember", "db/b") == 0, "nobody names it"


def test_a_member_more_costs_the_same_however_many_there_are() -> None:
    def facts(number: int) -> dict[Owner, tuple[Fact, ...]]:
        ports = [worlds.port(f"m{key}", key, on=None, security_groups=("web",)) for key in range(100, 100 + number)]
        rows = (it for port in ports for it in worlds.members(port))
        return dict(compile_world(APPS, World.of(worlds.ME, *worlds.GUARDED, *rows)).facts)

    few, many = facts(10), facts(11)
    assert {owner: its for owner, its in many.items() if few.get(owner) != its}.keys() == {
        Owner("rules", "GroupMember", "web/m110")
    }
