"""Sends unasked what has to be said again and again, to the VMs of this chassis or to others, from the replica alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator

from dragonflow.apps.door import claims, own_claim
from dragonflow.apps.l2 import L2
from dragonflow.controller.events import Confirmed
from dragonflow.controller.view import View
from dragonflow.model import PHYSICAL_TYPES, LogicalPort, LogicalSwitch
from dragonflow.pipeline import NETWORK, PacketOut, Resubmit, load

LOG = logging.getLogger(__name__)

TIMES, AGAIN = 3, 1.0
"""How often a port that is served here now is announced, for one frame may be lost, and how many seconds apart."""

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
    """Tells physical networks whose ports this chassis serves now: a subscriber, so after the switch has what answers for them.

    Each is announced ``TIMES`` times: at once, and by ``unasked``.
    """

    def __init__(self, view: Callable[[], View], send: Callable[[PacketOut], bool]) -> None:
        self._view = view
        self._send = send
        self._served: frozenset[str] = frozenset()
        self._due: dict[str, int] = {}

    def __call__(self, confirmed: Confirmed) -> None:
        """Announce what is served since this bundle."""
        view = self._view()
        for port in sorted(view.serving - self._served):
            self._due[port] = TIMES - 1
            for packet in announcement(port, view):
                self._send(packet)
        self._served = view.serving

    def unasked(self, view: View) -> Iterator[PacketOut]:
        """The announcements that are due to be repeated; for ``announce``."""
        due, self._due = self._due, {port: left - 1 for port, left in self._due.items() if left > 1}
        for port in due:
            yield from announcement(port, view)


def announcement(served: str, view: View) -> Iterator[PacketOut]:
    """Tell the physical network of what is served that its addresses are here now, if they are; others need no telling."""
    port, own = view.get(LogicalPort, served), view.get(LogicalSwitch, served)
    network = own if port is None else view.get(LogicalSwitch, port.network)
    if served not in view.serving or network is None or network.network_type not in PHYSICAL_TYPES:
        return
    for frame in claims(port) if port is not None else own_claim(network, view):
        yield PacketOut(frame, (load(NETWORK, network.key), Resubmit(L2.lookup.number)))
