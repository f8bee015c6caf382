"""Events balance over every history, say how long they took, and no reader holds anything up."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest

from dragonflow.apps import APPS
from dragonflow.controller import events
from dragonflow.controller.engine import Engine
from dragonflow.controller.events import Chunk, Confirmed, Event, EventLog, Unconfirmed, tell
from dragonflow.controller.locality import plain
from dragonflow.controller.replica import Object, Replica
from dragonflow.model import LogicalPort, OvsPort
from dragonflow.model.rows import ROWS
from dragonflow.testing import worlds
from dragonflow.testing.worlds import ME, World


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Host:
    """A controller's way from news to events, with a barrier when the test says so."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.replica = Replica(self.clock)
        self.engine = Engine(APPS, self.replica, ME)
        self.unconfirmed = Unconfirmed()
        self.log = EventLog("here", "run1", self._name, now=lambda: 1_000_000.0)
        self.revision = itertools.count(2)

    def _name(self, port: str) -> str:
        row = self.replica.get(LogicalPort, port)
        return "" if row is None else row.name

    def become(self, world: World) -> None:
        """News makes the rows and interfaces what they are in this world."""
        for scope in sorted(self.replica.scopes | {row.scope for row in world.rows}):
            revision = next(self.revision)
            self.replica.reset_scope(scope, [(row, revision) for row in world.rows if row.scope == scope], revision)
        self.replica.reset_ports(world.ports)

    def settle(self) -> None:
        self.unconfirmed.add(self.engine.settle())

    def barrier(self) -> Confirmed:
        confirmed = self.unconfirmed.confirm(self.clock(), {})
        self.log.confirmed(confirmed)
        return confirmed


class Ledger:
    """What somebody knows who knows nothing but the events."""

    def __init__(self) -> None:
        self.models: dict[str, set[str]] = {}
        self.places: dict[str, dict[str, Any]] = {}
        self.seq = 0

    def book(self, event: Event) -> None:
        self.seq += 1
        assert event.seq == self.seq
        where, _, change = event.event.rpartition("_")
        if not where:
            known = self.models.setdefault(event.model, set())
            assert (event.id in known) == (change != "created")
            (known.discard if change == "deleted" else known.add)(event.id)
            return
        assert event.place is not None
        assert event.place["kind"] == where
        before = self.places.pop(event.id, None)
        if change == "created":
            assert before is None
        elif change == "updated":
            assert before == event.before != event.place
            assert before["kind"] == where
        else:
            assert before == event.place
        if change != "deleted":
            self.places[event.id] = event.place

    def check(self, host: Host) -> None:
        assert self.places == {port: plain(place) for port, place in host.engine.places.items()}
        for model in (*ROWS, OvsPort):
            assert self.models.get(model.__name__, set()) == set(host.replica.ids(model))


def port_a(**fields: Any) -> LogicalPort:
    return msgspec.structs.replace(worlds.port("a", 11, on=fields.pop("on", "here"), **fields), name="vm")


NET, TUNNEL = worlds.network(), worlds.tunnel_port()
THERE, YONDER = worlds.chassis("there", "192.0.2.2"), worlds.chassis("yonder", "192.0.2.3")
BASE: tuple[Object, ...] = (NET, TUNNEL, THERE, YONDER)
STATES: dict[str, tuple[Object, ...]] = {
    "nothing": (),
    "here": (*BASE, port_a(), worlds.tap("a", 1)),
    "here, plugged anew": (*BASE, port_a(), worlds.tap("a", 2)),
    "unplugged": (*BASE, port_a()),
    "there": (*BASE, port_a(on="there")),
    "yonder": (*BASE, port_a(on="yonder")),
    "coming here": (*BASE, port_a(on="there", standby=("here",)), worlds.tap("a", 1)),
}
WORLDS = [World.of(ME, *objects) for objects in STATES.values()]


def told(host: Host, since: int) -> Iterator[Event]:
    return (event for event in host.log.kept().events if event.seq >= since)


def play(history: Sequence[World], confirmed: Sequence[bool]) -> None:
    """Go through the worlds; not every settling gets its barrier, as when the switch is away."""
    host, ledger = Host(), Ledger()
    for world, barrier in zip(history, confirmed, strict=True):
        host.become(world)
        host.settle()
        if barrier:
            host.barrier()
            for event in told(host, ledger.seq + 1):
                ledger.book(event)
            ledger.check(host)


