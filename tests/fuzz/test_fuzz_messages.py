"""Messages of other processes: of the bus, of the switch, of who asks at the control socket, of guests to the metadata proxy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import httpx
import msgspec
import pytest

from dragonflow.metadata.nova import Nova
from dragonflow.metadata.proxy import LONGEST_BODY, LONGEST_HEAD, Proxy
from dragonflow.metadata.settings import Settings
from dragonflow.metadata.whose import Asker, Instance
from dragonflow.observe.control import ControlServer
from dragonflow.pubsub.protocol import Message
from dragonflow.pubsub.wire import Unreadable, pack, unpack
from dragonflow.store.protocol import Key, Record, check_key
from dragonflow.switch.openflow.connection import Connection
from dragonflow.switch.openflow.decode import decode_flows, decode_groups, decode_meters
from dragonflow.switch.openflow.messages import HEADER, NX_PACKET_IN2, VERSION, Type
from dragonflow.switch.openflow.messages import Message as Request
from dragonflow.testing.fuzz import cases, fuzz, mutated, nested

# The bus

RECORDS = (Record(Key("net:n", "LogicalPort", "p"), b'{"a":1}', 7), Record(Key("net:n", "LogicalPort", "q"), None, 8))
FRAMES = [pack(Message("changes", RECORDS)), pack(Message("port_status", RECORDS[:1])), pack(Message("x", ()))]
GREEDY = (
    b"\x01\xdd\xff\xff\xff\xff",
    b"\x01\xdf\xff\xff\xff\xff",
    b"\x01\x91\xc6\xff\xff\xff\xff",
    b"\x01" + b"\x91" * 100_000,
)
"""Arrays, maps and bytes that say that they are of 4 GB, and arrays in arrays."""


def test_what_the_bus_brings_is_a_message_or_unreadable() -> None:
    def make(random: Random) -> list[bytes]:
        topic, body = random.choice(FRAMES)
        if random.random() < 0.05:
            return [topic, random.choice(GREEDY) + body[1:]]
        frames = [
            mutated(random, [topic]) if random.random() < 0.2 else topic,
            mutated(random, [it[1] for it in FRAMES]),
        ]
        return random.choice(([*frames], [*frames], [*frames], frames[:1], [*frames, b"x"], []))

    def check(frames: list[bytes]) -> None:
        with contextlib.suppress(Unreadable):
            for record in unpack(frames).records:
                check_key(record.key)
                assert record.revision >= 1
                assert record.data is None or isinstance(record.data, bytes)

    fuzz(4000, make, check)


# The switch


def framed(kind: int, body: bytes, xid: int = 1) -> bytes:
    return HEADER.pack(VERSION, kind, HEADER.size + len(body), xid) + body


def multipart(kind: int, body: bytes, more: bool = False) -> bytes:
    return framed(Type.MULTIPART_REPLY, struct.pack(">HH4x", kind, more) + body, xid=2)


def flow_desc() -> bytes:
    oxm = struct.pack(">HBBI", 0x8000, 0, 4, 5)
    matched = (struct.pack(">HH", 1, 4 + len(oxm)) + oxm).ljust(16, b"\0")
    stats = struct.pack(">HH", 0x8002, 4) + bytes(4)
    applied = struct.pack(">HH4x", 4, 24) + struct.pack(">HHIH6x", 0, 16, 3, 0)
    rest = matched + stats + applied
    return struct.pack(">H2xBxHHHHH8s", 24 + len(rest) - 0, 0, 7, 0, 0, 0, 0, bytes(8)) + rest


GROUP = (
    struct.pack(">HBxIH6x", 16 + 24, 0, 7, 24) + struct.pack(">HHI", 24, 16, 1) + struct.pack(">HHIH6x", 0, 16, 3, 0)
)
METER = struct.pack(">HHI", 24, 2, 7) + struct.pack(">HHII4x", 1, 16, 10, 20)
PACKET_IN = NX_PACKET_IN2 + struct.pack(">HH", 0, 4 + 20) + bytes(20) + struct.pack(">HH", 7, 6) + b"\x01a" + bytes(2)
SAID = [
    framed(Type.HELLO, struct.pack(">HHI", 1, 8, 1 << VERSION)),
    framed(Type.ECHO_REQUEST, b"still there?"),
    framed(Type.ERROR, struct.pack(">HH", 1, 4) + framed(Type.BARRIER_REQUEST, b"")),
    framed(Type.EXPERIMENTER, PACKET_IN),
    multipart(17, flow_desc() * 2),
    multipart(17, flow_desc(), more=True),
    multipart(7, GROUP),
    multipart(10, METER),
]


class Wire(asyncio.Transport):
    """Takes what is written and keeps the last of it."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def write(self, data: Any) -> None:
        assert len(data) <= 1 << 17

    def abort(self) -> None:
        self.aborted = True


