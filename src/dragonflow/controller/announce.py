"""Sends unasked what has to be said again and again, to the VMs of this chassis or to others, from the replica alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator

from dragonflow.apps.dnat import announcement
from dragonflow.controller.events import Confirmed
from dragonflow.controller.view import View
from dragonflow.pipeline.punt import PacketOut

LOG = logging.getLogger(__name__)

TIMES, AGAIN = 3, 1.0
"""How often a floating IP that came here is announced, for one frame may be lost, and how many seconds apart."""

_STEP = 32
"""Packets that are sent before others on the loop have their turn."""


async def announce(
    unasked: Callable[[View], Iterator[PacketOut]],
    view: Callable[[], View],
    send: Callable[[PacketOut], bool],
    period: float,
) -> None:
    """Every ``period`` seconds, ``send`` what ``unasked`` yields of the world as it is then; ends only by being cancelled."""
    while True:
        await asyncio.sleep(period)
        try:
            for number, packet in enumerate(tuple(unasked(view())), 1):
                send(packet)
                if number % _STEP == 0:
                    await asyncio.sleep(0)
        except Exception:  # one bad row must not end the announcements for ever
            LOG.exception("announcements failed; they are tried again in %.0f s", period)


class Heralds:
    """Tells external networks of floating IPs that came here: a subscriber, so after the switch has what answers for them.

    Each is announced ``TIMES`` times: at once, and by ``unasked``.
    """

    def __init__(self, view: Callable[[], View], send: Callable[[PacketOut], bool]) -> None:
        self._view = view
        self._send = send
        self._due: dict[str, int] = {}

    def __call__(self, confirmed: Confirmed) -> None:
        """Announce who came here with this bundle."""
        for event in confirmed.events:
            if (event.kind, event.change) == ("local", "created"):
                for packet in announcement(event.port, self._view()):
                    self._send(packet)
                    self._due[event.port] = TIMES - 1

    def unasked(self, view: View) -> Iterator[PacketOut]:
        """The announcements that are due to be repeated; for ``announce``."""
        due, self._due = self._due, {port: left - 1 for port, left in self._due.items() if left > 1}
        for port in due:
            yield from announcement(port, view)
