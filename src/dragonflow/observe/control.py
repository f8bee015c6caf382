"""The control socket: a running controller answers questions about itself, one JSON object a line each way.

``{"get": "places"}`` → ``{"places": …}``; a question about one object names it: ``{"get": "port", "of": ID}``. An unknown
question gets ``{"error": …}``. What a controller can be told to do is asked for in the same way.

``{"follow": "events", "of": …}`` is answered by one line ``{"events": …}`` after the other, until the asker closes its side. Who
doesn't read holds up nobody but itself. Only the socket's owner may connect (0600).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec

LOG = logging.getLogger(__name__)

Answer = Callable[[], Any] | Callable[[Any], Any]
"""Takes the name of an object if it is about one; may be a coroutine function, if the answer needs time."""

Stream = Callable[[Any], AsyncGenerator[Any, None]]
"""Takes where to begin, as the asker says it; yields one answer after the other. A ``ValueError`` of its first step is told."""

_LINE_LIMIT = 64 * 1024

_NONSENSE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What it raises to look for a question in JSON that holds none, or that can't be read."""

_PATIENCE = 1.0
"""Seconds that a server which ends waits for answers that are under way."""


class ControlError(Exception):
    """The controller can't be asked, or doesn't know the question."""


class ControlServer:
    """Serves ``answers`` (question → function) and ``streams`` on a unix socket until it is closed."""

    def __init__(self, path: str, answers: Mapping[str, Answer], streams: Mapping[str, Stream] | None = None) -> None:
        self._path = Path(path)
        self._answers = answers
        self._streams = streams or {}
        self._serving: set[asyncio.Task[Any]] = set()

    async def run(self) -> None:
        """Serve until cancelled; the socket's file goes with it, and who still follows is cut off."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)  # the process's, so nothing else may run meanwhile
        try:
            listening.bind(str(self._path))
        finally:
            os.umask(before)
        server = await asyncio.start_unix_server(self._serve, sock=listening, limit=_LINE_LIMIT)
        try:
            # not serve_forever(), which in Python 3.12 waits for all connections to end when it is cancelled
            await asyncio.Event().wait()
        finally:
            server.close()
            self._path.unlink(missing_ok=True)
            for task in self._serving:
                task.cancel()
            if self._serving:
                await asyncio.wait(self._serving, timeout=_PATIENCE)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while line := await reader.readline():
                stream = self._stream(line)
                if stream is not None:
                    await _until_closed(_send(writer, *stream), reader, writer)
                    break
                writer.write(_line(await self._answer(line)))  # at once: the controller may be about to end
                await writer.drain()
        except (ConnectionError, ValueError) as error:  # ValueError: a line beyond the limit
            LOG.info("control socket: %s", error)
        except asyncio.CancelledError:
            LOG.debug("control socket: cut off, for the server ends")
        finally:
            self._serving.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def _stream(self, line: bytes) -> tuple[str, AsyncGenerator[Any, None]] | None:
        """The stream that is asked for, with its name; None if something else is."""
        try:
            asked = json.loads(line)
            name = asked["follow"]
            return name, self._streams[name](asked.get("of"))
        except _NONSENSE:
            return None

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            asked = json.loads(line)
            question, of = asked["get"], asked.get("of")
            answer: Callable[..., Any] = self._answers[question]
        except _NONSENSE:
            return self._unknown()
        try:
            found = answer() if of is None else answer(of)
        except TypeError:
            return self._unknown()
        return {question: await found if isinstance(found, Awaitable) else found}

    def _unknown(self) -> dict[str, Any]:
        known = f'ask {{"get": QUESTION}} with one of: {", ".join(self._answers)}'
        if self._streams:
            known += f'; or {{"follow": STREAM}} with one of: {", ".join(self._streams)}'
        return {"error": known}


def _line(answer: Any) -> bytes:
    return msgspec.json.encode(answer) + b"\n"


async def _send(writer: asyncio.StreamWriter, name: str, stream: AsyncGenerator[Any, None]) -> None:
    """Write what the stream yields, as fast as it is read; let others on the loop have their turn in between."""
    async with aclosing(stream):
        try:
            async for it in stream:
                writer.write(_line({name: it}))
                await writer.drain()
                await asyncio.sleep(0)
        except ValueError as error:
            writer.write(_line({"error": str(error)}))


async def _until_closed(
    work: Coroutine[Any, Any, None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Do the work until it ends, or until the other side closes the connection. If cancelled, what isn't read yet is dropped."""

    async def closed() -> None:
        while await reader.read(_LINE_LIMIT):
            pass

    tasks = asyncio.create_task(work), asyncio.create_task(closed())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        writer.transport.abort()
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


def ask(path: str, question: str, of: str | None = None, timeout: float = 5.0) -> Any:
    """Ask the controller behind the socket ``path``, about an object if ``of`` names one; waits at most ``timeout`` seconds.

    :raises ControlError: nobody answers there, or the question is unknown.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(path)
            asked = {"get": question} if of is None else {"get": question, "of": of}
            connection.sendall(json.dumps(asked).encode() + b"\n")
            with connection.makefile("rb") as lines:
                answer = json.loads(lines.readline())
    except (OSError, ValueError) as error:
        raise ControlError(f"{path}: no controller answers ({error}); is it running, and are you its user?") from error
    if "error" in answer:
        raise ControlError(f"{path}: {answer['error']}")
    return answer[question]


def follow(path: str, stream: str, of: Any = None) -> Iterator[Any]:
    """What the controller behind the socket ``path`` says in a stream, as it comes, until it ends. Closing this ends the stream.

    :raises ControlError: nobody answers there, the connection broke, or the controller doesn't know the stream.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(path)
            connection.sendall(json.dumps({"follow": stream, "of": of}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                for line in lines:
                    answer = json.loads(line)
                    if "error" in answer:
                        raise ControlError(f"{path}: {answer['error']}")
                    yield answer[stream]
    except (OSError, ValueError) as error:
        raise ControlError(f"{path}: no controller answers ({error}); is it running, and are you its user?") from error
