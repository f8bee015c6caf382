"""The proxy with real sockets, before Nova's stand-in. Whose connection it is, the test says."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from dragonflow.lab.nova_metadata import NovaMetadata
from dragonflow.metadata import proxy as under_test
from dragonflow.metadata.nova import Nova, headers
from dragonflow.metadata.proxy import LONGEST_BODY, LONGEST_HEAD, MOST_OF_ONE, Proxy, Unknown
from dragonflow.metadata.settings import Settings
from dragonflow.metadata.whose import Asker, Instance

SECRET = "agreed"
MINE = Instance("instance-1", "project-1", "10.0.0.7")
GET = b"GET /latest HTTP/1.1\r\nHost: m\r\n\r\n"


@pytest.fixture(scope="module")
def nova() -> Iterator[NovaMetadata]:
    server = NovaMetadata("127.0.0.1", 0, SECRET)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


class Guest:
    """A guest's end: says bytes, and reads answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def says(self, data: bytes) -> tuple[int, bytes]:
        self.writer.write(data)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split()[0])
        return int(head.split()[1]), await self.reader.readexactly(length)

    async def hears_the_end(self) -> bool:
        try:
            return await self.reader.read() == b""
        except ConnectionResetError:
            return True


class Ground:
    """A proxy on the loopback; ``who`` is what the controller would say."""

    def __init__(self) -> None:
        self.who: Instance | Exception | None = MINE
        self.url = ""
        self.secret = SECRET
        self.port = 0
        self._guests: list[Guest] = []

    async def whose(self, asker: Asker) -> Instance | None:
        assert asker == Asker(11, 0)
        if isinstance(self.who, Exception):
            raise self.who
        return self.who

    async def guest(self) -> Guest:
        self._guests.append(Guest(*await asyncio.open_connection("127.0.0.1", self.port)))
        return self._guests[-1]

    def end(self) -> None:
        for guest in self._guests:
            guest.writer.close()


@pytest.fixture
async def ground(nova: NovaMetadata, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ground]:
    monkeypatch.setattr(under_test, "asker", lambda guest, server: Asker(11, 0))
    it = Ground()
    upstream = Nova(Settings(f"http://127.0.0.1:{nova.server_address[1]}", SECRET))
    server = await asyncio.start_server(Proxy(it.whose, upstream).serve, "127.0.0.1", 0)
    it.port = server.sockets[0].getsockname()[1]
    yield it
    it.end()
    server.close()
    await upstream.close()


async def test_a_request_goes_to_nova_in_the_ports_name_and_others_follow_on_the_connection(ground: Ground) -> None:
    guest = await ground.guest()
    for path in ("/", "/openstack/latest/meta_data.json?x=%20&y", "/a//b"):
        code, body = await guest.says(f"GET {path} HTTP/1.1\r\nHost: m\r\n\r\n".encode())
        expected: dict[str, Any] = {"instance": "instance-1", "project": "project-1", "address": "10.0.0.7"}
        assert (code, json.loads(body)) == (200, expected | {"method": "GET", "path": path, "body": ""})
    code, body = await guest.says(b"POST /p HTTP/1.1\r\nHost: m\r\nContent-Length: 5\r\n\r\nhello")
    assert (code, json.loads(body)["method"], json.loads(body)["body"]) == (200, "POST", "hello")
    code, body = await guest.says(b"GET /v HTTP/1.0\r\n\r\n")
    assert (code, json.loads(body)["path"]) == (200, "/v")
    assert await guest.hears_the_end()


