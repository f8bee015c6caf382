"""Finds and mends in the background what differs between Neutron's database and the DF DB. Done by the leader, unhurriedly."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from dragonflow.neutron.dfdb import DfDb
from dragonflow.neutron.keeper import Keeper
from dragonflow.neutron.repair import Finding, Repair
from dragonflow.neutron.survey import Survey

LOG = logging.getLogger(__name__)

PERIOD = 30.0
"""Seconds from the begin of one pass to that of the next, at the least; and before the first, when much is new anyhow."""

PAGE = 50
"""Objects at the most that are compared in one go, whatever the rate."""


class Mender(Keeper):
    """Compares ``rate`` objects a second (0: none), one pass after the other, from ``start`` to ``stop``.

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
        self.mended = 0
        self.passes = 0

    def _follow(self) -> None:
        while not self._stop.wait(self._period):
            if self._rate > 0:
                began = self._clock()
                with self._step():
                    left = self._go_through()
                self._outage.over()
                if not self._stop.is_set():
                    self._left = left
                    self.passes += 1
                    LOG.debug("df: a pass over the DF DB took %.1f s", self._clock() - began)

    def _go_through(self) -> set[Finding]:
        """One pass. Returns what it had to leave as it is."""
        left = set()
        page = max(1, min(PAGE, int(self._rate)))
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
        self._stop.wait(objects / self._rate)
        self._steps[threading.get_ident()] = self._clock()  # it gets on