async def test_what_the_switch_says_is_read_or_the_connection_is_lost() -> None:
    """Whichever way its bytes come in pieces. What is left to be read is never more than a message."""

    def make(random: Random) -> list[bytes]:
        stream = b"".join(mutated(random, SAID) if random.random() < 0.3 else random.choice(SAID) for _ in range(12))
        cuts = sorted(random.randrange(len(stream) + 1) for _ in range(random.randrange(4)))
        return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    def check(pieces: Iterable[bytes]) -> None:
        heard: list[bytes] = []
        connection, wire = Connection(), Wire()
        connection.connection_made(wire)
        connection._on_packet = heard.append
        asked, _ = connection._prepare(Request(Type.MULTIPART_REQUEST, bytes(8)))
        for piece in pieces:
            connection.data_received(piece)
            assert len(connection._received) <= (1 << 16) + len(piece)
        assert connection.lost.done() == wire.aborted
        for waiting in (asked.done, connection._hello):
            if waiting.done():
                waiting.exception()
        connection.close()

    fuzz(1500, make, check)


READERS = {"flows": (decode_flows, flow_desc()), "groups": (decode_groups, GROUP), "meters": (decode_meters, METER)}


@pytest.mark.parametrize(("decode", "good"), READERS.values(), ids=READERS)
def test_what_the_switch_has_is_read_back_or_unreadable(decode: Any, good: bytes) -> None:
    """The two errors after which the controller reads again (``Switch._read_again``)."""
    assert len(list(decode(good * 2))) == 2

    def check(body: bytes) -> None:
        with contextlib.suppress(struct.error, ValueError):
            for _ in decode(body):
                pass

    fuzz(2000, lambda random: mutated(random, [good, good * 3]), check)


# The control socket

QUESTIONS = [
    b'{"get": "status"}',
    b'{"get": "port", "of": "p1"}',
    b'{"get": "metadata", "of": [7, 0]}',
    b'{"follow": "events", "of": {"after": 1}}',
]


