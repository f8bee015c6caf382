"""What the leader's duties share: a thread each, from ``start`` to ``stop``, that no failure ends."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod

LOG = logging.getLogger(__name__)

TURN = 0.5
"""Seconds within which a keeper notices that it should stop, and waits before it begins anew after a failure."""


class Keeper(ABC):
    """Keeps something of Neutron's in line with the DF DB; ``what`` names it in logs."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"df-{what}", daemon=True)

    def start(self) -> None:
        """Begin in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """End within a turn, or what one object takes."""
        self._stop.set()
        self._thread.join()

    @abstractmethod
    def _follow(self) -> None:
        """Work until ``_stop`` is set. What it raises is logged, and it is called again."""

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except Exception:
                LOG.exception("df: keeping the %s failed and begins anew", self._what)
                self._stop.wait(TURN)
