"""The app ``chassis_snat``: whose packets leave under the chassis's own address, and how they find back."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address

import pytest
from msgspec.structs import replace
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import ARP, Ether

from dragonflow.apps import APPS
from dragonflow.apps.chassis_snat import ChassisSnat, number
from dragonflow.apps.l3 import L3
from dragonflow.apps.unanswered import tell
from dragonflow.apps.wiring import chassis_mac
from dragonflow.controller.announce import announcement
from dragonflow.controller.engine import Engine
from dragonflow.controller.replica import Object, Replica
from dragonflow.controller.view import Me, View
from dragonflow.model import AllocationPool, FixedIP, PortForwarding, RouterGateway
from dragonflow.pipeline import (
    NETWORK,
    SOURCE,
    Fact,
    Flow,
    Owner,
    Punted,
    PuntKind,
    Resubmit,
    Track,
    Translate,
    Untrack,
    match,
)
from dragonflow.pipeline.fields import FIELDS
from dragonflow.pipeline.registers import ROUTER
from dragonflow.testing import worlds
from dragonflow.testing.oracle import compile_world
from dragonflow.testing.worlds import World

OURS, EXTERNAL_MTU = "203.0.113.11", 1500
PLAIN = tuple(it for it in worlds.OWN if it.id not in ("fr", "fu"))
"""Without forwarded ports."""


def changed(*rows: Object) -> list[Object]:
    return list({(type(it), it.id): it for it in (*PLAIN, *rows)}.values())


def facts(kind: str, id: str, *objects: Object, me: Me = worlds.OWNER) -> tuple[Fact, ...]:
    compiled = compile_world(APPS, World.of(me, *(objects or PLAIN)))
    return compiled.facts.get(Owner("chassis_snat", kind, id), ())


def engine(*objects: Object) -> Engine:
    replica = Replica()
    worlds.load(replica, *(objects or PLAIN))
    made = Engine(APPS, replica, worlds.OWNER)
    made.settle()
    return made


def troubles(*objects: Object) -> set[str]:
    return {reason for owner, reason in engine(*objects).degraded.items() if owner.app == "chassis_snat"}


def leaving(*objects: Object, of: str = "a") -> dict[object, Flow]:
    """The flows by which a guest's packets are tracked, by match."""
    flows = (it for it in facts("LogicalPort", of, *objects) if isinstance(it, Flow))
    return {it.match: it for it in flows if any(isinstance(action, Track) for action in it.actions)}


def out_of(router: int, source: int, ip: str) -> object:
    return match((ROUTER, router), (SOURCE, source), eth_type=0x0800, ipv4_src=ip)


def test_each_guest_here_is_tracked_by_a_number_of_its_own_in_one_zone() -> None:
    ways = {of: leaving(of=of) for of in ("a", "s", "c")}
    assert set(ways["a"]) == {out_of(1, 11, "10.0.0.11"), out_of(2, 11, "10.0.0.11")}, "both routers lead there"
    assert set(ways["s"]) == {out_of(3, 14, "10.0.0.11")}
    assert ways["c"] == {}, "its guest is elsewhere"
    tracks = {
        action for way in ways.values() for it in way.values() for action in it.actions if isinstance(action, Track)
    }
    assert tracks == {Track(65535, L3.departure.number, commit=True, translate=Translate(source=OURS))}


def test_without_an_address_there_is_nothing() -> None:
    compiled = compile_world(APPS, World.of(worlds.ME, *PLAIN))
    assert not [
        owner for owner, its in compiled.facts.items() if owner.app == "chassis_snat" and its and owner.kind != "Me"
    ]


def test_its_cost_is_as_its_app_says() -> None:
    count = {
        (kind, name): Counter(type(fact).__name__ for fact in facts(kind, name))
        for kind, name in (("LogicalSwitch", "ext"), ("LogicalPort", "a"), ("LogicalPort", "s"))
    }
    assert count == {
        ("LogicalSwitch", "ext"): {"Flow": 8, "Serve": 1},
        ("LogicalPort", "a"): {"Flow": 6 + 4 * 2, "Meter": 3},
        ("LogicalPort", "s"): {"Flow": 6 + 4, "Meter": 3},
    }
    roomy = changed(worlds.network(mtu=EXTERNAL_MTU))
    assert Counter(map(type, facts("LogicalPort", "a", *roomy)))[Flow] == 5 + 4 * 2


