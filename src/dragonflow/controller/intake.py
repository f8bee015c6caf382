"""The door for rows: what the feed brings is decoded, checked and put into the replica.

A row that can't be read counts as absent: forwarding waits and security drops, until a good one takes its place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from dragonflow.controller.replica import Replica
from dragonflow.model import KINDS, CodecError, Row, decode
from dragonflow.observe import metrics
from dragonflow.store.feed import Changes, Feed, ScopeReset
from dragonflow.store.protocol import Key, Record

LOG = logging.getLogger(__name__)


class Intake:
    """Moves the rows of the followed scopes into the replica and calls ``on_news`` after each batch.

    ``arrived`` are the followed scopes whose rows are in the replica; ``refused`` are the rows that could not be read, and why.
    """

    def __init__(self, feed: Feed, replica: Replica, on_news: Callable[[], None]) -> None:
        self._feed = feed
        self._replica = replica
        self._on_news = on_news
        self._followed: set[str] = set()
        self.arrived: set[str] = set()
        self.refused: dict[Key, str] = {}

    async def follow(self, scopes: Collection[str]) -> None:
        """Follow exactly these scopes from now on; rows of others leave the replica."""
        wanted = set(scopes)
        for scope in self._followed - wanted:
            self._feed.drop([scope])
            self._replica.drop_scope(scope)
            self._forget_refusals(scope)
            self.arrived.discard(scope)
        added = wanted - self._followed
        self._followed = wanted
        if added:
            await self._feed.add(added)

    @property
    def revision(self) -> int:
        """The store revision up to which everything has been taken in."""
        return self._feed.revision

    @property
    def outage(self) -> str | None:
        """Why the DF DB can't be read now; None while it can."""
        error = self._feed.last_error
        return None if error is None else str(error)

    async def run(self) -> None:
        """Take in news until cancelled."""
        try:
            async for news in self._feed:
                if isinstance(news, ScopeReset):
                    self._reset(news)
                else:
                    self._change(news)
                self._on_news()
        finally:
            await self._feed.aclose()

    def _reset(self, news: ScopeReset) -> None:
        if news.scope not in self._followed:
            return
        self._forget_refusals(news.scope)
        rows = [(row, record.revision) for record in news.records if (row := self._read(record)) is not None]
        if not self._replica.reset_scope(news.scope, rows, news.revision):
            LOG.warning(
                "scope %s went back to revision %d (a restored DF DB?); taking it as it is", news.scope, news.revision
            )
            self._replica.drop_scope(news.scope)
            self._replica.reset_scope(news.scope, rows, news.revision)
        self.arrived.add(news.scope)

    def _change(self, news: Changes) -> None:
        for record in news.records:
            if record.key.scope not in self._followed:
                continue
            row = self._read(record)
            if row is not None:
                self._replica.upsert(row, record.revision)
            elif kind := KINDS.get(record.key.kind):
                self._replica.remove(kind, record.key.id, record.revision, record.key.scope)

    def _read(self, record: Record) -> Row | None:
        self.refused.pop(record.key, None)
        if record.data is None:
            return None
        try:
            return decode(record.key.kind, record.key.id, record.data, record.key.scope)
        except CodecError as error:
            LOG.error("row refused: %s", error)
            metrics.ROWS_REFUSED.labels(record.key.kind if record.key.kind in KINDS else "unknown").inc()
            self.refused[record.key] = str(error)
            return None

    def _forget_refusals(self, scope: str) -> None:
        for key in [key for key in self.refused if key.scope == scope]:
            del self.refused[key]
