"""The DF DB and the bus for Neutron's threads: opened lazily, anew in each process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from concurrent.futures import Future

from dragonflow.pubsub import open_pubsub
from dragonflow.pubsub.news import committed, pass_hints
from dragonflow.pubsub.protocol import CHANGES, PORT_STATUS, PubSub
from dragonflow.store.blocking import BlockingStore, PerProcess, Portal
from dragonflow.store.protocol import Snapshot, Txn, Unavailable

LOG = logging.getLogger(__name__)

CLOSING = 5.0
"""Seconds that closing may take before the process goes on without."""


class DfDb:
    """The store behind ``store_url`` and the bus behind ``pubsub_url``. Building it opens nothing."""

    def __init__(self, store_url: str, pubsub_url: str, timeout: float = 15.0) -> None:
        self.portal = Portal("df-dfdb")
        self.store = BlockingStore(self.portal, store_url, timeout=timeout)
        self._bus: PerProcess[PubSub] = PerProcess(lambda: open_pubsub(pubsub_url, self.store.underlying()))
        self._hints: Future[None] | None = None
        self._lock = threading.Lock()

    def glance(self, scopes: Collection[str], timeout: float) -> Snapshot:
        """A snapshot for somebody who can't wait long. :raises StoreError: ``Unavailable`` after ``timeout`` seconds."""
        return self.portal.run(lambda: self.store.underlying().snapshot(scopes), timeout)

    def tell(self, txn: Txn, revision: int) -> None:
        """Publish what was committed. Waits for nobody: who misses it finds it in the store."""

        async def publish() -> None:
            await self._bus.get().publish(committed(txn, revision))

        if txn.writes:
            self.portal.start(publish).add_done_callback(_log_failure)

    def listen(self, topics: Collection[str] = (CHANGES, PORT_STATUS)) -> None:
        """From now on messages make the feeds of this store look at once."""

        async def pass_on() -> None:
            await pass_hints(self.store.underlying(), self._bus.get(), topics)

        with self._lock:
            if self._hints is None:
                self._hints = self.portal.start(pass_on)
                self._hints.add_done_callback(_log_failure)

    def close(self) -> None:
        """Let go of sockets, files and the thread."""

        async def close_bus() -> None:
            bus = self._bus.pop()
            if bus is not None:
                await bus.close()

        with self._lock:
            if self._hints is not None:
                self._hints.cancel()
                self._hints = None
        try:
            self.portal.run(close_bus, CLOSING)
            self.store.close()
        except Unavailable as error:
            LOG.warning("df: the DF DB was left open: %s", error)
        self.portal.close()


def _log_failure(work: Future[None]) -> None:
    if not work.cancelled() and (error := work.exception()) is not None:
        LOG.warning("df: the message bus failed, news goes by the DF DB alone: %s", error)
