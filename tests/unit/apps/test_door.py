"""Which chassis answers for routers on physical networks; tests/dataplane has the packets."""

from __future__ import annotations

from msgspec.structs import replace

from dragonflow.apps import APPS
from dragonflow.apps.external import External
from dragonflow.apps.l3 import L3
from dragonflow.apps.wiring import chassis_mac
from dragonflow.cli.common import Contents
from dragonflow.cli.show import _doorkeepers
from dragonflow.controller.view import Me
from dragonflow.model import Alive, Chassis, LogicalPort, LogicalRouter, Row, encode
from dragonflow.pipeline import Fact, Flow, Owner, match
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
        assert len(flows(facts.get(Owner("door", "LogicalPort", "r-vlan"), ()))) == (2 if kept else 0)
        assert len(flows(facts.get(Owner("provider", "LogicalPort", "r-vlan"), ()))) == (0 if kept else 1)
        asks_4, asks_6, *hears = flows(facts[Owner("door", "LogicalSwitch", "vlan")])
        assert asks_4.table == asks_6.table == L3.neighbours.number
        own = chassis_mac(me.id)
        assert [it.table for it in hears] == [External.arrival.number] * 2
        assert all(match(eth_dst=own).values[0] in it.match.values for it in hears)
