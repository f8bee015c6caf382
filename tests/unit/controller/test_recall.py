"""What a controller learnt is found again in the flows that it made of it."""

from __future__ import annotations

from ipaddress import ip_address

from dragonflow.apps import APPS
from dragonflow.controller.recall import Recalled, recall
from dragonflow.pipeline import Flow
from dragonflow.switch.openflow.encode import flow_contents, flow_name
from dragonflow.testing import worlds
from dragonflow.testing.oracle import compile_world


def test_neighbours_and_nothing_else_are_read_from_a_switch() -> None:
    more = worlds.neighbour("203.0.113.9", "02:ee:00:00:00:09"), worlds.neighbour("2001:db8::9", "02:ee:00:00:00:09")
    world = worlds.World.of(worlds.ME, *worlds.FLOATING, *more)
    facts = [fact for facts in compile_world(APPS, world).facts.values() for fact in facts if isinstance(fact, Flow)]
    flows = {flow_name(it.table, it.priority, it.match): flow_contents(bytes(8), it.actions, it.goto) for it in facts}
    assert set(recall(flows)) == {
        Recalled(worlds.external().key, ip_address(address), bytes.fromhex(mac))
        for address, mac in (
            ("203.0.113.1", "02ee00000001"),
            ("203.0.113.9", "02ee00000009"),
            ("2001:db8::9", "02ee00000009"),
        )
    }
    spoilt = {name: contents[:20] for name, contents in flows.items()}
    assert list(recall(spoilt)) == []
