"""The engine with toy apps: what renders when, and what becomes of faults."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import msgspec
import pytest

from dragonflow.apps import APPS
from dragonflow.apps.base import App, renders
from dragonflow.controller.engine import STEP, Engine
from dragonflow.controller.replica import Replica
from dragonflow.controller.view import View
from dragonflow.model import Chassis, LogicalPort, OvsPort
from dragonflow.pipeline import Distributed, Fact, Group, Local, Owner, Place, Trouble
from dragonflow.testing import worlds


class Compute(App):
    """Places ports that have an interface."""

    name = "compute"
    places = "compute ports"

    @renders(LogicalPort)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        for interface in view.where(OvsPort, iface_id=port.id):
            if interface.ofport is not None:
                yield Place(port.id, Local(interface.ofport))


class Sub(App):
    """Places a port where the port that its device_id names is."""

    name = "sub"
    places = "subports"
    follows = ("compute",)

    @renders(LogicalPort)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        if port.device_id and (where := view.locality(port.device_id)) is not None:
            yield Place(port.id, where)


class Show(App):
    """One group for each placed port, numbered by its OpenFlow port."""

    name = "show"

    def __init__(self) -> None:
        self.rendered: list[str] = []

    @renders(LogicalPort)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        self.rendered.append(port.id)
        where = view.locality(port.id)
        if isinstance(where, Local):
            yield Group(where.ofport)


class Faulty(App):
    """Fails for ports that are called so."""

    name = "faulty"

    @renders(LogicalPort)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        yield Group(port.key)
        if port.name == "bad":
            raise RuntimeError("bad port")
        if port.name == "odd":
            yield Trouble("an odd port")
        if view.get(Chassis, "evil") is not None:
            raise RuntimeError("evil chassis")


class Large(App):
    """A group for each port that is here, and for no other."""

    name = "large"

    def __init__(self) -> None:
        self.rendered: list[str] = []

    @renders(LogicalPort, only=lambda port, me: port.chassis == me.chassis)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        self.rendered.append(port.id)
        yield Group(port.key)


class Circle(App):
    """Places a port anywhere but where its device's port is: two that name each other never agree."""

    name = "circle"

    @renders(LogicalPort)
    def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
        there = view.locality(port.device_id)
        yield Place(port.id, Local(there.ofport + 1 if isinstance(there, Local) else 1))


ODD = msgspec.structs.replace(worlds.port("p", 1), name="odd")


def rig(*apps: App) -> tuple[Replica, Engine]:
    replica = Replica()
    return replica, Engine(apps, replica, worlds.ME)


def test_a_place_reaches_its_readers_in_the_same_settling_whatever_the_order_of_apps() -> None:
    parent, child = worlds.port("parent", 1), worlds.port("child", 2, device_id="parent")
    for apps in worlds.permuted((Compute(), Sub(), Show())):
        replica, engine = rig(*apps)
        worlds.load(replica, child, parent, worlds.tap("parent", 7))
        settled = engine.settle()
        assert engine.places == {"parent": Local(7), "child": Local(7)}
        assert settled.facts[Owner("show", "LogicalPort", "child")] == (Group(7),)
        assert {str(event) for event in settled.events} == {"local_created parent", "local_created child"}
        replica.upsert_port(worlds.tap("parent", 8))
        assert {str(event) for event in engine.settle().events} == {"local_updated parent", "local_updated child"}
        replica.remove_port("tap-parent")
        settled = engine.settle()
        assert {str(event) for event in settled.events} == {"local_deleted parent", "local_deleted child"}
        assert settled.facts[Owner("show", "LogicalPort", "child")] == ()


def test_a_port_that_changes_its_kind_of_place_is_deleted_and_created() -> None:
    replica, engine = rig(*APPS)
    worlds.load(replica, *worlds.ACROSS)
    assert {str(event) for event in engine.settle().events} == {
        "local_created a",
        "local_created b",
        "remote_created c",
    }
    worlds.load(replica, worlds.port("a", 11, on="there"), revision=2)
    events = engine.settle().events
    assert [str(event) for event in events] == ["local_deleted a", "remote_created a"]
    assert {event.revision for event in events} == {2}


def test_an_app_is_asked_only_of_what_it_has_something_to_say_of_or_had() -> None:
    large = Large()
    replica, engine = rig(large)
    worlds.load(replica, worlds.port("here", 1), worlds.port("far", 2, on="there"))
    owner = Owner("large", "LogicalPort", "here")
    assert engine.settle().facts == {Owner("large", "Me", "here"): (), owner: (Group(1),)}
    worlds.load(replica, worlds.port("here", 1, on="there"), worlds.port("far", 2, on="nowhere"), revision=2)
    assert engine.settle().facts == {owner: ()}, "it went: what was said of it is taken back"
    worlds.load(replica, worlds.port("here", 1, on="nowhere"), worlds.port("far", 2), revision=3)
    assert engine.settle().facts == {Owner("large", "LogicalPort", "far"): (Group(2),)}
    assert large.rendered == ["here", "far"]


def test_only_what_rests_on_a_change_renders() -> None:
    show = Show()
    replica, engine = rig(Compute(), show)
    worlds.load(replica, *(worlds.port(f"p{number}", number) for number in range(1, 500)))
    engine.settle()
    show.rendered.clear()
    replica.upsert_port(worlds.tap("p77", 5))
    settled = engine.settle()
    assert show.rendered == ["p77"]
    assert settled.rendered == 2
    assert engine.settle().rendered == 0


