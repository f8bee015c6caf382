"""The connection against a scripted peer on a Unix socket."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from dragonflow.switch.openflow.connection import Connection, Disconnected, Refused
from dragonflow.switch.openflow.messages import HEADER, Message, Type
from dragonflow.switch.remote import Remote

Handler = Callable[[int, int, bytes, asyncio.StreamWriter], Awaitable[None]]


def frame(kind: int, xid: int, body: bytes = b"", version: int = 6) -> bytes:
    return HEADER.pack(version, kind, HEADER.size + len(body), xid) + body


class Peer:
    """A switch that shakes hands; ``handler`` decides on everything else. ``hello`` and the echo replies can be spoiled."""

    def __init__(
        self, path: Path, handler: Handler | None = None, hello: bytes | None = None, echoes: bool = True
    ) -> None:
        self.target = f"unix:{path}"
        self._path, self._handler, self._echoes = path, handler, echoes
        self._hello = frame(Type.HELLO, 0) if hello is None else hello
        self.echoed = 0

    async def __aenter__(self) -> Peer:
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._hello)
        try:
            while True:
                _, kind, length, xid = HEADER.unpack(await reader.readexactly(HEADER.size))
                body = await reader.readexactly(length - HEADER.size)
                if kind == Type.FEATURES_REQUEST:
                    writer.write(frame(Type.FEATURES_REPLY, xid, struct.pack(">Q16x", 0xABC)))
                elif kind == Type.ECHO_REQUEST:
                    self.echoed += 1
                    if self._echoes:
                        writer.write(frame(Type.ECHO_REPLY, xid))
                elif kind != Type.HELLO and self._handler is not None:
                    await self._handler(kind, xid, body, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def test_it_shakes_hands_and_gathers_the_parts_of_a_multipart(tmp_path: Path) -> None:
    async def handler(kind: int, xid: int, body: bytes, writer: asyncio.StreamWriter) -> None:
        whole = b"".join(
            frame(Type.MULTIPART_REPLY, xid, struct.pack(">HH4x", 1, more) + part)
            for part, more in ((b"one", 1), (b"two", 0))
        )
        for byte in whole:  # however the stream is cut
            writer.write(bytes((byte,)))
            await writer.drain()

    async with Peer(tmp_path / "s", handler) as peer:
        connection = await Connection.open(peer.target)
        assert connection.datapath_id == 0xABC
        assert await connection.request(Message(Type.MULTIPART_REQUEST, b"")) == [b"one", b"two"]
        connection.close()


async def test_an_error_is_the_answer_to_what_earned_it(tmp_path: Path) -> None:
    async def handler(kind: int, xid: int, body: bytes, writer: asyncio.StreamWriter) -> None:
        if kind == Type.BARRIER_REQUEST:
            writer.write(frame(Type.BARRIER_REPLY, xid))
        elif body == b"bad":
            writer.write(frame(Type.ERROR, xid, struct.pack(">HH", 5, 1) + b"rest"))

    async with Peer(tmp_path / "s", handler) as peer:
        connection = await Connection.open(peer.target)
        with pytest.raises(Refused, match="OFPFMFC_TABLE_FULL"):
            await connection.request(Message(Type.FLOW_MOD, b"bad"))
        refused = await connection.send([Message(Type.METER_MOD, body) for body in (b"good", b"bad", b"good")])
        assert [(each.index, each.error.name) for each in refused] == [(1, "OFPFMFC_TABLE_FULL")]
        connection.close()


@pytest.mark.parametrize(
    "hello",
    [
        frame(Type.HELLO, 0, version=4),
        frame(Type.HELLO, 0, struct.pack(">HHI", 1, 8, 1 << 4)),
        frame(Type.ERROR, 0, struct.pack(">HH", 0, 0)),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\0" * 64,
    ],
)
async def test_a_peer_of_another_language_is_told_apart(tmp_path: Path, hello: bytes) -> None:
    async with Peer(tmp_path / "s", hello=hello) as peer:
        with pytest.raises(Disconnected):
            await Connection.open(peer.target, patience=0.5)


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(Disconnected):
        await Connection.open(f"unix:{tmp_path / 'nothing'}")


@pytest.mark.parametrize("nonsense", [b"\0" * 16, frame(Type.FLOW_MOD, 1, version=1), b"\6\0\0\1\0\0\0\0"])
async def test_nonsense_ends_the_connection_and_not_the_loop(tmp_path: Path, nonsense: bytes) -> None:
    async def handler(kind: int, xid: int, body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(nonsense)

    async with Peer(tmp_path / "s", handler) as peer:
        connection = await Connection.open(peer.target)
        with pytest.raises(Disconnected, match="can't read"):
            await connection.barrier()
        assert "can't read" in await connection.lost
        with pytest.raises(Disconnected):
            await connection.barrier()


async def test_a_peer_that_goes_fails_all_who_wait(tmp_path: Path) -> None:
    async def handler(kind: int, xid: int, body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with Peer(tmp_path / "s", handler) as peer:
        connection = await Connection.open(peer.target)
        answers = await asyncio.gather(*(connection.barrier() for _ in range(3)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [Disconnected] * 3


async def test_silence_is_probed_and_a_dead_peer_is_left(tmp_path: Path) -> None:
    async with Peer(tmp_path / "s") as living, Peer(tmp_path / "t", echoes=False) as dead:
        good = await Connection.open(living.target, echo_interval=0.02, patience=5)
        bad = await Connection.open(dead.target, echo_interval=0.02, patience=0.05)
        assert await asyncio.wait_for(bad.lost, 10) == "no answer to echo requests"
        assert living.echoed > 0
        assert not good.lost.done()
        good.close()


def test_addresses() -> None:
    assert Remote.parse("unix:/run/x").path == "/run/x"
    assert Remote.parse("tcp:127.0.0.1:6653")[2:] == ("127.0.0.1", 6653, False)
    assert Remote.parse("tcp:[::1]:6653")[2:] == ("::1", 6653, False)
    assert Remote.parse("ssl:[2001:db8::1]:6653")[2:] == ("2001:db8::1", 6653, True)
    for text in ("tcp:host", "ssl:1.2.3.4", "tcp:::1:5", "tcp:a:b", "pssl:1:1.2.3.4", "/run/x"):
        with pytest.raises(ValueError, match="neither"):
            Remote.parse(text)
    for text in ("tcp:192.0.2.1:6653", "tcp:[2001:db8::1]:6653", "tcp:switch.example.org:6653"):
        with pytest.raises(ValueError, match="write ssl:"):
            Remote.parse(text)
