"""Where floating IPs are, what they need, and what is made of packets that flows can't translate."""

from __future__ import annotations

from collections import Counter

import pytest
from msgspec.structs import replace
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether

from dragonflow.apps import APPS
from dragonflow.apps.dnat import Dnat
from dragonflow.apps.l2 import L2
from dragonflow.apps.l3 import L3
from dragonflow.controller.announce import TIMES, Heralds, announcement
from dragonflow.controller.engine import Engine
from dragonflow.controller.events import Confirmed
from dragonflow.controller.replica import Object, Replica
from dragonflow.controller.view import View
from dragonflow.model import BandwidthLimit, FloatingIp, OvsPort, RouterGateway
from dragonflow.pipeline import ApplyMeter, Flow, Local, Meter, PacketOut, Punted, PuntKind, Remote
from dragonflow.testing import worlds
from dragonflow.testing.oracle import compile_world

ROWS = {it.id: it for it in worlds.FLOATING}
ETHER = Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b")  # without one scapy asks the network for seconds
HERE, THERE = Local(1), Remote("there", 110)


def engine(*objects: Object) -> Engine:
    replica = Replica()
    worlds.load(replica, *objects)
    made = Engine(APPS, replica, worlds.ME)
    made.settle()
    return made


def changed(*rows: Object) -> list[Object]:
    return list({**ROWS, **{row.id: row for row in rows}}.values())


def test_it_is_where_its_fixed_port_is() -> None:
    places = engine(*worlds.FLOATING).places
    assert (places["port-fa"], places["port-fc"]) == (HERE, THERE)


FA = ROWS["fa"]
assert isinstance(FA, FloatingIp)


@pytest.mark.parametrize(
    "rows",
    [
        [it for it in worlds.FLOATING if it.id != "r"],
        [it for it in worlds.FLOATING if it.id != "ext"],
        [it for it in worlds.FLOATING if it.id != "port-fa"],
        [it for it in worlds.FLOATING if it.id != "tap-a"],
        [it for it in worlds.FLOATING if not (isinstance(it, OvsPort) and it.patch)],
        changed(replace(FA, fixed_port=None, fixed_ip=None, router=None)),
        changed(replace(FA, fixed_ip="10.0.0.99")),
        changed(replace(ROWS["r"], admin_up=False)),
        changed(replace(ROWS["r"], gateway=None)),
        changed(replace(ROWS["r"], gateway=RouterGateway("r-else", "else"))),
        changed(replace(ROWS["r"], interfaces=())),
        changed(replace(ROWS["ext"], admin_up=False)),
        changed(replace(ROWS["port-fa"], admin_up=False)),
        changed(replace(ROWS["a"], admin_up=False)),
    ],
)
def test_without_all_it_needs_it_is_nowhere_and_makes_no_flows(rows: list[Object]) -> None:
    compiled = compile_world(APPS, worlds.World.of(worlds.ME, *rows))
    assert "port-fa" not in compiled.places
    made = [fact for owner, facts in compiled.facts.items() if owner.id in ("fa", "port-fa") for fact in facts]
    assert [fact for fact in made if isinstance(fact, Flow | Meter)] == []


def test_a_chassis_that_cannot_serve_it_says_so() -> None:
    missing = engine(*(it for it in worlds.FLOATING if not (isinstance(it, OvsPort) and it.patch)))
    assert any("203.0.113.61 doesn't work" in reason for reason in missing.degraded.values())


def test_its_cost_is_as_its_app_says() -> None:
    facts = compile_world(APPS, worlds.STATES["floating"]()).facts
    count = {
        name: Counter(
            type(fact).__name__ for owner, some in facts.items() if owner[::2] == ("dnat", name) for fact in some
        )
        for name in ("fa", "fc")
    }
    assert count == {"fa": {"Flow": 15, "Meter": 5, "Serve": 1}, "fc": {"Flow": 1}}