@pytest.mark.parametrize(
    ("rows", "ways"),
    [
        ((), 2),
        ((worlds.router("r", 1, "net", gateway=RouterGateway("r-ext", "ext", enable_snat=False)),), 1),
        ((worlds.router("r", 1, "net"),), 1),
        ((worlds.router("r", 1, "net", gateway=RouterGateway("r-ext", "ext"), admin_up=False),), 1),
        ((worlds.interface("r", 21, FixedIP("v4b", "10.0.9.1")),), 1),
        ((worlds.external(admin_up=False),), 0),
        ((worlds.patch_port(ofport=None),), 0),
        ((worlds.subnet("ext4", "198.51.100.0/24", "ext"),), 0),
        ((worlds.tap("a", None),), 0),
        ((worlds.port("a", 11, on="there"),), 0),
        ((worlds.port("a", 1 << 24),), 0),
        (
            worlds.floating(
                "f", 71, "203.0.113.71", router="r", forwardings=(PortForwarding("tcp", 8, 8, "a", "10.0.0.11", 8, 8),)
            ),
            1,
        ),
        (
            worlds.floating(
                "f", 71, "203.0.113.71", router="r", forwardings=(PortForwarding("tcp", 8, 8, "c", "10.0.0.13", 8, 8),)
            ),
            2,
        ),
    ],
)
def test_who_can_leave_from_here_and_by_which_routers(rows: tuple[Object, ...], ways: int) -> None:
    assert len(leaving(*changed(*rows))) == ways


def test_numbers_are_unique_to_a_port_and_an_address() -> None:
    several = worlds.port("a", 11, fixed_ips=tuple(FixedIP("v4", f"10.0.0.{it}") for it in range(1, 20)))
    found = [number(several, ip) for ip in several.ips]
    assert found[:2] == ["240.0.0.11", "241.0.0.11"]
    assert found[15:] == [None] * 4
    assert "255.255.255.255" not in {number(replace(several, key=(1 << 24) - 1), ip) for ip in several.ips}
    assert number(worlds.port("a", 11), "fd00::b") is None
    assert (
        number(worlds.port("v6first", 12, fixed_ips=(FixedIP("v6", "fd00::1"), FixedIP("v4", "10.0.0.1"))), "10.0.0.1")
        == "240.0.0.12"
    )


def test_no_packet_leaves_that_was_not_translated() -> None:
    """What comes back from tracking has no router; of that only the address itself goes on."""
    of_nobody = {
        it.match: it for it in facts("LogicalSwitch", "ext") if isinstance(it, Flow) and it.table == L3.departure.number
    }
    passes, drops = match((ROUTER, 0), eth_type=0x0800, ipv4_src=OURS), match((ROUTER, 0))
    assert {it: flow.goto for it, flow in of_nobody.items()} == {passes: L3.neighbours.number, drops: None}
    assert of_nobody[passes].priority > of_nobody[drops].priority > 12, "before what routers do with their own"
    for flow in leaving().values():
        before = flow.actions[: flow.actions.index(next(it for it in flow.actions if isinstance(it, Track)))]
        assert {
            str(IPv4Address(it.value)) for it in before if getattr(it, "field", None) and it.field.name == "ipv4_src"
        } == {"240.0.0.11"}


def test_what_comes_to_the_address_is_tracked_anew_and_known_by_nobodys_router() -> None:
    (back,) = (
        it
        for it in facts("LogicalSwitch", "ext")
        if isinstance(it, Flow) and any(isinstance(action, Track) for action in it.actions)
    )
    assert back.match == match((NETWORK, 6), eth_dst=chassis_mac("here"), eth_type=0x0800, ipv4_dst=OURS)
    assert back.actions[-2:] == (Untrack(), Track(65535, L3.local.number, translate=Translate()))


def test_it_is_told_whom_else_the_address_may_belong_to() -> None:
    name = f"[df] snat_addresses: {OURS}"
    assert troubles() == set()
    pool = worlds.subnet(
        "ext4", "203.0.113.0/24", "ext", allocation_pools=(AllocationPool("203.0.113.9", "203.0.113.11"),)
    )
    assert troubles(*changed(pool)) == {
        f"{name} is in an allocation pool of subnet ext4: Neutron may give it to somebody else"
    }
    assert troubles(*changed(worlds.subnet("ext4", "203.0.113.0/24", "ext", gateway_ip=OURS))) == {
        f"{name} is the gateway's of subnet ext4"
    }
    assert troubles(*changed(worlds.chassis("there", "192.0.2.2", snat_addresses=(OURS,)))) == {
        f"{name} is chassis there's too"
    }
    taken = worlds.floating("f", 71, OURS)
    assert troubles(*changed(*taken)) == {f"{name} is also the address of port port-f"}
    inside = worlds.port("b", 12, fixed_ips=(FixedIP("v4", OURS),))
    assert troubles(*changed(inside)) == set(), "inside, addresses are the tenants'"


