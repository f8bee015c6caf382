"""Followers of what is refused: what they are told, and how much isn't shown to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from dragonflow.apps.drops import Drops
from dragonflow.controller.drops import KEPT, Chunk, DropLog, Unshown
from dragonflow.controller.events import Confirmed
from dragonflow.controller.replica import Change, Replica
from dragonflow.controller.view import View
from dragonflow.model import EVERY_PORT, LogicalPort, Watched
from dragonflow.pipeline import SOURCE, Punted, PuntKind
from dragonflow.pipeline.fields import FIELDS
from dragonflow.pipeline.registers import WHOSE
from dragonflow.switch import Disconnected
from dragonflow.testing import worlds

PORTS = worlds.port("a1", 11), worlds.port("a2", 12), worlds.port("far", 13, on="elsewhere")


class Chassis:
    """A drop log whose switch is the test."""

    def __init__(self) -> None:
        self.replica = Replica()
        worlds.load(self.replica, *PORTS, *(it for port in PORTS[:2] for it in worlds.bindings(port)))
        self.replica.take_changes()
        self.counters: dict[int, int] | None = {}
        self.wanted = 0
        self.log = DropLog("here", self.replica, self._packets, self._count, now=lambda: 7.0, period=0)

    async def _packets(self, table: int) -> list[tuple[dict[Any, int], int]]:
        if self.counters is None:
            raise Disconnected("away")
        found = self.counters.items() if table == Drops.sent.number else ()
        return [({}, 99), *(({FIELDS[SOURCE.field]: key}, count) for key, count in found)]

    def _count(self) -> None:
        self.wanted += 1
        self.log.confirmed(
            Confirmed(
                [Change(it.model, it.id, it.old, it.new, 0, 0.0) for it in self.replica.take_changes()], (), 0, {}
            )
        )

    @property
    def watched(self) -> Sequence[str]:
        return [it.id for it in self.replica.all(Watched)]

    def refuse(self, port: LogicalPort, count: int = 1, dport: int = 1) -> None:
        frame = bytes(Ether(src=port.mac) / IP(src=port.ips[0], dst="10.0.0.99") / UDP(dport=dport))
        fields = {FIELDS[WHOSE.field]: port.key}
        view = View(self.replica, {}, worlds.ME)
        for _ in range(count):
            punted = Punted(PuntKind.REFUSED_SENT, port.id.encode(), frame, 1, fields)
            assert not list(self.log.handlers()[PuntKind.REFUSED_SENT](punted, view))


@asynccontextmanager
async def following(it: Chassis, port: str | None = None) -> AsyncIterator[AsyncGenerator[Chunk, None]]:
    chunks = it.log.follow({"port": port})
    try:
        first = await anext(chunks)
        assert (first.watching, first.drops, first.unshown) == (True, [], [])
        yield chunks
    finally:
        await chunks.aclose()


async def test_what_is_wanted_stands_while_anybody_follows() -> None:
    it = Chassis()
    async with following(it), following(it, "a1"), following(it):
        assert it.watched == [EVERY_PORT, "a1"]
    assert it.watched == []
    assert it.wanted == 6


async def test_packets_that_are_alike_are_told_as_one() -> None:
    it = Chassis()
    it.counters = {11: 1000}
    async with following(it) as every, following(it, "a2") as one:
        it.refuse(PORTS[0], 3)
        it.refuse(PORTS[0], dport=2)
        it.refuse(PORTS[1])
        it.counters = {11: 1004, 12: 1}
        chunk = await anext(every)
        assert [(drop.port, drop.packet.destination_port, drop.count) for drop in chunk.drops] == [
            *(("a1", 1, 3), ("a1", 2, 1), ("a2", 1, 1))
        ]
        assert not chunk.unshown
        (drop,) = (await anext(one)).drops
        assert (drop.direction, drop.why, drop.at, drop.addresses) == (
            "egress",
            "no rule",
            7.0,
            ("10.0.0.12", "fd00::c"),
        )
        assert not (await anext(every)).drops


async def test_what_meters_kept_back_is_counted_once_though_counters_lag_fall_or_are_silent() -> None:
    it = Chassis()
    it.counters = {11: 1000}
    async with following(it) as chunks:
        it.refuse(PORTS[0], 20)
        seen = []
        for counters in ({11: 1000}, None, {11: 1100}, {11: 1100}, {11: 30}, {}):
            it.counters = counters
            seen.append([(hidden.port, hidden.count) for hidden in (await anext(chunks)).unshown])
        assert seen == [[], [], [("a1", 80)], [], [("a1", 30)], []]


async def test_what_was_counted_before_is_nobody_s_even_if_that_is_told_late() -> None:
    it = Chassis()
    it.counters = None
    async with following(it) as chunks:
        it.counters = {11: 1000}
        assert not (await anext(chunks)).unshown
        it.counters = {11: 1003}
        assert (await anext(chunks)).unshown == [Unshown("a1", "egress", 3)]


async def test_one_port_s_follower_hears_of_no_other() -> None:
    it = Chassis()
    async with following(it, "a2") as chunks, following(it):
        it.counters = {11: 5, 12: 6}
        assert (await anext(chunks)).unshown == [Unshown("a2", "egress", 6)]


async def test_who_does_not_read_costs_no_more_than_a_thousand_lines() -> None:
    it = Chassis()
    async with following(it) as chunks:
        for number in range(KEPT + 50):
            it.refuse(PORTS[0], dport=number + 1)
        it.counters = {11: KEPT + 50}
        chunk = await anext(chunks)
        assert len(chunk.drops) == KEPT
        assert chunk.unshown == [Unshown("a1", "egress", 50)]


@pytest.mark.parametrize("asked", ["far", "a", "none", 7, {}])
async def test_a_port_that_is_not_one_of_this_chassis_is_refused(asked: Any) -> None:
    it = Chassis()
    with pytest.raises(ValueError, match=r"port|str"):
        await anext(it.log.follow({"port": asked}))
    assert not it.wanted


async def test_a_late_packet_of_a_port_that_went_is_nothing() -> None:
    it = Chassis()
    it.refuse(PORTS[0])
    async with following(it) as chunks:
        it.replica.drop_scope(PORTS[0].scope)
        it.refuse(PORTS[0])
        assert not (await anext(chunks)).drops
        await asyncio.sleep(0)