def test_events_balance_whatever_the_order_of_worlds_and_however_few_barriers() -> None:
    chance = random.Random(4)
    for order in worlds.permuted(WORLDS, limit=5040):
        if chance.random() < 0.1:
            play(order, [*(chance.random() < 0.5 for _ in order[1:]), True])


def names(host: Host, *states: str) -> list[str]:
    """The locality events of a way through these states, from the second on."""
    for number, state in enumerate(states):
        host.become(World.of(ME, *STATES[state]))
        host.settle()
        if number == 0:
            host.barrier()
    return [str(event) for event in host.barrier().events]


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        (("unplugged", "here"), ["local_created a"]),
        (("here", "unplugged"), ["local_deleted a"]),
        (("here", "nothing"), ["local_deleted a"]),
        (("here", "here, plugged anew"), ["local_updated a"]),
        (("here", "there"), ["local_deleted a", "remote_created a"]),
        (("there", "yonder"), ["remote_updated a"]),
        (("there", "coming here"), []),
        (("coming here", "here"), ["remote_deleted a", "local_created a"]),
        (("here", "there", "here"), []),
        (("here", "there", "yonder", "unplugged"), ["local_deleted a"]),
        (("unplugged", "here", "unplugged"), []),
        (("there", "here", "yonder"), ["remote_updated a"]),
    ],
)
def test_a_port_that_moves_gives_the_events_that_lead_from_one_confirmed_place_to_the_next(
    way: tuple[str, ...], expected: list[str]
) -> None:
    assert names(Host(), *way) == expected


def test_what_came_and_went_without_a_barrier_is_not_told_and_takes_no_room() -> None:
    host = Host()
    for number in range(100):
        worlds.load(host.replica, NET, worlds.port("a", 11), revision=3 * number + 2)
        host.settle()
        host.replica.remove(LogicalPort, "a", 3 * number + 3)
        host.settle()
    assert [(change.id, change.new) for change in host.barrier().changes] == [("net", NET)]


def test_an_event_says_what_it_is_about() -> None:
    host = Host()
    host.become(World.of(ME, *STATES["there"]))
    host.settle()
    host.barrier()
    first = host.log.kept().next
    port = port_a(on="yonder", generation=2)
    host.replica.upsert(port, 77)
    host.replica.upsert_port(worlds.tap("a", 1))
    host.clock.now += 0.25
    host.settle()
    host.clock.now += 0.5
    host.barrier()

    def event(number: int, what: str, model: str, of: str, **more: Any) -> Event:
        return Event(
            seq=first + number,
            at=1_000_000.0,
            chassis="here",
            event=what,
            model=model,
            id=of,
            port="a",
            latency=0.75,
            **more,
        )

    def by(chassis: str, address: str) -> dict[str, Any]:
        return {"kind": "remote", "chassis": chassis, "ofport": 100, "address": address}

    moved = {"place": by("yonder", "192.0.2.3"), "before": by("there", "192.0.2.2")}
    assert list(told(host, first)) == [
        event(0, "updated", "LogicalPort", "a", name="vm", revision=77, fields=("chassis", "generation")),
        event(1, "created", "OvsPort", "tap-a", name="", revision=0),
        event(2, "remote_updated", "LogicalPort", "a", name="vm", revision=77, **moved),
    ]
    host.replica.remove(LogicalPort, "a", 78)
    host.settle()
    host.barrier()
    gone = [(event.event, event.name, event.revision) for event in told(host, first + 3)]
    assert gone == [("deleted", "vm", 78), ("remote_deleted", "vm", 78)]


def waited(confirmed: Confirmed) -> dict[str, float]:
    return {str(event): confirmed.at - event.since for event in confirmed.events}


def test_latency_counts_from_the_oldest_news_that_a_place_rests_on() -> None:
    host = Host()
    for it in (NET, worlds.port("c", 13, on="there"), worlds.port("d", 14, on="there")):
        worlds.load(host.replica, it, revision=2)
    host.settle()
    host.barrier()
    worlds.load(host.replica, THERE, revision=3)
    host.clock.now += 1
    host.settle()  # the switch is away: no barrier
    host.clock.now += 2
    worlds.load(host.replica, worlds.port("d", 14, on="there", mac="02:00:00:00:00:99"), revision=4)
    host.replica.upsert_port(TUNNEL)
    host.clock.now += 4
    host.settle()
    host.clock.now += 8
    confirmed = host.barrier()
    assert {change.id: confirmed.at - change.since for change in confirmed.changes} == {
        "there": 15,
        "d": 12,
        "df-geneve": 12,
    }
    # the places rest on the tunnel port, which came last of what they waited for
    assert waited(confirmed) == {"remote_created c": 12, "remote_created d": 12}
    host.replica.upsert(msgspec.structs.replace(THERE, tunnel_ip="192.0.2.9"), 5)
    host.clock.now += 16
    worlds.load(host.replica, worlds.port("d", 14, on="there"), revision=6)
    host.settle()
    assert waited(host.barrier()) == {"remote_updated c": 16, "remote_updated d": 16}