async def test_what_a_guest_says_of_itself_is_dropped(ground: Ground) -> None:
    forged = b"X-Instance-ID: other\r\nx-tenant-id: t\r\nX-FORWARDED-FOR: 1.2.3.4\r\nX-Instance-ID-Signature: 0\r\nCookie: c\r\n"
    code, body = await (await ground.guest()).says(b"GET / HTTP/1.1\r\nHost: evil\r\n" + forged + b"\r\n")
    assert (code, json.loads(body)["instance"], json.loads(body)["address"]) == (200, "instance-1", "10.0.0.7")
    sent = dict(headers(MINE, SECRET, [(b"accept", b"*/*"), (b"host", b"evil"), (b"x-forwarded-for", b"1.2.3.4")]))
    assert sent == {
        b"accept": b"*/*",
        b"X-Forwarded-For": b"10.0.0.7",
        b"X-Instance-ID": b"instance-1",
        b"X-Tenant-ID": b"project-1",
        # printf instance-1 | openssl dgst -sha256 -hmac agreed
        b"X-Instance-ID-Signature": b"b385410fad1aa4d8cff3177635c7bc11e1ecc653bd3ff658adc62984855c09bd",
    }


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"GET http://169.254.169.254/ HTTP/1.1\r\nHost: m\r\n\r\n", 400),
        (b"CONNECT 10.0.0.1:22 HTTP/1.1\r\nHost: m\r\n\r\n", 400),
        (b"\x16\x03\x01\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: m\r\nX: " + b"x" * 2 * LONGEST_HEAD + b"\r\n\r\n", 431),
        (
            b"POST / HTTP/1.1\r\nHost: m\r\nContent-Length: %d\r\n\r\n" % (LONGEST_BODY + 1)
            + b"x" * (LONGEST_BODY + 1),
            413,
        ),
    ],
)
async def test_what_is_no_proper_request_is_refused_and_ends_the_connection(
    ground: Ground, said: bytes, code: int
) -> None:
    guest = await ground.guest()
    assert (await guest.says(said))[0] == code
    assert await guest.hears_the_end()
    assert (await (await ground.guest()).says(GET))[0] == 200


async def test_a_port_of_no_instance_is_told_so_and_one_that_nobody_knows_yet_should_try_again(ground: Ground) -> None:
    ground.who = None
    assert (await (await ground.guest()).says(GET))[0] == 404
    ground.who = Unknown("the controller is away")
    assert (await (await ground.guest()).says(GET))[0] == 503


async def test_connections_of_one_guest_are_bounded_and_free_again_when_they_end(ground: Ground) -> None:
    guests = [await ground.guest() for _ in range(MOST_OF_ONE)]
    for guest in guests:
        assert (await guest.says(GET))[0] == 200
    assert await (await ground.guest()).hears_the_end()
    guests[0].writer.close()
    async with asyncio.timeout(5):
        while True:
            guest = await ground.guest()
            try:
                assert (await guest.says(GET))[0] == 200
                break
            except (asyncio.IncompleteReadError, ConnectionResetError):
                await asyncio.sleep(0.01)


async def test_who_says_nothing_is_cut_off(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "IDLE", 0.05)
    silent, slow = await ground.guest(), await ground.guest()
    slow.writer.write(GET[:-2])
    assert await silent.hears_the_end()
    assert await slow.hears_the_end()


async def test_without_nova_a_guest_should_try_again_and_the_log_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(under_test, "asker", lambda guest, server: Asker(11, 0))
    it, upstream = Ground(), Nova(Settings("http://127.0.0.1:1", SECRET))
    async with await asyncio.start_server(Proxy(it.whose, upstream).serve, "127.0.0.1", 0) as server:
        it.port = server.sockets[0].getsockname()[1]
        for _ in range(3):
            assert (await (await it.guest()).says(GET))[0] == 503
        assert [record.message.split(":")[0] for record in caplog.records] == ["Nova's metadata API can't be asked"]
        it.end()
    await upstream.close()


async def test_a_wrong_secret_is_novas_to_refuse(nova: NovaMetadata, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "asker", lambda guest, server: Asker(11, 0))
    it, upstream = Ground(), Nova(Settings(f"http://127.0.0.1:{nova.server_address[1]}", "another"))
    async with await asyncio.start_server(Proxy(it.whose, upstream).serve, "127.0.0.1", 0) as server:
        it.port = server.sockets[0].getsockname()[1]
        assert (await (await it.guest()).says(GET))[0] == 403
        it.end()
    await upstream.close()
