"""Sends unasked what an app has to announce to the VMs of this chassis, again and again, from the replica alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator

from dragonflow.controller.view import View
from dragonflow.pipeline.punt import PacketOut

LOG = logging.getLogger(__name__)

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
