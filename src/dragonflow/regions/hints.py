"""Regions' own buses as a hint: that a port's status changed somewhere is a reason to look there at once. No more than that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import aclosing
from functools import partial

from dragonflow.pubsub import open_pubsub
from dragonflow.pubsub.protocol import PORT_STATUS
from dragonflow.regions.settings import Bus
from dragonflow.store import open_store
from dragonflow.store.blocking import Portal

LOG = logging.getLogger(__name__)

_AGAIN = 10.0
"""Seconds until a bus that failed is tried again."""


def follow(portal: Portal, buses: Mapping[str, Bus], hint: Callable[[str], None]) -> None:
    """Call ``hint`` with a region's name each time its bus tells of statuses, on the portal's loop and until that is closed."""
    for region, bus in buses.items():
        portal.start(partial(_follow, region, bus, hint))


async def _follow(region: str, bus: Bus, hint: Callable[[str], None]) -> None:
    while True:
        try:
            await _listen(region, bus, hint)
        except Exception as error:
            LOG.warning("region %s: its bus gives no hints: %r", region, error)
        await asyncio.sleep(_AGAIN)


async def _listen(region: str, bus: Bus, hint: Callable[[str], None]) -> None:
    store = open_store(bus.store_url, create=False)
    try:
        pubsub = open_pubsub(bus.pubsub_url, store)
        try:
            async with aclosing(pubsub.subscribe((PORT_STATUS,))) as messages:
                async for _ in messages:
                    hint(region)
        finally:
            await pubsub.close()
    finally:
        await store.close()
