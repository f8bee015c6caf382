"""One of many processes does what must be done once: the others stand by to take over.

The leader's record in the DF DB hangs on a lease that it renews; when it dies, the record vanishes and the first who notices
makes it anew. A leader that can't renew in time stops by its own clock, and one whose work hangs gives the office up. For a
moment two may believe to lead: what they do is level-triggered, and bears that.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from dragonflow.model import LEADER_SCOPE, CodecError, Leader, decode, encode
from dragonflow.store.blocking import BlockingStore
from dragonflow.store.protocol import ABSENT, Check, Conflict, Key, LeaseExpired, Put, StoreError, Txn

LOG = logging.getLogger(__name__)


def office(name: str) -> Key:
    """Where the leader of that name has its record (row ``Leader``)."""
    return Key(LEADER_SCOPE, Leader.__name__, name)


class Duty(Protocol):
    """What only the leader does."""

    def start(self) -> None:
        """Begin; returns at once."""
        ...

    def stop(self) -> None:
        """End, and return when it has ended, or hangs."""
        ...

    def stuck(self) -> tuple[float, str]:
        """For how many seconds it has not got on, and with what."""
        ...


class Election:
    """Stands for election as ``name`` until stopped. ``key`` is the office, ``does`` says in logs what who holds it does.

    ``ttl`` (seconds) bounds how long nobody leads after a leader died; ``patience`` (seconds), for how long one leads that hangs.
    """

    def __init__(
        self,
        store: BlockingStore,
        duty: Callable[[], Duty],
        ttl: float,
        *,
        key: Key,
        name: str,
        does: str,
        patience: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._duty = duty
        self._ttl = ttl
        self._key = key
        self._name = name
        self._does = does
        self._patience = patience
        self._clock = clock
        self._stop = threading.Event()
        self.leader: str | None = None
        """Who led when it was last looked; None before the first look."""
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
            self._note(self._name)
            duty = self._duty()
            self.leads.set()
            hangs = False
            try:
                duty.start()
                hangs = self._hold(lease, duty)
            finally:
                self.leads.clear()
                if not hangs:
                    duty.stop()
                self._resign(lease)
            if hangs:
                duty.stop()
                self._stop.wait(self._ttl)  # somebody else's turn, if there is anybody

    def _win(self) -> str | None:
        found = self._store.get(self._key)
        if found is not None:
            self._note(self._holder(found.data))
            return None
        lease = self._store.grant_lease(self._ttl)
        row = encode(Leader(id=self._key.id, server=self._name, since=time.time()))
        try:
            self._store.commit(Txn((Put(self._key, row, lease),), (Check(self._key, ABSENT),)))
        except (Conflict, LeaseExpired):
            self._resign(lease)
            return None
        except StoreError:
            # it may have been written: nobody should wait for a leader that doesn't know that it is one
            self._resign(lease)
            raise
        return lease

    def _note(self, leader: str) -> None:
        """Tell of a change in the log, once."""
        if leader != self.leader:
            LOG.info("df: %s %s now (before: %s)", leader, self._does, self.leader or "unknown")
            self.leader = leader

    def _hold(self, lease: str, duty: Duty) -> bool:
        """Lead until stopped or out of office. Returns whether it was for work that hangs."""
        renewed = self._clock()
        while not self._stop.wait(self._ttl / 4):
            seconds, what = duty.stuck()
            if seconds > self._patience:
                LOG.error("df: standing down: keeping the %s has hung for %.0f s", what, seconds)
                return True
            before = self._clock()
            try:
                self._store.keep_alive(lease)
                renewed = before
            except LeaseExpired:
                LOG.warning("df: the lease expired, another process may lead now")
                return False
            except StoreError as error:
                if self._clock() - renewed >= self._ttl:
                    LOG.warning("df: standing down, for the lease could not be renewed: %s", error)
                    return False
        return False

    def _resign(self, lease: str) -> None:
        try:
            self._store.revoke(lease)
        except StoreError as error:
            LOG.debug("df: the lease was not revoked, it expires by itself: %s", error)

    def _holder(self, data: bytes | None) -> str:
        try:
            row = decode(self._key.kind, self._key.id, data or b"")
        except CodecError:
            return "somebody who can't be read"
        return row.server if isinstance(row, Leader) else ""
