"""One line in the log when something goes away, one when it is back, and pauses in between that grow but stay short."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator

from oslo_db import exception as db_exc

from dragonflow.store.feed import Backoff
from dragonflow.store.protocol import Unavailable

LOG = logging.getLogger(__name__)

PAUSES = Backoff(first=0.05, most=1.0)
"""What ends an outage is noticed within a second: statuses must be right within five."""


def is_outage(error: BaseException) -> bool:
    """Whether the error says that Neutron's database or the DF DB can't be reached, rather than that something is wrong."""
    return any(isinstance(each, (db_exc.DBConnectionError, Unavailable)) for each in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from."""
    while error is not None:
        yield error
        error = getattr(error, "inner_exception", None) or error.__cause__


class Outage:
    """The outages that one part of the driver sees, from any of its threads; ``what`` is what it can't do meanwhile."""

    def __init__(self, what: str, backoff: Backoff = PAUSES, chance: Callable[[], float] = random.random) -> None:
        self._what = what
        self._backoff = backoff
        self._chance = chance
        self._lock = threading.Lock()
        self._failures = 0

    @property
    def lasts(self) -> bool:
        """Whether the last try failed."""
        return self._failures > 0

    def failed(self, error: BaseException) -> float:
        """Another try failed. Returns the seconds to wait before the next."""
        with self._lock:
            self._failures += 1
            first = self._failures == 1
            delay = self._backoff.delay(self._failures, self._chance())
        if first and is_outage(error):
            LOG.warning("df: %s waits, for a database is away: %s", self._what, _line(error))
        elif first:
            LOG.error("df: %s failed and is tried again", self._what, exc_info=error)
        return delay

    def over(self) -> None:
        """A try succeeded."""
        if not self._failures:
            return
        with self._lock:
            failures, self._failures = self._failures, 0
        if failures:
            LOG.info("df: %s goes on, after %d failed attempts", self._what, failures)


def _line(error: BaseException) -> str:
    """The first line of what it says: SQLAlchemy adds whole statements."""
    return (str(error).splitlines() or [type(error).__name__])[0]