def test_a_subscriber_that_fails_harms_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Confirmed] = []

    def fail(_: Confirmed) -> None:
        raise RuntimeError("no good")

    confirmed = Host().barrier()
    tell([fail, heard.append], confirmed)
    assert heard == [confirmed]
    assert "no good" in caplog.text


# Reading the log


def happen(log: EventLog, count: int, at: float = 0.0) -> None:
    """So many ports are plugged."""
    replica = Replica(lambda: at)
    for number in range(count):
        replica.upsert_port(worlds.tap(f"p{number}", number + 1))
    log.confirmed(Confirmed(replica.take_changes(), (), at, {}))


def log(run: str = "run1") -> EventLog:
    return EventLog("here", run, lambda _: "", now=lambda: 5.0)


def seqs(chunk: Chunk) -> list[int]:
    return [event.seq for event in chunk.events]


async def test_who_asks_gets_the_last_and_who_follows_all_from_there_on() -> None:
    it = log()
    happen(it, 5)
    assert seqs(it.kept()) == [1, 2, 3, 4, 5]
    following = it.follow({"last": 2})
    assert seqs(await anext(following)) == [4, 5]
    nothing = it.follow({})
    assert (await anext(nothing)).events == ()
    waiting = asyncio.ensure_future(anext(following)), asyncio.ensure_future(anext(nothing))
    await asyncio.sleep(0)
    happen(it, 1)
    assert [seqs(chunk) for chunk in await asyncio.gather(*waiting)] == [[6], [6]]
    assert seqs(await anext(it.follow({"last": 10**9}))) == [1, 2, 3, 4, 5, 6]


async def test_no_more_than_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEPT", 10)
    it = log()
    happen(it, 7)
    happen(it, 35)
    assert seqs(it.kept()) == list(range(33, 43))
    happen(it, 3)
    assert seqs(it.kept()) == list(range(36, 46))


async def test_a_slow_reader_is_told_how_many_it_missed_and_a_fast_one_misses_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "KEPT", 10)
    monkeypatch.setattr(events, "BACKLOG", 300)
    it = log()
    slow, fast = it.follow({}), it.follow({})
    await anext(slow), await anext(fast)
    read = []
    for _ in range(5):
        happen(it, 200)
        for _ in range(2):
            chunk = await anext(fast)
            assert chunk.missed == 0
            read += seqs(chunk)
    assert read == list(range(1, 1001))
    chunk = await anext(slow)
    assert (chunk.missed, seqs(chunk)) == (700, list(range(701, 801)))
    assert (await anext(slow)).missed == 0
    await slow.aclose()
    await fast.aclose()
    assert len(it.kept().events) == 10


async def test_who_comes_back_goes_on_where_it_was_or_begins_with_the_new_run() -> None:
    it = log()
    happen(it, 8)
    assert seqs(await anext(it.follow({"run": "run1", "seq": 6}))) == [6, 7, 8]
    assert (await anext(it.follow({"run": "run1", "seq": 99}))).next == 9
    assert seqs(await anext(it.follow({"run": "run0", "seq": 99}))) == [1, 2, 3, 4, 5, 6, 7, 8]


async def test_who_comes_back_too_late_is_told_what_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEPT", 10)
    it = log()
    happen(it, 25)
    assert (await anext(it.follow({"run": "run1", "seq": 6}))).missed == 10
    assert (await anext(it.follow({"run": "run0", "seq": 6}))).missed == 15


@pytest.mark.parametrize("where", ["everything", {"lst": 3}, {"last": "3"}, [1], {"run": 3}])
async def test_a_reader_that_says_nonsense_is_refused(where: object) -> None:
    with pytest.raises(ValueError, match=r"Expected|unknown"):
        await anext(log().follow(where))
