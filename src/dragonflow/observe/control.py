"""The control socket: a running controller answers questions about itself, one JSON object a line each way.

``{"get": "places"}`` → ``{"places": …}``; a question about one object names it: ``{"get": "port", "of": ID}``. An unknown
question gets ``{"error": …}``. What a controller can be told to do is asked for in the same way. Only the socket's owner may
connect (0600).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

LOG = logging.getLogger(__name__)

Answer = Callable[[], Any] | Callable[[str], Any]
"""Takes the name of an object if it is about one; may be a coroutine function, if the answer needs time."""

_LINE_LIMIT = 64 * 1024


class ControlError(Exception):
    """The controller can't be asked, or doesn't know the question."""


class ControlServer:
    """Serves ``answers`` (question → function) on a unix socket until it is closed."""

    def __init__(self, path: str, answers: Mapping[str, Answer]) -> None:
        self._path = Path(path)
        self._answers = answers

    async def run(self) -> None:
        """Serve until cancelled; the socket's file goes with it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            server = await asyncio.start_unix_server(self._serve, self._path, limit=_LINE_LIMIT)
        finally:
            os.umask(before)
        try:
            async with server:
                await server.serve_forever()
        finally:
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                answer = await self._answer(line)
                writer.write(json.dumps(answer).encode() + b"\n")  # at once: the controller may be about to end
                await writer.drain()
        except (ConnectionError, ValueError) as error:  # ValueError: a line beyond the limit
            LOG.info("control socket: %s", error)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            asked = json.loads(line)
            question, of = asked["get"], asked.get("of")
            answer: Callable[..., Any] = self._answers[question]
        except (ValueError, KeyError, TypeError, AttributeError):
            return self._unknown()
        try:
            found = answer() if of is None else answer(of)
        except TypeError:
            return self._unknown()
        return {question: await found if isinstance(found, Awaitable) else found}

    def _unknown(self) -> dict[str, Any]:
        return {"error": f'ask {{"get": QUESTION}} with one of: {", ".join(self._answers)}'}


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
