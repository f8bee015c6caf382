"""Which chassis serves a gateway, what that costs, and how ranges of ports become matches; tests/dataplane has the packets."""

from __future__ import annotations

from collections import Counter

import pytest
from msgspec.structs import replace
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether

from dragonflow.apps import APPS
from dragonflow.apps.delivery import Delivery
from dragonflow.apps.l3 import L3
from dragonflow.apps.snat import Snat
from dragonflow.apps.wiring import chassis_mac
from dragonflow.controller.engine import Engine
from dragonflow.controller.replica import Object, Replica
from dragonflow.controller.report import Claim, claims
from dragonflow.controller.view import View
from dragonflow.model import Alive, FixedIP, RouterGateway
from dragonflow.pipeline import (
    Distributed,
    Fact,
    Flow,
    Local,
    Owner,
    Punted,
    PuntKind,
    Remote,
    Track,
    Translate,
    Trouble,
    match,
    set_field,
)
from dragonflow.pipeline.registers import ROUTER
from dragonflow.testing import worlds
from dragonflow.testing.oracle import compile_world
from dragonflow.testing.worlds import World


def engine(*objects: Object) -> Engine:
    replica = Replica()
    worlds.load(replica, *objects)
    made = Engine(APPS, replica, worlds.ME)
    made.settle()
    return made


def changed(*rows: Object) -> list[Object]:
    return list({(type(it), it.id): it for it in (*worlds.GATEWAY, *rows)}.values())


def facts(kind: str, id: str, *objects: Object) -> tuple[Fact, ...]:
    compiled = compile_world(APPS, World.of(worlds.ME, *(objects or worlds.GATEWAY)))
    return compiled.facts.get(Owner("snat", kind, id), ())


def tracked(*its: Fact) -> list[Track]:
    return [action for fact in its for action in getattr(fact, "actions", ()) if isinstance(action, Track)]


def test_gateways_are_everywhere_and_each_is_served_once() -> None:
    made = engine(*worlds.GATEWAY)
    assert made.places["r-ext"] == made.places["u-ext"] == Distributed()
    assert (made.places["port-fr"], made.places["port-fu"]) == (Local(110), Remote("there", 110))
    assert {it for it in made.serving if it.endswith("ext") or it.startswith("port")} == {"r-ext", "port-fr"}


def test_only_who_serves_a_gateway_shows_its_mac_to_the_physical_network() -> None:
    made = compile_world(APPS, World.of(worlds.ME, *worlds.GATEWAY)).facts
    hidden = {name: made.get(Owner("provider", "LogicalPort", f"{name}-ext"), ()) for name in ("r", "u")}
    assert hidden["r"] == ()
    (flow,) = hidden["u"]
    assert isinstance(flow, Flow)
    assert flow.table == Delivery.outside.number
    assert set_field(eth_src=chassis_mac("here"))[0] in flow.actions


def test_what_is_served_here_is_said_and_nothing_else() -> None:
    replica = Replica()
    worlds.load(replica, *worlds.GATEWAY, revision=7)
    said = claims(worlds.ME, replica, {}.get, {"r-ext", "port-fr", "r-net", "gone"})
    assert said == {
        "r-ext": Claim("ext", 0, "ACTIVE", 7),
        "port-fr": Claim("ext", 0, "ACTIVE", 7, owner="fr"),
    }


def test_its_cost_is_as_its_app_says() -> None:
    count = {
        (kind, name): Counter(type(fact).__name__ for fact in facts(kind, name))
        for kind, name in (
            ("LogicalPort", "r-ext"),
            ("LogicalPort", "u-ext"),
            ("FloatingIp", "fr"),
            ("FloatingIp", "fu"),
        )
    }
    addresses, networks, blocks = 2, 1, 1 + 3
    assert count == {
        ("LogicalPort", "r-ext"): {"Flow": 10 + 2 * addresses + networks, "Meter": 1},
        ("LogicalPort", "u-ext"): {"Flow": addresses + 2},
        ("FloatingIp", "fr"): {"Flow": 10 + blocks, "Meter": 1, "Serve": 1},
        ("FloatingIp", "fu"): {"Flow": 1},
    }


