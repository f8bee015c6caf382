"""Which ports to look at next, for several threads that turn them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable

EXCLUSIVE = 3.0
"""Seconds for which nobody else looks at a port that somebody is turning. After that it is stuck, and another may try."""


class Agenda:
    """Ports to look at: those just told of before those found by comparing, each kind in the order in which it came.

    A port is in one pair of hands at a time, or in two if the first hangs. What is told of it meanwhile is not lost: it comes up
    again afterwards.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, None] = {}
        self._found: dict[str, None] = {}
        self._busy: dict[str, list[float]] = {}  # when each who looks at it began
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        """How many ports wait."""
        return len(self._told) + len(self._found)

    def told(self, ports: Iterable[str]) -> None:
        """Their hosts have just said something."""
        with self._changed:
            for port in ports:
                self._told[port] = None
                self._found.pop(port, None)
            self._changed.notify_all()

    def found(self, ports: Iterable[str]) -> None:
        """Comparing found them wrong, or turning them failed."""
        with self._changed:
            self._found.update((port, None) for port in ports if port not in self._told)
            self._changed.notify_all()

    def take(self, most: int, timeout: float) -> list[str]:
        """Up to ``most`` ports, the next in order; none if there are none within ``timeout`` seconds. Say ``done`` of them."""
        end = self._clock() + timeout
        with self._changed:
            while not self._closed:
                now = self._clock()
                taken = self._free(most, now)
                if taken:
                    for port in taken:
                        self._busy.setdefault(port, []).append(now)
                        self._told.pop(port, None)
                        self._found.pop(port, None)
                    return taken
                if now >= end:
                    break
                self._changed.wait(end - now)
        return []

    def _free(self, most: int, now: float) -> list[str]:
        free: list[str] = []
        for queue in (self._told, self._found):
            for port in queue:
                if len(free) == most:
                    return free
                hands = self._busy.get(port)
                if not hands or (len(hands) == 1 and now - hands[0] >= EXCLUSIVE):
                    free.append(port)
        return free

    def overdue(self) -> list[str]:
        """The ports that have been in one pair of hands for too long."""
        with self._changed:
            now = self._clock()
            return [port for port, hands in self._busy.items() if len(hands) == 1 and now - hands[0] >= EXCLUSIVE]

    def done(self, ports: Collection[str]) -> None:
        """They were looked at."""
        with self._changed:
            for port in ports:
                hands = self._busy[port]
                hands.pop()
                if not hands:
                    del self._busy[port]
            if len(self):
                self._changed.notify_all()

    def close(self) -> None:
        """Nothing is handed out any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
