"""Where each region's worker hangs up what it saw, for all to plan by."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from dragonflow.regions.agreement import Agreement, Views, agree
from dragonflow.regions.view import View


class Board:
    """The last view of each region; None while nothing is known of it. Threads share it."""

    def __init__(self, regions: Iterable[str]) -> None:
        self._lock = threading.Lock()
        self._views: Views = dict.fromkeys(regions)
        self._agreed: tuple[Views, Agreement] | None = None
        self._listeners: dict[str, Callable[[], None]] = {}

    def listen(self, region: str, changed: Callable[[], None]) -> None:
        """Call ``changed`` each time when another region's view has changed. It must return at once."""
        self._listeners[region] = changed

    def hang(self, region: str, view: View | None) -> None:
        """This is what the region holds now, as far as anybody knows."""
        with self._lock:
            if self._views[region] == view:
                return
            self._views = {**self._views, region: view}
        for other, changed in self._listeners.items():
            if other != region:
                changed()

    def views(self) -> Views:
        """What is known of all regions now. It doesn't change any more."""
        return self._views

    def look(self) -> tuple[Views, Agreement]:
        """What is known of all regions now, and what it comes to: worked out once for all who ask."""
        with self._lock:
            views = self._views
            if self._agreed is None or self._agreed[0] is not views:
                self._agreed = views, agree(views)
            return self._agreed
