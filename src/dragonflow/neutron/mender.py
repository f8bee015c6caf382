"""Finds and mends in the background what differs between Neutron's database and the DF DB. Done by the leader, unhurriedly.

But a DF DB of which nobody has said that it is whole, an empty or new one, keeps all controllers waiting: it is compared at
once and without pauses, mended, and said to be whole.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from dragonflow.neutron.dfdb import DfDb
from dragonflow.neutron.founding import is_whole
from dragonflow.neutron.keeper import Keeper
from dragonflow.neutron.repair import Finding, Repair
from dragonflow.neutron.survey import Survey

LOG = logging.getLogger(__name__)

PERIOD = 30.0
"""Seconds from the begin of one pass to that of the next, at the least; and before the first, when much is new anyhow."""

LOOK = 2.0
"""Seconds between two looks whether the DF DB is still whole, while there is nothing else to do."""

PAGE = 50
"""Objects at the most that are compared in one go, whatever the rate."""


class _NotWhole(Exception):
    """The DF DB is another one than at the begin of the pass."""


class Mender(Keeper):
    """Compares ``rate`` objects a second (0: none once the DF DB is whole), pass after pass, from ``start`` to ``stop``.

    ``mended`` counts what was mended since ``start``. What can't be mended is told once, not in each pass.
    """

    def __init__(
        self,
        dfdb: DfDb,
        rate: float,
        period: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("DF DB in line with Neutron", clock)
        self._dfdb = dfdb
        self._rate = rate
        self._period = PERIOD if period is None else period
        self._left: set[Finding] = set()
        self._whole = True
        self.mended = 0
        self.passes = 0

    def _follow(self) -> None:
        due = self._clock() + self._period
        while not self._stop.is_set():
            with self._step():
                self._whole = is_whole(self._dfdb.store)
            if not self._whole or (self._rate > 0 and self._clock() >= due):
                self._pass()
                due = self._clock() + self._period
            self._outage.over()
            self._stop.wait(min(LOOK, max(0.0, due - self._clock())) if self._rate > 0 else LOOK)

    def _pass(self) -> None:
        began = self._clock()
        with self._step():
            try:
                left = self._go_through()
            except _NotWhole:
                return
        if not self._stop.is_set():
            self._left = left
            self.passes += 1
            LOG.debug("df: a pass over the DF DB took %.1f s", self._clock() - began)

    def _go_through(self) -> set[Finding]:
        """One pass. Returns what it had to leave as it is. :raises _NotWhole: there is something more urgent."""
        left = set()
        page = max(1, min(PAGE, int(self._rate))) if self._whole else PAGE
        for finding in Repair(self._dfdb, Survey(), self._pace, page).findings(fix=True):
            if finding.fixed:
                self.mended += 1
                LOG.warning(
                    "df: mended %s %s (%d so far): %s", finding.kind, finding.id, self.mended, finding.difference
                )
            else:
                left.add(finding)
                if finding not in self._left:
                    LOG.warning("df: not mended: %s %s: %s", finding.kind, finding.id, finding.difference)
            if self._stop.is_set():
                break
        return left

    def _pace(self, objects: int) -> None:
        if self._whole:
            self._stop.wait(objects / self._rate)
            if not is_whole(self._dfdb.store):
                raise _NotWhole
        self._steps[threading.get_ident()] = self._clock()  # it gets on
