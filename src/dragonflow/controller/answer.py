"""Answers punted packets: from the switch, through a bounded queue, to the app's handler, and back.

    Open vSwitch ──(meter of the port)──> take ──> queue ──> run ──> handler(punted, view) ──> send ──> Open vSwitch

Handlers look at the replica only, so answers come while the DF DB is away. Nothing that a packet contains can end the loop: what
can't be read, what doesn't find room, and what makes a handler fail is dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from dragonflow.apps.base import Answer, App
from dragonflow.controller.view import View
from dragonflow.observe import metrics
from dragonflow.pipeline.punt import PacketOut, Punted, PuntKind
from dragonflow.switch.openflow.decode import Unreadable
from dragonflow.switch.packet_in import decode_packet_in

LOG = logging.getLogger(__name__)

Send = Callable[[PacketOut], bool]

WAITING = 1024
"""How many packets may wait. Meters bound each port's share, so it fills only when very many ports ask at once."""

_TURN = 0.002
"""Seconds of answering before others on the loop have their turn."""


class Answerer:
    """``take`` is for ``Switch(on_packet=…)``, ``run`` for its ``send``; ``view`` makes what handlers see.

    ``others`` are handlers that are no app's.
    """

    def __init__(
        self, apps: Sequence[App], view: Callable[[], View], others: Mapping[PuntKind, Answer] = MappingProxyType({})
    ) -> None:
        self._handlers: Mapping[int, Answer] = {
            **{int(kind): handler for kind, handler in others.items()},
            **{int(kind): handler for app in apps for kind, handler in app.answering().items()},
        }
        self._view = view
        self._waiting: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._failures = 0

    def take(self, body: bytes) -> None:
        """A punted packet, as the switch tells it. Never waits and never raises."""
        if len(self._waiting) >= WAITING:
            metrics.PUNTED.labels("any", "no room").inc()
            return
        self._waiting.append(body)
        self._wake.set()

    async def run(self, send: Send) -> None:
        """Answer for ever, by ``send``, which returns whether the answer is on its way; ends only by being cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            began = time.perf_counter()
            while self._waiting:
                self.answer(self._waiting.popleft(), send)
                if time.perf_counter() - began > _TURN:
                    await asyncio.sleep(0)
                    began = time.perf_counter()

    def answer(self, body: bytes, send: Send) -> None:
        """Answer one packet, or count why not."""
        kind = "unknown"
        try:
            punted = decode_packet_in(body)
            handler = self._handlers.get(punted.kind)
            if handler is None:
                raise Unreadable(f"no app answers packets of kind {punted.kind}")
            kind = PuntKind(punted.kind).name.lower()
            outcome = self._handle(handler, punted, send)
        except Unreadable as error:
            LOG.debug("a punted packet is dropped: %s", error)
            outcome = "unreadable"
        except Exception:  # whatever a packet made a handler do, the others get their answers
            outcome = "failed"
            self._failures += 1
            if not self._failures & self._failures - 1:  # the 1st, 2nd, 4th, …: a guest must not fill the log
                LOG.exception("answering a punted packet (%s) failed, for the %dth time", kind, self._failures)
        metrics.PUNTED.labels(kind, outcome).inc()

    def _handle(self, handler: Answer, punted: Punted, send: Send) -> str:
        sent = [send(it) for it in tuple(handler(punted, self._view()))]
        if not sent:
            return "silent"
        return "answered" if all(sent) else "not sent"
