"""The control sockets of Open vSwitch's daemons: what ``ovs-appctl`` asks, without a process for each question.

JSON-RPC (ovs-appctl(8), ``lib/unixctl.c``): ``{"id": N, "method": "ofproto/trace", "params": [...]}``, answered in order. Several
questions may be on their way at once; vswitchd works them off between its other duties.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger(__name__)

RUN_DIRECTORY = Path("/run/openvswitch")
"""Where Open vSwitch's sockets are, unless the database's own socket says otherwise."""

_CHUNK = 1 << 18


class Unreachable(Exception):
    """Nobody answers at the control socket; the message says where, and why."""


class CommandFailed(Exception):
    """ovs-vswitchd refuses the command; the message is its own."""


def find(ovsdb: str, given: str | None = None, daemon: str = "ovs-vswitchd") -> Path:
    """Where a daemon's control socket is now: ``given``, or beside the database's socket (``unix:PATH``).

    The name holds the daemon's pid, which its pid file tells, unless it was started with ``--unixctl``.
    """
    if given:
        return Path(given.removeprefix("unix:"))
    directory = Path(ovsdb[5:]).parent if ovsdb.startswith("unix:") else RUN_DIRECTORY
    with contextlib.suppress(OSError, ValueError):
        pid = int((directory / f"{daemon}.pid").read_text())
        path = directory / f"{daemon}.{pid}.ctl"
        if path.exists():
            return path
    return directory / f"{daemon}.ctl"


class Unixctl:
    """Connects when it is first asked, and anew after a loss. One user at a time."""

    def __init__(
        self, ovsdb: str, given: str | None = None, *, patience: float = 2.0, daemon: str = "ovs-vswitchd"
    ) -> None:
        self._ovsdb, self._given, self._patience, self._daemon = ovsdb, given, patience, daemon
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._ids = itertools.count(1)
        self._decoder = json.JSONDecoder()

    async def ask(self, method: str, questions: Sequence[Sequence[str]]) -> list[str | CommandFailed]:
        """Ask all questions at once; returns the answers in their order. Waits at most ``patience`` seconds for each.

        :raises Unreachable: the socket isn't there, or the connection went, or no answer came in time.
        """
        try:
            reader, writer = self._streams = self._streams or await self._connect()
            ids = [next(self._ids) for _ in questions]
            calls = [{"id": number, "method": method, "params": it} for number, it in zip(ids, questions, strict=True)]
            writer.write("".join(map(json.dumps, calls)).encode())
            answers: list[str | CommandFailed] = []
            text = ""
            while len(answers) < len(ids):
                async with asyncio.timeout(self._patience):
                    data = await reader.read(_CHUNK)
                if not data:
                    raise ConnectionResetError(f"closed by {self._daemon}")
                text = self._take(text + data.decode(errors="replace"), ids, answers)
        except BaseException as error:
            self.close()  # answers that are still on their way belong to nobody now
            if isinstance(error, OSError | TimeoutError | ValueError):
                place = find(self._ovsdb, self._given, self._daemon)
                raise Unreachable(f"{place}: {error or 'no answer'}") from error
            raise
        return answers

    def close(self) -> None:
        """Let go of the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(self._patience):
            return await asyncio.open_unix_connection(find(self._ovsdb, self._given, self._daemon), limit=_CHUNK)

    def _take(self, text: str, ids: Sequence[int], answers: list[str | CommandFailed]) -> str:
        """File the whole answers at the beginning of ``text``; returns what is left. :raises ValueError: another's answer."""
        while text := text.lstrip():
            try:
                answer, end = self._decoder.raw_decode(text)
            except json.JSONDecodeError:
                return text  # the rest is on its way
            if not isinstance(answer, dict) or answer.get("id") != ids[len(answers)]:
                raise ValueError("an answer to something that was not asked")
            error = answer.get("error")
            answers.append(str(answer.get("result") or "") if error is None else CommandFailed(str(error).strip()))
            text = text[end:]
        return text
