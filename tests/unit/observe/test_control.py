import asyncio
import contextlib
import json
import socket
import stat
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dragonflow.observe.control import ControlError, ControlServer, ask, follow


async def later() -> str:
    await asyncio.sleep(0)
    return "done"


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[str]:
    path = tmp_path / "run" / "control.sock"
    server = asyncio.create_task(
        ControlServer(
            str(path), {"places": lambda: {"p1": "local"}, "port": lambda of: {"id": of}, "later": later}
        ).run()
    )
    while not path.exists():
        await asyncio.sleep(0)
    yield str(path)
    server.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await server
    assert not path.exists()


async def test_answers_what_it_knows(path: str) -> None:
    assert await asyncio.to_thread(ask, path, "places") == {"p1": "local"}
    assert await asyncio.to_thread(ask, path, "port", "p1") == {"id": "p1"}
    assert await asyncio.to_thread(ask, path, "later") == "done"


@pytest.mark.parametrize(("question", "of"), [("port", None), ("places", "p1")])
async def test_a_question_without_its_object_or_with_one_too_many_is_refused(
    path: str, question: str, of: str | None
) -> None:
    with pytest.raises(ControlError, match="ask"):
        await asyncio.to_thread(ask, path, question, of)


async def test_names_what_it_knows_when_asked_something_else(path: str) -> None:
    with pytest.raises(ControlError, match="places"):
        await asyncio.to_thread(ask, path, "weather")


@pytest.mark.parametrize("line", [b"\n", b"[]\n", b'{"get": []}\n', b"\xff\n", b"x" * 100_000 + b"\n"])
async def test_nonsense_does_not_stop_it(path: str, line: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(line)
    await reader.readline()
    writer.close()
    assert await asyncio.to_thread(ask, path, "places") == {"p1": "local"}


async def test_only_its_owner_may_ask(path: str) -> None:
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600


def test_says_when_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="no controller answers"):
        ask(str(tmp_path / "nobody.sock"), "places")


# Streams


class Counting:
    """A stream that counts up from where it is told, in lines of 1,000 bytes, until the number at which it ends."""

    def __init__(self) -> None:
        self.told = 0
        self.open = 0

    async def stream(self, where: Any) -> AsyncGenerator[list[Any], None]:
        self.open += 1
        try:
            if not isinstance(where, list):
                raise ValueError("say from where to where")
            for number in range(*where):
                self.told = number
                yield [number, "x" * 1000]
            if where[1] == 0:
                await asyncio.Event().wait()
        finally:
            self.open -= 1


@pytest.fixture
async def counting(tmp_path: Path) -> AsyncIterator[tuple[str, Counting, asyncio.Task[None]]]:
    path, counting = tmp_path / "stream.sock", Counting()
    server = asyncio.create_task(ControlServer(str(path), {"told": lambda: 7}, {"count": counting.stream}).run())
    while not path.exists():
        await asyncio.sleep(0)
    yield str(path), counting, server
    server.cancel()
    await asyncio.wait([server])
    while counting.open:
        await asyncio.sleep(0)


Served = tuple[str, Counting, "asyncio.Task[None]"]


def numbers(path: str, where: Any) -> list[int]:
    return [number for number, _ in follow(path, "count", where)]


async def test_a_stream_tells_all_in_order_and_ends(counting: Served) -> None:
    path, it, _ = counting
    assert await asyncio.to_thread(numbers, path, [3, 500]) == list(range(3, 500))
    assert it.open == 0


async def test_who_does_not_read_holds_up_nobody_else(counting: Served) -> None:
    path, it, _ = counting
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sleeper:
        sleeper.connect(path)
        sleeper.sendall(b'{"follow": "count", "of": [0, 1000000]}\n')
        while it.told == 0:
            await asyncio.sleep(0)
        assert len(await asyncio.to_thread(numbers, path, [0, 2000])) == 2000
        assert await asyncio.to_thread(ask, path, "told") == 7
        assert it.open == 1
        for _ in range(5000):
            await asyncio.sleep(0)
        assert it.told < 4000  # what is not read waits in its stream
    async with asyncio.timeout(5):
        while it.open:
            await asyncio.sleep(0)


async def test_a_stream_ends_when_its_reader_goes_though_nothing_happens(counting: Served) -> None:
    path, it, _ = counting
    for _ in range(3):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b'{"follow": "count", "of": [-1, 0]}\n')
        assert json.loads(await reader.readline())["count"][0] == -1
        writer.close()
    async with asyncio.timeout(5):
        while it.open:
            await asyncio.sleep(0)


async def test_a_server_that_ends_cuts_its_readers_off(counting: Served, caplog: pytest.LogCaptureFixture) -> None:
    path, it, server = counting
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b'{"follow": "count", "of": [-1, 0]}\n')
    await reader.readline()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sleeper:
        sleeper.connect(path)
        sleeper.sendall(b'{"follow": "count", "of": [0, 1000000]}\n')
        while it.told <= 0:
            await asyncio.sleep(0)
        server.cancel()
        async with asyncio.timeout(5):
            assert await reader.read() == b""
            await asyncio.wait([server])
            while it.open:
                await asyncio.sleep(0)
    writer.close()
    assert not caplog.records


async def test_a_stream_that_is_unknown_or_told_nonsense_is_refused(counting: Served) -> None:
    path, it, _ = counting
    with pytest.raises(ControlError, match="say from where to where"):
        await asyncio.to_thread(numbers, path, "up")
    with pytest.raises(ControlError, match=r'"follow": STREAM.* with one of: count'):
        await asyncio.to_thread(lambda: list(follow(path, "weather")))
    assert it.open == 0
