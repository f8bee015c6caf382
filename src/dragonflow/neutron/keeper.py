"""What the leader's duties share: threads from ``start`` to ``stop`` that no failure ends, and a watch on whether they get on."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

from dragonflow.neutron.outage import Outage

LOG = logging.getLogger(__name__)

TURN = 0.5
"""Seconds within which a keeper notices that it should stop."""

FAREWELL = 5.0
"""Seconds that ``stop`` waits for a thread. One that hangs is left behind: it ends when what it waits for does."""


class Keeper(ABC):
    """Keeps something of Neutron's in line with the DF DB; ``what`` names it in logs and ``threads``."""

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.what = what
        self._clock = clock
        self._stop = threading.Event()
        self._outage = Outage(f"keeping the {what}")
        self._threads: list[threading.Thread] = []
        self._steps: dict[int, float] = {}

    def start(self) -> None:
        """Begin, in a thread."""
        self._begin(self._run, f"df-{self.what}")

    def stop(self) -> None:
        """End within a turn, or what one step takes; what hangs is left behind."""
        self._stop.set()
        end = time.monotonic() + FAREWELL
        for thread in list(self._threads):
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                LOG.warning("df: thread %s hangs and is left behind", thread.name)

    def stuck(self) -> float:
        """For how many seconds the step has lasted that lasts longest; 0.0 if there is none."""
        now = self._clock()
        return max((now - began for began in list(self._steps.values())), default=0.0)

    @contextlib.contextmanager
    def _step(self) -> Iterator[None]:
        """Around each thing that can hang: what a thread asks of a database."""
        me = threading.get_ident()
        self._steps[me] = self._clock()
        try:
            yield
        finally:
            self._steps.pop(me, None)

    def _begin(self, run: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        thread.start()

    @abstractmethod
    def _follow(self) -> None:
        """Work until ``_stop`` is set, and say ``self._outage.over()`` when all goes well. What it raises is logged, and it is
        called again."""

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except Exception as error:
                self._stop.wait(self._outage.failed(error))
