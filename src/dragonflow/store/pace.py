"""How often to look for what may come without end (decision 0050)."""

from __future__ import annotations


class Pace:
    """How long to rest between two looks for what comes irregularly: hardly, but longer and longer while each finds something."""

    FIRST, MOST = 0.001, 0.032
    """Seconds to rest."""

    NEAR = 0.008
    """Seconds after a rest within which what is found is taken to have come while it lasted."""

    def __init__(self) -> None:
        self.over = 0.0
        """When the last rest is over."""
        self._rest = self.FIRST

    def found(self, now: float) -> float:
        """Something was found. Returns the seconds to rest."""
        self._rest = min(self.MOST, 2 * self._rest) if now < self.over + self.NEAR else self.FIRST
        self.over = now + self._rest
        return self._rest