def test_routers_have_zones_of_their_own_that_are_used_again() -> None:
    def zone(key: int) -> set[int]:
        its = facts(
            "LogicalPort", "r-ext", *changed(worlds.router("r", key, "net", gateway=RouterGateway("r-ext", "ext")))
        )
        return {it.zone for it in tracked(*its)}

    assert [zone(1), zone(24575), zone(24576)] == [{1}, {24575}, {1}], (
        "the others are those of ports and of the chassis's own addresses"
    )


def test_no_translation_leaves_an_address_as_it_is() -> None:
    """A guest's packet from the gateway's own address never reaches the flow that would translate it to that address."""
    leaving = [it for it in facts("LogicalPort", "r-ext") if isinstance(it, Flow) and it.table == L3.departure.number]
    (nat,) = (it for it in leaving if tracked(it))
    assert tracked(nat)[0].translate == Translate(source="203.0.113.2")
    own = match((ROUTER, 1), eth_type=0x0800, ipv4_src="203.0.113.2")
    assert [it.actions for it in leaving if it.match == own and it.priority > nat.priority] == [()]


@pytest.mark.parametrize(
    "rows",
    [
        changed(worlds.router("r", 1, "net")),
        changed(worlds.router("r", 1, "net", gateway=RouterGateway("r-ext", "ext"), admin_up=False)),
        changed(worlds.external(admin_up=False)),
        changed(worlds.gateway("r", 31, FixedIP("ext4", "203.0.113.2"), admin_up=False)),
        [it for it in worlds.GATEWAY if it.id != "df-int-br-ex"],
    ],
)
def test_without_all_it_needs_it_is_served_by_nobody(rows: list[Object]) -> None:
    assert "r-ext" not in engine(*rows).serving
    assert tracked(*facts("LogicalPort", "r-ext", *rows)) == []


def test_it_is_told_if_no_chassis_can() -> None:
    nowhere = [
        replace(it, bridge_mappings=()) if it.id in ("here", "there") and not isinstance(it, Alive) else it
        for it in worlds.GATEWAY
    ]
    made = engine(*nowhere)
    assert any("no chassis has both" in reason for reason in made.degraded.values())
    assert not any(isinstance(it, Trouble) for it in facts("LogicalPort", "r-ext"))


def test_senders_outside_are_told_in_the_connections_words() -> None:
    """Inside, the packet is translated: the complaint about it is, too, on its way out."""
    made = engine(*worlds.GATEWAY)
    packet = (
        Ether(src="02:ee:00:00:00:01", dst="02:00:00:00:00:1f") / IP(src="192.0.2.9", dst="10.0.0.13", ttl=1) / UDP()
    )
    view = View(made._replica, made.places, worlds.ME, made.serving)
    for number, (kind, code) in enumerate(((11, 0), (3, 4))):
        punted = Punted(PuntKind.GATEWAY_UNFORWARDED, bytes([number]) + b"r-ext", bytes(packet), 110, {})
        (out,) = Snat().unforwarded(punted, view)
        told = Ether(out.packet)
        assert (told[IP].src, told[IP].dst) == ("10.0.0.13", "192.0.2.9")
        assert (told[ICMP].type, told[ICMP].code, told[ICMP].payload.dst) == (kind, code, "10.0.0.13")
    assert told[ICMP].nexthopmtu == 1442
    for data, frame in ((b"gone", bytes(packet)), (b"r-ext", b"nonsense")):
        assert list(Snat().unforwarded(Punted(PuntKind.GATEWAY_UNFORWARDED, b"\0" + data, frame, 110, {}), view)) == []