def test_the_address_is_announced_when_it_begins_to_be_served() -> None:
    made = engine()
    view = View(made._replica, made.places, worlds.OWNER, made.serving)
    assert "ext" in made.serving
    (out,) = announcement("ext", view)
    told = Ether(out.packet)
    assert (told.src, told[ARP].psrc, told[ARP].pdst) == (chassis_mac("here"), OURS, OURS)
    assert list(announcement("ext", View(made._replica, made.places, worlds.OWNER))) == []


OUTSIDE_MAC, HERS = "02:ee:00:00:00:01", "02:00:00:00:00:0b"


def quoting(source: str, destination: str, quoted: IP, kind: int = 3) -> bytes:
    return bytes(Ether(src=OUTSIDE_MAC, dst=HERS) / IP(src=source, dst=destination) / ICMP(type=kind) / quoted)


def punted(kind: PuntKind, packet: bytes, data: str, *first: int) -> Punted:
    return Punted(kind, bytes(first) + data.encode(), packet, 110, {})


def test_errors_go_between_the_number_and_the_guest() -> None:
    made = engine()
    view = View(made._replica, made.places, worlds.OWNER, made.serving)
    app, way = ChassisSnat(), "ext|s|10.0.0.11"
    error = quoting("192.0.2.9", "240.0.0.14", IP(src="240.0.0.14", dst="192.0.2.9") / UDP(sport=5, dport=9))
    (out,) = app.error_in(punted(PuntKind.SHARED_ERROR_IN, error, way), view)
    told = Ether(out.packet)
    assert (told[IP].dst, told[ICMP].payload.src) == ("10.0.0.11", "10.0.0.11")
    error = quoting("10.0.0.11", "192.0.2.9", IP(src="192.0.2.9", dst="10.0.0.11") / UDP(sport=9, dport=5))
    (out,) = app.error_out(punted(PuntKind.SHARED_ERROR_OUT, error, way), view)
    told = Ether(out.packet)
    assert (told[IP].src, told[ICMP].payload.dst) == ("240.0.0.14", "240.0.0.14")
    assert out.actions[-1] == Track(65535, L3.departure.number, translate=Translate())
    packet = bytes(
        Ether(src=OUTSIDE_MAC, dst=chassis_mac("here")) / IP(src="192.0.2.9", dst="10.0.0.11", ttl=1) / UDP()
    )
    for said, (kind, code) in enumerate(((11, 0), (3, 4))):
        (out,) = app.unforwarded(punted(PuntKind.SHARED_UNFORWARDED, packet, way, said), view)
        told = Ether(out.packet)
        assert (told.src, told.dst) == (chassis_mac("here"), OUTSIDE_MAC)
        assert (told[IP].src, told[ICMP].type, told[ICMP].code, told[ICMP].payload.dst) == (
            "240.0.0.14",
            kind,
            code,
            "240.0.0.14",
        )
    assert told[ICMP].nexthopmtu == 1442
    for answer, first in ((app.error_in, ()), (app.error_out, ()), (app.unforwarded, (0,))):
        for name, frame in (("ext|gone|10.0.0.11", error), ("ext|c|10.0.0.13", error), (way, b"nonsense")):
            assert list(answer(punted(PuntKind.SHARED_ERROR_IN, frame, name, *first), view)) == []


def test_a_guest_is_told_that_a_host_outside_is_not_there_by_its_connection() -> None:
    made = engine()
    view = View(made._replica, made.places, worlds.OWNER, made.serving)
    packet = bytes(Ether(src=chassis_mac("here"), dst=HERS) / IP(src=OURS, dst="203.0.113.99") / UDP())

    def told(source: int, network: int = 6) -> list[tuple[str, str, str]]:
        fields = {FIELDS[SOURCE.field]: source, FIELDS[NETWORK.field]: network}
        outs = list(tell(Punted(PuntKind.NEIGHBOUR_WANTED, b"ext", packet, 110, fields), view))
        frames = [Ether(out.packet) for out in outs]
        assert {out.actions[-1] for out in outs} <= {Resubmit(L3.entry.number)}
        return [(frame.dst, frame[IP].src, frame[IP].dst) for frame in frames]

    assert told(14) == [(chassis_mac("here"), "203.0.113.4", OURS)]
    assert told(11) == [(chassis_mac("here"), "203.0.113.2", OURS)]
    assert told(13) == told(999) == told(14, network=5) == []