def test_news_that_is_taken_back_while_others_render_leaves_nothing() -> None:
    replica, engine = rig(Compute())
    ports = [worlds.port(f"p{number:02}", number) for number in range(1, 2 * STEP)]
    worlds.load(replica, *ports)
    steps = engine.settling()
    next(steps)
    replica.upsert_port(worlds.tap(ports[-1].id, 5))
    next(steps)
    assert engine.places == {ports[-1].id: Local(5)}
    replica.remove_port(f"tap-{ports[-1].id}")
    for _ in steps:
        pass
    assert engine.places == {}


def test_a_plug_on_a_large_network_leaves_the_other_ports_alone() -> None:
    replica, engine = rig(*APPS)
    worlds.load(replica, *worlds.ACROSS, *(worlds.port(f"p{number}", number, on="there") for number in range(20, 300)))
    engine.settle()
    worlds.load(replica, worlds.port("new", 999), worlds.tap("new", 9), revision=2)
    settled = engine.settle()
    assert {owner.id for owner in settled.facts} == {"new"}
    assert settled.rendered <= 2 * len(APPS), "none of the other ports"


def test_a_rendering_that_fails_loses_its_facts_and_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    replica, engine = rig(Faulty())
    good, bad = worlds.port("p", 1), worlds.port("q", 2)
    owner = Owner("faulty", "LogicalPort", "q")
    worlds.load(replica, good, bad)
    assert engine.settle().facts[owner] == (Group(2),)
    worlds.load(replica, msgspec.structs.replace(bad, name="bad"), revision=2)
    assert engine.settle().facts[owner] == ()
    assert engine.degraded == {owner: "rendering failed: RuntimeError('bad port')"}
    assert engine.broken == {owner}
    assert "bad port" in caplog.text
    worlds.load(replica, bad, revision=3)
    assert engine.settle().facts[owner] == (Group(2),)
    assert engine.degraded == {}
    worlds.load(replica, worlds.chassis("evil", "192.0.2.66"), revision=4)
    assert set(engine.settle().facts.values()) == {()}
    replica.remove(Chassis, "evil", 5)
    assert engine.settle().facts == {Owner("faulty", "LogicalPort", "p"): (Group(1),), owner: (Group(2),)}


def test_trouble_is_told_but_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    replica, engine = rig(Faulty())
    caplog.set_level(logging.WARNING)
    worlds.load(replica, ODD)
    assert engine.settle().facts[Owner("faulty", "LogicalPort", "p")] == (Group(1),)
    assert list(engine.degraded.values()) == ["an odd port"]
    assert engine.broken == frozenset()
    worlds.load(replica, msgspec.structs.replace(ODD, revision=2), revision=2)
    engine.settle()
    assert caplog.text.count("an odd port") == 1


def test_places_that_rest_on_each_other_end_in_a_report_and_not_in_a_loop() -> None:
    replica, engine = rig(Circle())
    worlds.load(replica, worlds.port("p", 1, device_id="q"), worlds.port("q", 2, device_id="p"))
    settled = engine.settle()
    assert settled.rendered < 100
    assert any("rest on each other" in reason for reason in engine.degraded.values())
    assert engine.settle().rendered == 0


def test_two_apps_that_place_one_port_are_told_and_the_first_counts() -> None:
    class Everywhere(App):
        name = "everywhere"

        @renders(LogicalPort)
        def port(self, port: LogicalPort, view: View) -> Iterator[Fact]:
            yield Place(port.id, Distributed())

    for plugged_first in (True, False):
        replica, engine = rig(Compute(), Everywhere())
        if plugged_first:
            worlds.load(replica, worlds.tap("p", 3))
        worlds.load(replica, worlds.port("p", 1))
        engine.settle()
        worlds.load(replica, worlds.tap("p", 3))
        engine.settle()
        assert engine.locality("p") == Local(3)
        (loser,) = engine.degraded
        assert loser.app == "everywhere"
        assert engine.broken == {loser}
        replica.remove_port("tap-p")
        assert [str(event) for event in engine.settle().events] == ["local_deleted p", "distributed_created p"]
        assert engine.degraded == {}


def test_facts_can_be_handed_over_instead_of_kept() -> None:
    replica, engine = rig(*APPS)
    worlds.load(replica, *worlds.ACROSS)
    handed: dict[Owner, tuple[Fact, ...]] = {}
    assert engine.settle(handed.__setitem__).facts == {}
    other_replica, other = rig(*APPS)
    worlds.load(other_replica, *worlds.ACROSS)
    assert other.settle().facts == handed


def test_two_interfaces_with_one_iface_id_are_decided_by_mac_then_by_number() -> None:
    replica, engine = rig(*APPS)
    port = worlds.port("a", 11)
    worlds.load(replica, worlds.OPEN, *worlds.bindings(port))
    worlds.load(replica, worlds.network(), port, worlds.tap("a", 5), worlds.tap("a", 4, id="other"))
    engine.settle()
    assert engine.locality("a") == Local(4)
    assert list(engine.degraded.values()) == ["several interfaces have iface-id a: other is used, not tap-a"]
    replica.upsert_port(worlds.tap("a", 5, attached_mac=port.mac))
    engine.settle()
    assert engine.locality("a") == Local(5)
    replica.remove_port("other")
    engine.settle()
    assert engine.degraded == {}
