"""The answerer: whatever is punted, the loop lives on, and each packet's fate is counted."""

from __future__ import annotations

import asyncio
import logging
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from dragonflow.apps.base import App, answers
from dragonflow.controller.answer import WAITING, Answerer
from dragonflow.controller.replica import Replica
from dragonflow.controller.view import View
from dragonflow.model import LogicalPort
from dragonflow.observe import metrics
from dragonflow.pipeline import Output, PacketOut, Punted, PuntKind
from dragonflow.pipeline.check import PipelineError, check
from dragonflow.testing import worlds


class Echo(App):
    """Sends a packet back to where it came from, if the port that the flow names is known."""

    name = "echo"

    @answers(PuntKind.DHCPV4)
    def answer(self, punted: Punted, view: View) -> Iterator[PacketOut]:
        if punted.packet == b"bad":
            raise ValueError("what a packet")
        if view.get(LogicalPort, punted.data.decode()) is not None:
            yield PacketOut(punted.packet, (Output(punted.in_port),))


def packet_in(packet: bytes, port: str = "a", kind: int = PuntKind.DHCPV4, in_port: int = 5) -> bytes:
    def prop(of: int, value: bytes) -> bytes:
        return struct.pack(">HH", of, 4 + len(value)) + value + bytes(-(4 + len(value)) % 8)

    came_in = struct.pack(">HBBI", 0x8000, 0, 4, in_port)
    return prop(0, packet) + prop(6, came_in) + prop(7, bytes((kind,)) + port.encode())


def answerer() -> Answerer:
    replica = Replica()
    worlds.load(replica, *worlds.ALONE)
    return Answerer((Echo(),), lambda: View(replica, {}, worlds.ME))


async def answer(it: Answerer, send: Callable[[PacketOut], bool], *bodies: bytes) -> None:
    """Have packets taken and answered, and one more, by whose answer it is seen that they were."""
    done = asyncio.Event()

    def watch(out: PacketOut) -> bool:
        if out.packet == b"last":
            done.set()
            return True
        return send(out)

    for body in (*bodies, packet_in(b"last")):
        it.take(body)
    task = asyncio.create_task(it.run(watch))
    async with asyncio.timeout(10):
        await done.wait()
    task.cancel()


def counted(kind: str, outcome: str) -> float:
    return metrics.PUNTED.labels(kind, outcome)._value.get()


async def test_each_packet_gets_its_answer_or_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    sent: list[PacketOut] = []
    it = answerer()

    def send(out: PacketOut) -> bool:
        sent.append(out)
        return out.packet != b"slow"

    cases = (
        (packet_in(b"good"), "dhcpv4", "answered"),
        (packet_in(b"slow"), "dhcpv4", "not sent"),
        (packet_in(b"good", port="nobody"), "dhcpv4", "silent"),
        (packet_in(b"bad"), "dhcpv4", "failed"),
        (packet_in(b"good", kind=99), "unknown", "unreadable"),
        (packet_in(b"good")[:-3], "unknown", "unreadable"),
        (b"\0\0\0", "unknown", "unreadable"),
    )
    for body, kind, outcome in cases:
        before = counted(kind, outcome)
        await answer(it, send, body)
        assert counted(kind, outcome) == before + 1 + ((kind, outcome) == ("dhcpv4", "answered"))
    assert [(out.packet, out.actions) for out in sent] == [(b"good", (Output(5),)), (b"slow", (Output(5),))]
    assert "what a packet" in caplog.text


async def test_a_guest_cannot_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    await answer(answerer(), lambda _: True, *[packet_in(b"bad")] * 1000)
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 10


async def test_what_finds_no_room_is_dropped_and_the_rest_is_answered_in_order() -> None:
    sent: list[bytes] = []
    done = asyncio.Event()

    def send(out: PacketOut) -> bool:
        sent.append(out.packet)
        if out.packet == b"last":
            done.set()
        return True

    it = answerer()
    before = counted("dhcpv4", "no room")
    for number in range(WAITING + 7):
        it.take(packet_in(b"%d" % number))
    assert counted("dhcpv4", "no room") == before + 7
    task = asyncio.create_task(it.run(send))
    async with asyncio.timeout(10):
        while len(sent) < WAITING:
            await asyncio.sleep(0)
        it.take(packet_in(b"bad"))
        it.take(packet_in(b"last"))
        await done.wait()
    task.cancel()
    assert sent == [*(b"%d" % number for number in range(WAITING)), b"last"]


async def test_senders_have_their_turns_and_who_asks_most_loses_first() -> None:
    """One floods, another asks thrice, when there is no more room: its packets are answered among the first."""
    it, sent = answerer(), list[bytes]()
    for number in range(WAITING):
        it.take(packet_in(b"flood %d" % number, in_port=5))
    for number in range(3):
        it.take(packet_in(b"asks %d" % number, in_port=6))

    def send(out: PacketOut) -> bool:
        sent.append(out.packet)
        return True

    task = asyncio.create_task(it.run(send))
    async with asyncio.timeout(10):
        while len(sent) < WAITING:
            await asyncio.sleep(0)
    task.cancel()
    assert sent[:6] == [b"flood 0", b"asks 0", b"flood 1", b"asks 1", b"flood 2", b"asks 2"]
    assert sent[-1] == b"flood %d" % (WAITING - 4), "the last ones of the flood found no room"


async def test_while_very_many_wait_others_on_the_loop_have_half_of_the_time() -> None:
    it = answerer()
    for number in range(WAITING):
        it.take(packet_in(b"%d" % number))
    answering, began, sent = 0.0, time.perf_counter(), 0

    def send(_: PacketOut) -> bool:
        nonlocal answering, sent
        before = time.perf_counter()
        while time.perf_counter() < before + 0.0005:
            pass
        sent, answering = sent + 1, answering + 0.0005
        return True

    task = asyncio.create_task(it.run(send))
    async with asyncio.timeout(30):
        while sent < 100:
            await asyncio.sleep(0.001)
    task.cancel()
    assert answering < 0.75 * (time.perf_counter() - began)


def test_one_kind_has_one_handler() -> None:
    class Again(Echo):
        name = "again"

    class Twice(Echo):
        @answers(PuntKind.DHCPV4)
        def other(self, punted: Punted, view: View) -> Iterator[PacketOut]:
            yield from ()

    with pytest.raises(PipelineError, match="two apps answer DHCPV4"):
        check((Echo(), Again()))
    with pytest.raises(TypeError, match="two methods answer DHCPV4"):
        Twice().answering()
