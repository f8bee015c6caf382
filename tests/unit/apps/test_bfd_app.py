"""Which sessions a chassis wants of its switch; tests/dataplane has those that real Open vSwitches hold."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from dragonflow.apps import APPS
from dragonflow.apps.wiring import peer_name
from dragonflow.controller.engine import Engine
from dragonflow.controller.replica import Object, Replica
from dragonflow.controller.view import Me
from dragonflow.model import Chassis, FixedIP, RouterGateway
from dragonflow.pipeline import Owner, PeerPort
from dragonflow.switch.ovsdb import bfd_state
from dragonflow.testing import worlds
from dragonflow.testing.oracle import compile_world
from dragonflow.testing.worlds import World


def host(name: str, address: str, **fields: Any) -> Chassis:
    return worlds.chassis(name, address, **{"bridge_mappings": worlds.MAPPINGS, **fields})


HERE, THERE = host("here", "192.0.2.1"), host("there", "192.0.2.2")
ROUTER = Owner("bfd", "LogicalRouter", "r")
BASE: tuple[Object, ...] = (
    *(worlds.network(), worlds.external(), worlds.router("r", 1, "net", gateway=RouterGateway("r-ext", "ext"))),
    *(worlds.interface("r", 21, FixedIP("v4", "10.0.0.1")), worlds.gateway("r", 22, FixedIP("ext4", "203.0.113.2"))),
    *(worlds.port("a", 11), worlds.port("c", 13, on="there")),
)


def wanted(*hosts: Chassis) -> list[PeerPort]:
    """What the first of them wants."""
    facts = compile_world(APPS, World.of(Me.of(hosts[0]), *BASE, *hosts)).facts
    return [fact for fact in facts.get(ROUTER, ()) if isinstance(fact, PeerPort)]


def test_each_has_a_tunnel_to_the_other_for_it() -> None:
    assert wanted(HERE, THERE) == [PeerPort(peer_name("there"), "geneve", "192.0.2.1", "192.0.2.2")]
    assert wanted(THERE, HERE) == [PeerPort(peer_name("here"), "geneve", "192.0.2.2", "192.0.2.1")]


def test_both_choose_the_same_of_the_encapsulations_that_they_offer() -> None:
    one, other = replace(HERE, tunnel_types=("gre", "vxlan")), replace(THERE, tunnel_types=("geneve", "vxlan", "gre"))
    assert [port.type for port in (*wanted(one, other), *wanted(other, one))] == ["vxlan", "vxlan"]
    assert not wanted(HERE, replace(THERE, tunnel_types=("gre",)))


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::2", "not an address"])
def test_whom_no_tunnel_reaches_costs_the_others_nothing(address: str) -> None:
    third = host("third", "192.0.2.3")
    assert not wanted(HERE, replace(THERE, tunnel_ip=address))
    facts = compile_world(
        APPS,
        World.of(Me.of(HERE), *BASE, worlds.port("e", 15, on="third"), HERE, replace(THERE, tunnel_ip=address), third),
    ).facts
    assert PeerPort(peer_name("third"), "geneve", "192.0.2.1", "192.0.2.3") in facts[ROUTER]


def test_a_port_more_on_the_same_chassis_renders_no_session_again() -> None:
    replica = Replica()
    engine = Engine(APPS, replica, Me.of(HERE))
    worlds.load(replica, *BASE, HERE, THERE)
    assert ROUTER in engine.settle().facts
    worlds.load(replica, worlds.port("d", 14, on="there"), worlds.port("b", 12), worlds.tap("b", 2), revision=2)
    assert ROUTER not in engine.settle().facts
    worlds.load(replica, worlds.port("e", 15, on="third"), revision=3)
    assert ROUTER in engine.settle().facts


@pytest.mark.parametrize(
    ("state", "flaps", "expected"),
    [
        *(("down", "0", None), ("init", "0", None), ("up", "1", "up")),
        *(("down", "2", "down"), ("init", "2", "down"), ("up", "3", "up")),
    ],
)  # fmt: skip
def test_a_session_was_lost_only_if_it_was_up(state: str, flaps: str, expected: str | None) -> None:
    """Read off Open vSwitch 3.1: it counts 1 when the session comes up first, and from 0 again in a new process."""
    assert bfd_state({"state": state, "flap_count": flaps, "diagnostic": "No Diagnostic"}) == expected


def test_an_interface_without_a_session_says_nothing() -> None:
    assert bfd_state({}) is None
