import asyncio
import contextlib
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dragonflow.observe.control import ControlError, ControlServer, ask


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
