"""What is said of tunnels to other regions; tests/dataplane measures real ways."""

from __future__ import annotations

import asyncio

import pytest

from dragonflow.controller import tunnels
from dragonflow.controller.replica import Replica
from dragonflow.controller.report import Report
from dragonflow.controller.tunnels import Tunnels, settled
from dragonflow.controller.underlay import Path
from dragonflow.model import Chassis, LogicalPort, TunnelState, decode, encode, status_scope
from dragonflow.pubsub.none import NoPubSub
from dragonflow.store.memory import MemoryStore
from dragonflow.store.protocol import Key, Put, Txn
from dragonflow.testing import worlds

FAR, OTHER = "198.51.100.7", "2001:db8::8"
HERE = Chassis(id="here", tunnel_ip="192.0.2.1")


@pytest.mark.parametrize(
    ("sessions", "up"),
    [
        ({}, None),
        ({"geneve": None}, None),
        ({"geneve": "up"}, True),
        ({"geneve": "down"}, False),
        ({"geneve": "up", "vxlan": "up"}, True),
        ({"geneve": "up", "vxlan": None}, None),
        ({"geneve": None, "vxlan": "down"}, False),
    ],
)
def test_a_tunnel_is_up_if_all_that_is_heard_of_it_says_so(sessions: dict[str, str | None], up: bool | None) -> None:
    replica = Replica()
    interfaces = [worlds.remote_peer_port(FAR, encapsulation=kind, bfd=bfd) for kind, bfd in sessions.items()]
    worlds.load(replica, worlds.remote("s", 61, FAR), worlds.remote("t", 62, FAR), *interfaces)
    (state,) = Tunnels(replica, worlds.ME, lambda: None).states()
    assert state == TunnelState(id=f"here/{FAR}", chassis="here", remote_ip=FAR, up=up, at=0.0)


@pytest.mark.parametrize(
    ("before", "now", "shown"),
    [
        (None, Path(0.01, 1500), "now"),
        (Path(), Path(0.01, 1500), "now"),
        (Path(0.01, 1500), Path(), "now"),
        (Path(0.01, 1500), Path(0.0101, 1400), "now"),
        (Path(0.01, 1500), Path(0.012, 1500), "before"),
        (Path(0.01, 1500), Path(0.013, 1500), "now"),
        (Path(0.0001, 1500), Path(0.0005, 1500), "before"),
    ],
)
def test_a_figure_is_told_anew_only_if_it_tells_something(before: Path | None, now: Path, shown: str) -> None:
    assert settled(before, now) == (now if shown == "now" else before)


async def test_every_way_is_measured_once_in_a_while_and_whom_nobody_needs_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    async def measure(here: str, there: str) -> Path:
        asked.append(there)
        if there == OTHER:
            raise OSError("no route")
        return Path(0.00123456, 1450)

    monkeypatch.setattr(tunnels, "measure", measure)
    replica, woken = Replica(), list[None]()
    tested = Tunnels(replica, worlds.ME, lambda: woken.append(None))
    worlds.load(replica, worlds.remote("s", 61, FAR), worlds.remote("t", 62, OTHER))
    for _ in range(2):
        await tested.measure()
    assert (asked, len(woken)) == ([FAR, OTHER], 1)
    found = {state.remote_ip: (state.rtt_ms, state.mtu) for state in tested.states()}
    assert found == {FAR: (1.23, 1450), OTHER: (None, None)}
    replica.remove(LogicalPort, "s", 2)
    await tested.measure()
    worlds.load(replica, worlds.remote("s", 61, FAR), revision=3)
    assert [state.mtu for state in tested.states()] == [None, None]
    await tested.measure()
    assert asked == [FAR, OTHER, FAR]


async def test_the_rows_that_stand_are_those_that_should_and_no_others() -> None:
    """One of an earlier life of the controller goes; one that says the same stays as it was written."""
    store, replica = MemoryStore(), Replica()
    old = [TunnelState(id=f"here/{vtep}", chassis="here", remote_ip=vtep, at=5.0) for vtep in ("198.51.100.9", FAR)]
    await store.commit(Txn(tuple(Put(key(row), encode(row)) for row in old)))
    replica.reset_scope(status_scope("here"), [(row, 1) for row in old], 1)
    worlds.load(replica, HERE, worlds.remote("s", 61, FAR), worlds.remote("t", 62, OTHER), revision=2)
    tested = Tunnels(replica, worlds.ME, lambda: None)
    report = Report(store, NoPubSub(), replica, HERE, now=lambda: 1000.0, tunnels=tested.states)
    running = asyncio.create_task(report.run())
    try:
        report.wake()
        assert await report.written(5)
        assert len(await stand(store)) == 2, "nothing is said before the switch is"
        report.confirmed({})
        assert await report.written(5)
        assert {name: row.at for name, row in (await stand(store)).items()} == {
            f"here/{FAR}": 5.0,
            f"here/{OTHER}": 1000.0,
        }
        worlds.load(replica, worlds.remote_peer_port(FAR, bfd="up"))
        report.wake()
        assert await report.written(5)
        row = (await stand(store))[f"here/{FAR}"]
        assert (row.up, row.at) == (True, 1000.0)
    finally:
        running.cancel()


def key(row: TunnelState) -> Key:
    return Key(row.scope, TunnelState.__name__, row.id)


async def stand(store: MemoryStore) -> dict[str, TunnelState]:
    found = {}
    for record in (await store.snapshot([status_scope("here")])).records:
        row = decode(record.key.kind, record.key.id, record.data or b"")
        assert isinstance(row, TunnelState)
        found[row.id] = row
    return found
