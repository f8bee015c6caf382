"""Which hosts can take ports: every API worker keeps the chassis and their liveness at hand, for ``bind_port`` must not wait."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from dragonflow.model import ALIVE_SCOPE, CHASSIS_SCOPE, Alive, Chassis
from dragonflow.neutron.binding import HostNow
from dragonflow.neutron.dfdb import DfDb
from dragonflow.neutron.table import Table
from dragonflow.store.feed import ScopeReset
from dragonflow.store.protocol import Key, Snapshot, StoreError

LOG = logging.getLogger(__name__)

_SCOPES = (CHASSIS_SCOPE, ALIVE_SCOPE)
_TURN = 1.0

LOOK = 2.0
"""Seconds that an API call waits for the DF DB at the most."""

AWAY = 5.0
"""Seconds for which nobody asks again after the DF DB did not answer: ML2 tries each binding ten times."""


class Hosts:
    """The last that is known of every host. While the DF DB is away that goes on to count.

    ``fallback`` answers for a host when nothing was ever learnt from the DF DB and it can't be read now either. ``anew`` is
    called when the DF DB had to be read anew, so others may have missed something, too.
    """

    def __init__(
        self,
        dfdb: DfDb,
        fallback: Callable[[str], HostNow],
        anew: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dfdb = dfdb
        self._fallback = fallback
        self._anew = anew
        self._clock = clock
        self._away_until = 0.0
        self._table: Table[Chassis | Alive] = Table(Chassis, Alive)
        self._told: set[str] = set()
        self._ready = threading.Event()
        self._stop = threading.Event()

    def run(self) -> None:
        """Follow the DF DB until stopped."""
        feed = self._dfdb.store.feed(_SCOPES)
        try:
            while not self._stop.is_set():
                news = feed.next(_TURN)
                if news is None:
                    continue
                self._table.apply(news)
                if isinstance(news, ScopeReset):
                    if news.scope in self._told:
                        self._anew()
                    self._told.add(news.scope)
                if self._told.issuperset(_SCOPES):
                    self._ready.set()
        finally:
            feed.close()

    def stop(self) -> None:
        """Have ``run`` return within a second."""
        self._stop.set()

    def chassis(self) -> list[Chassis] | None:
        """All chassis, without asking anybody; None as long as nothing was learnt."""
        return [row for row in self._table if isinstance(row, Chassis)] if self._ready.is_set() else None

    def look(self, host: str) -> HostNow:
        """What is known of the host."""
        if self._ready.is_set():
            known = _host(self._table, host)
            if known.alive:
                return known
            # A bind may come right after the controller's start, before the feed has told of it.
        snapshot = self._ask()
        if snapshot is None:
            if self._ready.is_set():
                return _host(self._table, host)
            LOG.debug("df: asking Neutron's agents about host %s", host)
            return self._fallback(host)
        fresh: Table[Chassis | Alive] = Table(Chassis, Alive)
        for scope in _SCOPES:
            records = tuple(record for record in snapshot.records if record.key.scope == scope)
            fresh.apply(ScopeReset(scope, snapshot.revision, records))
        return _host(fresh, host)

    def _ask(self) -> Snapshot | None:
        if self._clock() < self._away_until:
            return None
        try:
            return self._dfdb.glance(_SCOPES, LOOK)
        except StoreError as error:
            self._away_until = self._clock() + AWAY
            LOG.warning("df: binding ports by what was known before, for the DF DB can't be read: %s", error)
            return None


def _host(table: Table[Chassis | Alive], host: str) -> HostNow:
    chassis = table.get(Key(CHASSIS_SCOPE, Chassis.__name__, host))
    alive = table.get(Key(ALIVE_SCOPE, Alive.__name__, host))
    return HostNow(chassis if isinstance(chassis, Chassis) else None, alive is not None)
