"""Which chassis answers for routers on physical networks; tests/dataplane has the packets."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from msgspec.structs import replace

from dragonflow.apps import APPS
from dragonflow.apps.advertisement import Advertisement, advertise
from dragonflow.apps.delivery import Delivery
from dragonflow.apps.door import Door
from dragonflow.apps.external import External
from dragonflow.apps.l3 import L3
from dragonflow.apps.wiring import chassis_mac, link_local
from dragonflow.cli.common import Contents
from dragonflow.cli.show import _doorkeepers
from dragonflow.controller.replica import Replica
from dragonflow.controller.view import Me, View
from dragonflow.model import Alive, Chassis, LogicalPort, LogicalRouter, Row, encode
from dragonflow.packet import arp, nd
from dragonflow.pipeline import (
    NETWORK,
    Fact,
    Flow,
    Owner,
    PacketOut,
    Punted,
    PuntKind,
    Resubmit,
    load,
    match,
)
from dragonflow.store.protocol import Key, Record
from dragonflow.testing import worlds
from dragonflow.testing.oracle import compile_world
from dragonflow.testing.worlds import World

NAMES = [f"h{number}" for number in range(8)]
HOSTS = [
    worlds.chassis(name, f"192.0.2.{number}", bridge_mappings=worlds.MAPPINGS) for number, name in enumerate(NAMES, 1)
]
ALIVE = [Alive(id=name, since=0.0) for name in NAMES]
PORTS = [worlds.port(f"p{number}", 100 + number, on=name) for number, name in enumerate(NAMES)]
TO_VLAN = next(it for it in worlds.DOOR if isinstance(it, LogicalPort) and it.id == "r-vlan")
BASE = [it for it in worlds.DOOR if not isinstance(it, Chassis | Alive | LogicalPort) or it.id in ("r-net", "r-vlan")]


def keepers(*objects: object) -> list[str]:
    """Who takes packets to the router's MAC on the VLAN, as each chassis sees it for itself."""
    found = []
    for host in HOSTS:
        facts = compile_world(APPS, World.of(Me.of(host), *objects)).facts  # type: ignore[arg-type]
        if facts.get(Owner("door", "LogicalPort", "r-vlan")):
            found.append(host.id)
    return found


def test_there_is_one_for_all_and_another_when_it_dies() -> None:
    world = [*BASE, *HOSTS, *ALIVE, *PORTS]
    (first,) = keepers(*world)
    for gone in (
        [it for it in ALIVE if it.id != first],
        [it for it in ALIVE if it.id == first],
    ):
        alive = [it for it in ALIVE if it not in gone]
        (other,) = keepers(*BASE, *HOSTS, *alive, *PORTS)
        assert (other == first) == (first in {it.id for it in alive})


def test_operators_see_who_it_is() -> None:
    world = [*BASE, *HOSTS, *ALIVE, *PORTS]
    rows = [it for it in world if isinstance(it, Row)]
    router = next(it for it in rows if isinstance(it, LogicalRouter))
    records = [Record(Key(it.scope, type(it).__name__, it.id), encode(it), 1) for it in rows]
    ((port, chassis),) = _doorkeepers(router, Contents(1, records))
    assert (port.id, [chassis]) == ("r-vlan", keepers(*world))


def test_it_lives_has_a_way_there_and_a_port_behind_the_router() -> None:
    assert keepers(*BASE, *HOSTS, *ALIVE, PORTS[3]) == ["h3"]
    assert keepers(*BASE, *HOSTS, *ALIVE) == []
    unmapped = [replace(it, bridge_mappings=()) if it.id != "h5" else it for it in HOSTS]
    assert keepers(*BASE, *unmapped, *ALIVE, *PORTS) == ["h5"]
    assert len(keepers(*BASE, *HOSTS, *PORTS)) == 1, "leases ran out, nobody is known to be alive"
    elsewhere = replace(PORTS[3], network="other")
    assert keepers(*BASE, *HOSTS, *ALIVE, elsewhere) == []


def flows(facts: tuple[Fact, ...]) -> list[Flow]:
    return [fact for fact in facts if isinstance(fact, Flow)]


def test_only_the_doorkeeper_uses_the_interfaces_mac() -> None:
    for me, kept in ((HOSTS[0], True), (HOSTS[1], False)):
        facts = compile_world(APPS, World.of(Me.of(me), *BASE, *HOSTS, *ALIVE, PORTS[0])).facts
        assert len(flows(facts.get(Owner("door", "LogicalPort", "r-vlan"), ()))) == (14 if kept else 0)
        assert len(flows(facts.get(Owner("provider", "LogicalPort", "r-vlan"), ()))) == (0 if kept else 1)
        asks_4, asks_6, wants, *hears, _, _ = flows(facts[Owner("door", "LogicalSwitch", "vlan")])
        assert asks_4.table == asks_6.table == L3.neighbours.number
        assert wants.table == asks_4.goto == asks_6.goto == L3.unresolved.number
        own = chassis_mac(me.id)
        assert [it.table for it in hears] == [External.arrival.number] * 2
        assert all(match(eth_dst=own).values[0] in it.match.values for it in hears)


def test_the_doorkeeper_alone_tells_the_physical_network_of_the_router_and_its_addresses() -> None:
    octets = bytes.fromhex(TO_VLAN.mac.replace(":", ""))
    frames = [arp.announcement(octets, IPv4Address("10.1.0.1"))]
    frames += [nd.announcement(octets, IPv6Address(ip)) for ip in ("fd01::1", link_local(TO_VLAN.mac))]
    subnet = worlds.subnet("vlan6", "fd01::/64", "vlan", ipv6_ra_mode="slaac")
    told = advertise(TO_VLAN, [subnet], 1500)
    question = Punted(PuntKind.ROUTER_SOLICITATION, b"vlan", b"", 110, {})
    for me, keeps in ((HOSTS[0], True), (HOSTS[1], False)):
        replica = Replica()
        worlds.load(replica, *BASE, *HOSTS, *ALIVE, PORTS[0])
        view = View(replica, {}, Me.of(me))
        outside = load(NETWORK, 4), Resubmit(Delivery.outside.number)
        assert list(Door().unasked(view)) == [PacketOut(frame, outside) for frame in (frames if keeps else ())]
        for said in (Advertisement().unasked(view), Advertisement().solicited(question, view)):
            assert list(said) == ([PacketOut(told, outside)] if keeps else [])


def test_questions_from_beyond_the_link_are_not_answered() -> None:
    facts = compile_world(APPS, World.of(Me.of(HOSTS[0]), *BASE, *HOSTS, *ALIVE, PORTS[0])).facts
    found = [it for owner in facts if owner.app in ("door", "advertisement") for it in flows(facts[owner])]
    shapes = [{field.name for field, _ in it.match.shape.fields} for it in found if it.table == External.arrival.number]
    discovery = [names for names in shapes if "nd_target" in names]
    assert len(discovery) == 2 + 4, "of the chassis, and of the router"
    assert all("ip_ttl" in names for names in discovery)