async def test_who_asks_nonsense_at_the_control_socket_harms_nobody(tmp_path: Path) -> None:
    """Each asker is told what could be asked, or is cut off; the next one is served, and no task ends in an error."""
    wrong: list[Mapping[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))

    async def events(of: Any) -> AsyncIterator[Any]:
        if not isinstance(of, dict):
            raise ValueError("begin where?")
        yield 1

    path = str(tmp_path / "s")
    known: dict[str, Any] = {
        "status": lambda: "fine",
        "port": {"p1": 1}.get,
        "metadata": lambda of: msgspec.convert(of, Asker),
    }
    running = asyncio.create_task(ControlServer(path, known, {"events": events}).run())
    while not Path(path).exists():
        await asyncio.sleep(0)

    async def ask(data: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            writer.write(data + b"\n")
            writer.write_eof()
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()

    for name, random in cases(250):
        line = mutated(random, QUESTIONS)
        if random.random() < 0.05:
            line = random.choice((nested(60_000), b'{"get":' + nested(60_000), b"x" * 100_000))
        async with asyncio.timeout(10):
            answered = await ask(line)
            assert await ask(QUESTIONS[0]) == b'{"status":"fine"}\n', f"DRAGONFLOW_FUZZ={name}: {line!r}"
        for each in answered.splitlines():
            json.loads(each)
        assert not wrong, f"DRAGONFLOW_FUZZ={name}: {line[:200]!r}: {wrong}"
    running.cancel()
    await asyncio.wait([running])


# The metadata proxy

MINE = Instance("instance-1", "project-1", "10.0.0.7")
REQUESTS = [
    b"GET /latest/meta-data HTTP/1.1\r\nHost: m\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: m\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /p HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"GET /x HTTP/1.1\r\nHost: m\r\nX-Instance-ID: other\r\nX-Tenant-ID: t\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n",
    b"GET http://elsewhere/x HTTP/1.1\r\nHost: m\r\nX-Instance-ID-Signature: 0\r\nExpect: 100-continue\r\n\r\n",
]


class Said(httpx.AsyncByteStream):
    """What Nova answers."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"metadata"


class Guests(asyncio.Protocol):
    """The guest's end of a connection, as far as the proxy sees it."""

    def __init__(self) -> None:
        self.said, self.aborted = bytearray(), False

    def get_extra_info(self, name: str) -> tuple[str, int]:
        return ("240.0.1.11", 5) if name == "peername" else ("240.0.0.1", 9697)

    @property
    def transport(self) -> Guests:
        return self

    def abort(self) -> None:
        self.aborted = True

    def write(self, data: bytes) -> None:
        self.said += data

    def close(self) -> None:
        """Nothing is left open."""

    async def drain(self) -> None:
        """It reads at once."""

    async def wait_closed(self) -> None:
        """At once."""


async def test_whatever_a_guest_says_nova_hears_of_no_other_instance() -> None:
    """Each connection ends in an answer, or is cut off."""
    heard: list[httpx.Request] = []

    def hears(request: httpx.Request) -> httpx.Response:
        heard.append(request)
        return httpx.Response(200, stream=Said())

    async def whose(asker: Asker) -> Instance:
        assert asker == Asker(11, 0)
        return MINE

    nova = Nova(Settings("http://127.0.0.1:1", "agreed"))
    await nova._client.aclose()
    nova._client = httpx.AsyncClient(transport=httpx.MockTransport(hears))
    proxy, served = Proxy(whose, nova), 0
    for name, random in cases(500):
        said = b"".join(
            mutated(random, REQUESTS) if random.random() < 0.6 else random.choice(REQUESTS) for _ in range(3)
        )
        reader, guest = asyncio.StreamReader(), Guests()
        reader.feed_data(said)
        reader.feed_eof()
        try:
            async with asyncio.timeout(10):
                await proxy.serve(reader, guest)  # type: ignore[arg-type]
            assert proxy._open == {}
            assert guest.aborted or not guest.said or guest.said.startswith(b"HTTP/1.1 ")
            for request in heard:
                told = request.headers
                assert [told.get_list(it) for it in ("X-Instance-ID", "X-Tenant-ID", "X-Forwarded-For")] == [
                    ["instance-1"],
                    ["project-1"],
                    ["10.0.0.7"],
                ]
                assert len(told.get_list("X-Instance-ID-Signature")) == 1
                assert (request.url.host, request.url.port) == ("127.0.0.1", 1), "asked elsewhere"
                assert len(request.content) <= LONGEST_BODY
                assert len(request.url.raw_path) <= LONGEST_HEAD
        except BaseException as error:
            error.add_note(f"DRAGONFLOW_FUZZ={name}: {said[:1500]!r}")
            raise
        served += len(heard)
        heard.clear()
    await nova.close()
    assert served
