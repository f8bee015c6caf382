"""One of all API workers, of all servers, does what must be done once: the others stand by to take over.

The leader's record in the DF DB hangs on a lease that it renews; when it dies, the record vanishes and the first who notices
makes it anew. A leader that can't renew in time stops by its own clock. For a moment two may believe to lead: what they do is
level-triggered and bears that.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from dragonflow.store.blocking import BlockingStore
from dragonflow.store.protocol import ABSENT, Check, Conflict, Key, LeaseExpired, Put, StoreError, Txn

LOG = logging.getLogger(__name__)

KEY = Key("leader", "Leader", "neutron")


class Duty(Protocol):
    """What only the leader does."""

    def start(self) -> None:
        """Begin; returns at once."""
        ...

    def stop(self) -> None:
        """End, and return when it has ended."""
        ...


class Election:
    """Stands for election until stopped; ``ttl`` (seconds) bounds how long nobody leads after a leader died."""

    def __init__(
        self,
        store: BlockingStore,
        duty: Callable[[], Duty],
        ttl: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._duty = duty
        self._ttl = ttl
        self._clock = clock
        self._stop = threading.Event()
        self.leads = threading.Event()

    def stop(self) -> None:
        """Have ``run`` return, and give the office up so that another takes over at once."""
        self._stop.set()

    def run(self) -> None:
        """Stand for election, lead, stand again."""
        while not self._stop.is_set():
            lease = None
            try:
                lease = self._win()
            except StoreError as error:
                LOG.debug("df: no election while the DF DB is away: %s", error)
            if lease is None:
                self._stop.wait(self._ttl / 4)
                continue
            LOG.info("df: this process now keeps the port statuses and the agent list")
            duty = self._duty()
            self.leads.set()
            try:
                duty.start()
                self._hold(lease)
            finally:
                self.leads.clear()
                duty.stop()
                self._resign(lease)

    def _win(self) -> str | None:
        if self._store.get(KEY) is not None:
            return None
        lease = self._store.grant_lease(self._ttl)
        name = msgspec.json.encode({"host": socket.gethostname(), "pid": os.getpid()})
        try:
            self._store.commit(Txn((Put(KEY, name, lease),), (Check(KEY, ABSENT),)))
        except (Conflict, LeaseExpired):
            self._resign(lease)
            return None
        return lease

    def _hold(self, lease: str) -> None:
        renewed = self._clock()
        while not self._stop.wait(self._ttl / 4):
            before = self._clock()
            try:
                self._store.keep_alive(lease)
                renewed = before
            except LeaseExpired:
                LOG.warning("df: the lease expired, another process may lead now")
                return
            except StoreError as error:
                if self._clock() - renewed >= self._ttl:
                    LOG.warning("df: standing down, for the lease could not be renewed: %s", error)
                    return

    def _resign(self, lease: str) -> None:
        try:
            self._store.revoke(lease)
        except StoreError as error:
            LOG.debug("df: the lease was not revoked, it expires by itself: %s", error)
