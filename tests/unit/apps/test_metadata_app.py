"""Who gets metadata, and what a guest's DHCP server tells it of the way there."""

from __future__ import annotations

from typing import Any

from dragonflow.apps import APPS
from dragonflow.controller.instances import instance_of
from dragonflow.controller.replica import Replica
from dragonflow.controller.view import View
from dragonflow.metadata import address
from dragonflow.metadata.whose import Asker, Instance
from dragonflow.model import DHCP_PORT, FixedIP, LogicalPort
from dragonflow.pipeline import Flow, Local, Trouble
from dragonflow.testing import worlds
from dragonflow.testing.oracle import compile_world
from dragonflow.testing.worlds import World

NET, ADDRESSES = worlds.network(), (FixedIP("v4", "10.0.0.7"), FixedIP("v6", "fd00::7"), FixedIP("v4", "10.0.0.8"))


def port(**fields: Any) -> LogicalPort:
    given = {
        "name": "a",
        "key": 11,
        "mac": "02:00:00:00:00:0b",
        "device_id": "i",
        "project": "p",
        "fixed_ips": ADDRESSES,
    }
    return worlds.port(**given | fields)


def flows(*objects: Any) -> list[Flow]:
    compiled = compile_world(APPS, World.of(worlds.ME, NET, worlds.tap("a", 1), *objects))
    return [
        fact
        for owner, facts in compiled.facts.items()
        for fact in facts
        if owner.app == "metadata" and owner.id == "a" and isinstance(fact, Flow)
    ]


def test_a_port_costs_two_flows_for_each_ipv4_address_and_two_for_its_link_local_one() -> None:
    assert len(flows(port(), worlds.metadata_port())) == 2 * 2 + 2
    assert len(flows(port(fixed_ips=()), worlds.metadata_port())) == 2
    assert len(flows(port(key=address.LAST_KEY + 1), worlds.metadata_port())) == 2


def test_nobody_else_gets_any() -> None:
    assert flows(port()) == []  # there is no interface
    assert flows(port(), worlds.metadata_port(ofport=None)) == []
    for other in (port(device_id=""), port(device_owner=DHCP_PORT), port(on="there"), port(admin_up=False)):
        assert flows(other, worlds.metadata_port()) == []


def test_a_port_whose_key_has_no_ipv4_address_says_so() -> None:
    replica = Replica()
    view = View(replica, {"a": Local(1)}, worlds.ME)
    worlds.load(replica, worlds.metadata_port())
    (app,) = (app for app in APPS if app.name == "metadata")
    far = port(key=address.LAST_KEY + 1)
    assert any(isinstance(fact, Trouble) for fact in app.renderings()[LogicalPort](far, view))
    assert not any(isinstance(fact, Trouble) for fact in app.renderings()[LogicalPort](port(), view))


def who(asker: Asker, known: LogicalPort, *, here: bool = True) -> Instance | None:
    replica = Replica()
    worlds.load(replica, known)
    return instance_of(asker, View(replica, {known.id: Local(1)} if here else {}, worlds.ME))


def test_a_request_is_of_the_instance_whose_port_it_came_from() -> None:
    assert who(Asker(11, 0), port()) == Instance("i", "p", "10.0.0.7")
    assert who(Asker(11, 1), port()) == Instance("i", "p", "10.0.0.8")
    assert who(Asker(11, None), port()) == Instance("i", "p", "10.0.0.7")
    assert who(Asker(11, None), port(fixed_ips=ADDRESSES[1:2])) == Instance("i", "p", "fd00::7")


def test_a_request_from_elsewhere_is_nobodys() -> None:
    assert who(Asker(12, 0), port()) is None
    assert who(Asker(11, 2), port()) is None
    assert who(Asker(11, 0), port(device_id="")) is None
    assert who(Asker(11, 0), port(on="there")) is None
    assert who(Asker(11, 0), port(), here=False) is None
