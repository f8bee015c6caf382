"""Who is told that a host on a physical network doesn't answer; tests/dataplane sends the packets."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether

from dragonflow.apps import APPS
from dragonflow.apps.l3 import L3
from dragonflow.apps.unanswered import tell
from dragonflow.controller.engine import Engine
from dragonflow.controller.replica import Replica
from dragonflow.controller.view import View
from dragonflow.pipeline import SOURCE, Punted, PuntKind, Resubmit
from dragonflow.pipeline.fields import FIELDS
from dragonflow.pipeline.registers import ROUTER
from dragonflow.testing import worlds

GUEST, INTERFACE, GATEWAY, FLOATING = 11, 21, 22, "203.0.113.61"
ABSENT = "203.0.113.99"


def told(source: str, key: int, *, router: int = 1, payload: object = None) -> list[tuple[str, str, str, list[object]]]:
    """What is sent when a packet of a port's waited in vain: its addresses, whose packet it quotes, and where it goes on."""
    replica = Replica()
    worlds.load(replica, *worlds.FLOATING)
    made = Engine(APPS, replica, worlds.ME)
    made.settle()
    interface = "02:00:00:00:00:15"
    packet = Ether(src="02:00:00:00:00:16", dst=interface) / IP(src=source, dst=ABSENT) / (payload or UDP())
    fields = {FIELDS[SOURCE.field]: key, FIELDS[ROUTER.field]: router}
    punted = Punted(PuntKind.NEIGHBOUR_WANTED, b"ext", bytes(packet), 1, fields)
    found = []
    for out in tell(punted, View(replica, made.places, worlds.ME, made.serving)):
        frame = Ether(out.packet)
        assert (frame[ICMP].type, frame[ICMP].code) == (3, 1)
        tables = [action.table for action in out.actions if isinstance(action, Resubmit)]
        found.append((frame[IP].src, frame[IP].dst, frame[ICMP].payload.src, tables))
    return found


@pytest.mark.parametrize(
    ("source", "key", "router", "to", "table"),
    [
        ("10.0.0.11", GUEST, "10.0.0.1", "10.0.0.11", L3.entry),
        (FLOATING, GUEST, "203.0.113.2", "10.0.0.11", L3.local),
        ("203.0.113.2", GUEST, "203.0.113.2", "203.0.113.2", L3.entry),
        ("203.0.113.2", 0, "203.0.113.2", "203.0.113.2", L3.entry),
    ],
    ids=["own address", "floating IP", "gateway's", "another chassis's guest"],
)
def test_the_sender_is_told_as_whom_its_network_knows_it(
    source: str, key: int, router: str, to: str, table: object
) -> None:
    assert told(source, key) == [(router, to, to, [table.number])]  # type: ignore[attr-defined]


def test_somebody_outside_is_told_by_the_way_that_it_came() -> None:
    assert told("192.0.2.9", GATEWAY) == [(ABSENT, "192.0.2.9", "192.0.2.9", [L3.routes.number])]


def test_of_what_nobody_may_complain_and_what_nobody_is_known_to_have_sent_nothing_is_said() -> None:
    assert told("10.0.0.11", GUEST, payload=ICMP(type=3, code=1) / b"quoted") == []
    assert told("10.0.0.11", 999) == told("10.0.0.11", GUEST, router=9) == []
