"""The journal's worker: takes what changed in Neutron and writes it to the DF DB, in order, until it is done.

An entry is struck only after the DF DB has committed, and doing one twice changes nothing. So a worker that is killed in
between costs nothing but the time until another's claim on the entry may begin. A fail-over may lose commits that were
acknowledged (of Redis: docs/decisions/0012): what was written in the last two minutes is compared once more then.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from neutron_lib.context import get_admin_context

from dragonflow.neutron import db
from dragonflow.neutron.mirror import Mirror
from dragonflow.neutron.outage import Outage
from dragonflow.store.feed import Backoff
from dragonflow.store.protocol import Conflict, StoreError, Unavailable

LOG = logging.getLogger(__name__)

BATCH = 100
"""Entries that are claimed at once."""

AWAY = Backoff(first=0.1, most=2.0)
"""Between two tries while a database is away."""

RECENT = 120.0
"""Seconds for which a worker remembers what it wrote: longer than a master that was deposed goes on to acknowledge."""

BROKEN = Backoff(first=0.5, most=60.0)
"""Between two tries of an object that alone can't be written."""


class Journal:
    """One worker thread. ``period`` and ``claim`` are in seconds: see the options ``journal_period`` and ``journal_claim``."""

    def __init__(
        self,
        mirror: Mirror,
        period: float,
        claim: float,
        *,
        context: Callable[[], Any] = get_admin_context,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mirror = mirror
        self._period = period
        self._claim = claim
        self._context = context
        self._chance = chance
        self._clock = clock
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._failures = 0
        self._outage = Outage("writing the journal", AWAY, chance)
        self._recent: dict[tuple[str, str, str], float] = {}  # kind, id, parent → when it was written, in this order
        self._doubted = threading.Event()

    def wake(self) -> None:
        """Something was recorded just now."""
        self._wake.set()

    def doubt(self) -> None:
        """The DF DB may have lost what it acknowledged last: look at it again."""
        self._doubted.set()
        self.wake()

    def stop(self) -> None:
        """Have ``run`` return; what is claimed is left for others."""
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Work until stopped. Nothing that goes wrong ends it."""
        while not self._stop.is_set():
            self._wake.clear()
            try:
                pause = self.work()
                self._outage.over()
            except Exception as error:
                pause = self._outage.failed(error)
            if pause and not self._stop.is_set():
                self._pause(pause)

    def _pause(self, seconds: float) -> None:
        """Wait; new entries cut it short, unless the DF DB is away anyhow."""
        (self._stop if self._failures or self._outage.lasts else self._wake).wait(seconds)

    def work(self) -> float:
        """Take one batch of entries and write them. Returns the seconds to pause; 0 if there may be more."""
        context = self._context()
        if self._doubted.is_set():
            self._look_again(context)
        entries = db.claim(context, self._claim, BATCH)
        objects: dict[tuple[str, str], list[db.Entry]] = {}
        for entry in entries:
            objects.setdefault((entry.kind, entry.id), []).append(entry)
        left = {entry.seq for entry in entries}
        written: list[int] = []
        pause = 0.0 if len(entries) == BATCH else self._period
        for same in objects.values():
            if self._stop.is_set():
                break
            seqs = [entry.seq for entry in same]
            try:
                self._mirror.sync(same[0].kind, same[0].id, same[0].parent)
            except Unavailable as error:
                pause = self._away(error)
                break
            except Exception as error:
                self._give_back(context, same, error)
            else:
                written += seqs
                self._remember(same[0])
            left.difference_update(seqs)
            self._back()
        if written:
            db.done(context, written)
        if left:
            db.postpone(context, left, 0.0, failed=False)
        return pause

    def _remember(self, entry: db.Entry) -> None:
        now = self._clock()
        what = (entry.kind, entry.id, entry.parent)
        self._recent.pop(what, None)
        self._recent[what] = now
        while now - self._recent[oldest := next(iter(self._recent))] > RECENT:
            del self._recent[oldest]

    def _look_again(self, context: Any) -> None:
        self._doubted.clear()
        since = self._clock() - RECENT
        again = [what for what, written in self._recent.items() if written >= since]
        if again:
            try:
                db.record_all(context, again)
            except Exception:
                self._doubted.set()
                raise
            LOG.info("df: the DF DB may have lost its last commits: %d objects are compared again", len(again))

    def _away(self, error: Unavailable) -> float:
        """The DF DB can't be reached: how long to wait."""
        self._failures += 1
        if self._failures == 1:
            LOG.warning("df: the DF DB is away, changes wait in the journal: %s", error)
        return AWAY.delay(self._failures, self._chance())

    def _back(self) -> None:
        if self._failures:
            LOG.info("df: the DF DB is back, the journal is being written")
            self._failures = 0

    def _give_back(self, context: Any, same: list[db.Entry], error: Exception) -> None:
        """One object fails, which must not stop the others: leave it for later."""
        delay = BROKEN.delay(1 + max(entry.attempts for entry in same), self._chance())
        expected = isinstance(error, Conflict)
        LOG.log(
            logging.INFO if expected else logging.ERROR,
            "df: %s %s could not be written to the DF DB, next try in %.1f s: %s",
            same[0].kind,
            same[0].id,
            delay,
            error,
            exc_info=None if isinstance(error, StoreError) else error,
        )
        db.postpone(context, [entry.seq for entry in same], delay)
