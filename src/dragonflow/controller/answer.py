"""Answers punted packets: from the switch, through a bounded queue, to the app's handler, and back.

    Open vSwitch ──(meters)──> take ──> senders' queues ──> run, in turns ──> handler(punted, view) ──> send ──> Open vSwitch

Senders have their turns one after the other, and where there is no more room it is the longest queue that loses its last packet:
who asks much waits long, and nobody else does. While packets wait, answering takes half of the loop's time, not all of it.

Handlers look at the replica only, so answers come while the DF DB is away. Nothing that a packet contains can end the loop: what
can't be read, what doesn't find room, and what makes a handler fail is dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from dragonflow.apps.base import Answer, App
from dragonflow.controller.view import View
from dragonflow.observe import metrics
from dragonflow.pipeline import SOURCE, PacketOut, Punted, PuntKind
from dragonflow.switch.openflow.decode import Unreadable
from dragonflow.switch.packet_in import decode_packet_in

LOG = logging.getLogger(__name__)

Send = Callable[[PacketOut], bool]

WAITING = 1024
"""How many packets may wait. Meters bound what comes, so it fills only when the loop was kept from answering for long."""

_TURN = 0.002
"""Seconds of answering before others on the loop have their turn, and that they have."""

_Sender = tuple[int, int]
"""Who had a packet punted: the key of the port from which it came (0: of none here), and the OpenFlow port."""


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
        self._waiting: OrderedDict[_Sender, deque[Punted]] = OrderedDict()
        """None of the queues is empty. The next turn is the first's."""
        self._room = WAITING
        self._wake = asyncio.Event()
        self._failures = 0

    def take(self, body: bytes) -> None:
        """A punted packet, as the switch tells it. Never waits and never raises."""
        try:
            punted = decode_packet_in(body)
            handler = self._handlers.get(punted.kind)
            if handler is None:
                raise Unreadable(f"no app answers packets of kind {punted.kind}")
        except Unreadable as error:
            LOG.debug("a punted packet is dropped: %s", error)
            metrics.PUNTED.labels("unknown", "unreadable").inc()
            return
        self._waiting.setdefault((punted.read(SOURCE), punted.in_port), deque()).append(punted)
        self._room -= 1
        if self._room < 0:
            longest = max(self._waiting, key=lambda sender: len(self._waiting[sender]))
            metrics.PUNTED.labels(_name(self._pop(longest, last=True)), "no room").inc()
        self._wake.set()

    def _pop(self, sender: _Sender, *, last: bool = False) -> Punted:
        """Take the sender's first packet, or its last, out of its queue."""
        queue = self._waiting[sender]
        punted = queue.pop() if last else queue.popleft()
        self._room += 1
        if not queue:
            del self._waiting[sender]
        return punted

    async def run(self, send: Send) -> None:
        """Answer for ever, by ``send``, which returns whether the answer is on its way; ends only by being cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            began = time.perf_counter()
            while self._waiting:
                sender = next(iter(self._waiting))
                punted = self._pop(sender)
                if sender in self._waiting:
                    self._waiting.move_to_end(sender)
                self._answer(punted, send)
                if time.perf_counter() - began > _TURN:
                    await asyncio.sleep(_TURN)
                    began = time.perf_counter()

    def _answer(self, punted: Punted, send: Send) -> None:
        """Answer one packet, or count why not."""
        kind = _name(punted)
        try:
            outcome = self._handle(self._handlers[punted.kind], punted, send)
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


def _name(punted: Punted) -> str:
    return PuntKind(punted.kind).name.lower()
