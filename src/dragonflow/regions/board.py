"""Where each region's worker hangs up what it saw, for all to plan by."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from dragonflow.regions.agreement import Agreement, Views, agree
from dragonflow.regions.claims import Lost, lost
from dragonflow.regions.view import Home, View


class Judged(NamedTuple):
    """The arguments of ``plan``, of all regions at one time."""

    views: Views
    agreement: Agreement
    losers: Mapping[Home, Lost]


class Board:
    """The last view of each region; None while nothing is known of it. Threads share it."""

    def __init__(self, regions: Iterable[str]) -> None:
        self._lock = threading.Lock()
        self._views: Views = dict.fromkeys(regions)
        self._changes = 0  # of what regions hold of their own
        self._judged: Judged | None = None
        self._judged_at = 0
        self._listeners: dict[str, Callable[[str], None]] = {}

    def listen(self, region: str, changed: Callable[[str], None]) -> None:
        """Call ``changed`` with another region's name each time when what that holds has changed. It must return at once."""
        self._listeners[region] = changed

    def hang(self, region: str, view: View | None) -> None:
        """This is what the region holds now, as far as anybody knows. Others hear of it if it matters to them."""
        with self._lock:
            before = self._views[region]
            if before == view:
                return
            matters = before is None or view is None or before.holdings != view.holdings
            if before is not None and view is not None and not matters:
                view = msgspec.structs.replace(before, announced=view.announced)  # so holdings are seen to be the same
            self._views = {**self._views, region: view}
            self._changes += matters
        for other, changed in self._listeners.items():
            if matters and other != region:
                changed(region)

    def views(self) -> Views:
        """What is known of all regions now. It doesn't change any more."""
        return self._views

    def look(self) -> Judged:
        """What is known of all regions now, and what it comes to: worked out once for all, and anew only if it may differ."""
        with self._lock:
            views, judged = self._views, self._judged
            if judged is not None and self._judged_at == self._changes and not judged.agreement.disputed:
                self._judged = Judged(views, judged.agreement, judged.losers)
            elif judged is None or judged.views is not views:
                agreement = agree(views)
                self._judged = Judged(views, agreement, lost(views, agreement))
                self._judged_at = self._changes
            assert self._judged is not None
            return self._judged