def test_its_own_policy_or_its_networks_limits_it_and_not_its_guest() -> None:
    gold = worlds.policy("gold", egress=BandwidthLimit(1000, 100), ingress=BandwidthLimit(2000, 200), dscp=46)
    for rows in (changed(gold, replace(FA, qos="gold")), changed(gold, worlds.external(qos="gold"))):
        facts = compile_world(APPS, worlds.World.of(worlds.ME, *rows)).facts
        mine = [fact for owner, some in facts.items() if owner[::2] == ("dnat", "fa") for fact in some]
        meters = {fact.rate: fact.id for fact in mine if isinstance(fact, Meter) and fact.bits}
        assert set(meters) == {1000, 2000}
        for rate, table in ((1000, L3.departure), (2000, L3.entry)):
            limited = [it.table for it in mine if isinstance(it, Flow) and ApplyMeter(meters[rate]) in it.actions]
            assert limited == [table.number]
        assert not any(owner.app == "qos" and isinstance(it, Meter) for owner, some in facts.items() for it in some)


def test_what_is_for_its_mac_is_not_switched_to_its_guest() -> None:
    facts = compile_world(APPS, worlds.STATES["floating"]()).facts
    assert not any(owner.app == "l2" and owner.id == "port-fa" for owner in facts)
    assert any(owner.app == "l2" and owner.id == "port-fc" for owner in facts)


def view(made: Engine) -> View:
    return View(made._replica, made.places, worlds.ME, made.serving)


def sent(packet: Ether, kind: PuntKind, data: bytes = b"fa") -> list[Ether]:
    punted = Punted(kind, data, bytes(packet), 110, {})
    return [Ether(out.packet) for out in Dnat().answering()[kind](punted, view(engine(*worlds.FLOATING)))]


def test_errors_are_translated_and_nonsense_is_dropped() -> None:
    about = IP(src="203.0.113.61", dst="192.0.2.9") / UDP()
    (got,) = sent(ETHER / IP(src="192.0.2.1", dst="203.0.113.61") / ICMP(type=11) / about, PuntKind.FLOATING_ERROR_IN)
    assert (got[IP].dst, got[ICMP].payload.src) == ("10.0.0.11", "10.0.0.11")
    about = IP(src="192.0.2.9", dst="10.0.0.11") / UDP()
    (got,) = sent(ETHER / IP(src="10.0.0.11", dst="192.0.2.9") / ICMP(type=3) / about, PuntKind.FLOATING_ERROR_OUT)
    assert (got[IP].src, got[ICMP].payload.dst) == ("203.0.113.61", "203.0.113.61")
    for kind in (PuntKind.FLOATING_ERROR_IN, PuntKind.FLOATING_ERROR_OUT):
        assert sent(ETHER / b"nonsense", kind) == []
        assert sent(ETHER / IP(src="10.0.0.11") / ICMP(type=3) / about, kind, b"gone") == []


def test_senders_outside_are_told_by_the_floating_ip_itself() -> None:
    """The packet is translated already when it turns out that it goes no further; its sender knows nothing of that."""
    packet = (
        Ether(src="02:ee:00:00:00:01", dst=ROWS["port-fa"].mac) / IP(src="192.0.2.9", dst="10.0.0.11", ttl=1) / UDP()
    )
    for number, (kind, code) in enumerate(((11, 0), (3, 4))):
        (got,) = sent(packet, PuntKind.FLOATING_UNFORWARDED, bytes([number]) + b"fa")
        assert (got.src, got.dst) == (packet.dst, packet.src)
        assert (got[IP].src, got[IP].dst) == ("203.0.113.61", "192.0.2.9")
        assert (got[ICMP].type, got[ICMP].code) == (kind, code)
        assert got[ICMP].payload.dst == "203.0.113.61"
    assert Ether(bytes(got))[ICMP].nexthopmtu == worlds.network().mtu


def test_it_is_announced_when_it_comes_and_as_long_as_it_is_here() -> None:
    made = engine(*worlds.FLOATING)
    told: list[PacketOut] = []
    heralds = Heralds(lambda: view(made), lambda packet: bool(told.append(packet)) or True)
    heralds(Confirmed((), (), 0.0, {}))
    (one,) = told
    assert one.actions[-1].table == L2.lookup.number  # type: ignore[union-attr]
    heralds(Confirmed((), (), 0.0, {}))
    assert told == [one]
    assert [list(heralds.unasked(view(made))) for _ in range(TIMES)] == [[one]] * (TIMES - 1) + [[]]
    assert list(announcement("port-fa", View(Replica(), {}, worlds.ME))) == []
