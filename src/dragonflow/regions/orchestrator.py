"""Several regions, one worker each, and what they say together. It keeps no truth of its own: see ``plan``.

::

    region a ── read ──► View ─┐          ┌─► plan for a ─► act in a
    region b ── read ──► View ─┼─ Board ──┼─► plan for b ─► act in b
    region c ── away:    None ─┘          └─  c waits for its region; a and b leave alone what is c's
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dragonflow.regions.agreement import Views, network, own_mtu
from dragonflow.regions.board import Board
from dragonflow.regions.cloud import RegionApi
from dragonflow.regions.consent import Pair, Place
from dragonflow.regions.plan import Count
from dragonflow.regions.settings import Settings
from dragonflow.regions.worker import Failure, Worker

LOG = logging.getLogger(__name__)

FAREWELL = 5.0
"""Seconds that ``stop`` waits for calls that are under way. Those that last longer end by themselves; nothing follows."""


class Orchestrator:
    """Keeps all regions, from ``start`` to ``stop``; what only the leader does (``store.election.Duty``)."""

    def __init__(
        self, settings: Settings, api: Callable[[str], RegionApi], clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._board = Board(settings.regions)
        self.workers = {
            name: Worker(
                api(name),
                underlay,
                self._board,
                period=settings.period,
                concurrency=settings.concurrency,
                clock=clock,
            )
            for name, underlay in settings.regions.items()
        }

    def start(self) -> None:
        """Begin; returns at once."""
        LOG.info("orchestrating %s", ", ".join(self.workers))
        for worker in self.workers.values():
            worker.start()

    def stop(self) -> None:
        """Begin nothing more, and wait for what is under way, but not for ever."""
        for worker in self.workers.values():
            worker.stop()
        end = time.monotonic() + FAREWELL
        for worker in self.workers.values():
            if not worker.join(max(0.0, end - time.monotonic())):
                LOG.warning("region %s: a call is still under way", worker.name)

    def stuck(self) -> tuple[float, str]:
        """Never: calls are bounded in time, and a region that is slow is no reason to give the others up."""
        return 0.0, ""

    def hint(self, region: str) -> None:
        """Something has changed in a region."""
        self.workers[region].hint()

    def status(self) -> dict[str, Any]:
        """All that there is to say of regions and stretches, as JSON can hold it. Times are Unix times, lags seconds."""
        views, agreement, _ = self._board.look()
        stretches = [
            {
                "state": standing.state.value,
                "reasons": list(standing.reasons),
                "sides": [self._side(views, place, pair) for place in pair],
            }
            for pair, standing in sorted(agreement.pairs.items())
        ]
        return {
            "at": self._clock(),
            "regions": {name: self._region(worker) for name, worker in self.workers.items()},
            "stretches": stretches,
            "troubles": list(self._troubles()),
            "failures": list(self._failures()),
        }

    def _region(self, worker: Worker) -> dict[str, Any]:
        condition = worker.condition
        totals = {
            name: sum(getattr(count, name) for count in condition.plan.counts.values())
            for name in Count.__struct_fields__
        }
        return {
            "up": condition.known and condition.seen is not None,
            "error": None if condition.error is None else _failure(condition.error),
            "seen": condition.seen,
            "right": condition.right,
            "lag": worker.lag,
            "read_seconds": condition.read_seconds,
            "pending": len(condition.plan.steps),
            **totals,
        }

    def _side(self, views: Views, place: Place, pair: Pair) -> dict[str, Any]:
        """One network of a pair, and what of the other side is announced in it."""
        found = network(views, place)
        worker = self.workers.get(place.region)
        count = Count() if worker is None else worker.condition.plan.counts.get(pair, Count())
        return {
            "region": place.region,
            "network": place.network,
            "name": found.name if found else None,
            "network_type": found.network_type if found else None,
            "segmentation_id": found.segmentation_id if found else None,
            "mtu": found.mtu if found else None,
            "own_mtu": own_mtu(found) if found else None,
            **{name: getattr(count, name) for name in Count.__struct_fields__},
        }

    def _troubles(self) -> Iterator[Mapping[str, Any]]:
        for worker in self.workers.values():
            for trouble in worker.condition.plan.troubles:
                yield {
                    "port": trouble.home.port,
                    "home": trouble.home.region,
                    "region": trouble.place.region,
                    "network": trouble.place.network,
                    "reason": trouble.reason,
                }

    def _failures(self) -> Iterator[Mapping[str, Any]]:
        for worker in self.workers.values():
            for what, failure in worker.condition.failures.items():
                yield {"region": worker.name, "step": what, **_failure(failure)}


def _failure(failure: Failure) -> dict[str, Any]:
    return {"error": failure.error, "since": failure.since, "times": failure.times}
