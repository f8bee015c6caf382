"""The door for rows: what the feed brings is decoded, checked and put into the replica, when whoever renders is ready for it.

A row that can't be read counts as absent: forwarding waits and security drops, until a good one takes its place. But a DF DB
that isn't whole (see ``Region``) counts as one that is away: nothing of it is taken in, and what was known stays.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence

from dragonflow.controller.replica import Replica
from dragonflow.model import KINDS, REGION_SCOPE, CodecError, Region, Row, decode
from dragonflow.observe import metrics
from dragonflow.store.feed import Backoff, Changes, Feed, ScopeReset
from dragonflow.store.pace import Pace
from dragonflow.store.protocol import Key, Record, Store, StoreError

LOG = logging.getLogger(__name__)

REGION = Key(REGION_SCOPE, Region.__name__, Region(since=0.0).id)

MOST = 4
"""Changes that are taken in at once, but for what was committed with the last of them: about a millisecond of rendering."""

NOT_WHOLE = (
    "is empty or not yet whole: Neutron's server writes it (or 'dragonflow repair --fix'); until then nothing of it is "
    "taken in"
)
"""Of a DF DB without its ``Region``, for logs and operators."""


class Intake:
    """Fetches the rows of the followed scopes and calls ``on_news``; ``take`` moves them into the replica.

    So rows change only between two renderings, and only as many as render in a short while: however many change, what else
    happens on this host has its turn. What a commit wrote in a scope is never taken in by halves. No more changes are fetched
    before the last were taken, for a store tells only the last state of what changes again meanwhile.

    ``arrived`` are the followed scopes whose rows are in the replica; ``refused`` are the rows that could not be read, and why.

    Rows go only where the region's row has stood all the while: it is read with every snapshot, and looked at before a
    deletion is believed, for a watch may tell of it later than of others that were deleted with it. When it was away or is
    another one, everything is read anew, whatever its revisions.
    """

    def __init__(
        self,
        store: Store,
        replica: Replica,
        on_news: Callable[[], None],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._sleep = sleep
        self._feed = Feed(store, anchor=REGION_SCOPE)
        self._replica = replica
        self._on_news = on_news
        self._followed: set[str] = set()
        self._due: set[str] = set()  # followed, and not taken in since the DF DB is whole
        self._region: int | None = None  # the revision of the region's row; 0: there is none; None: not known yet
        self._trouble: StoreError | None = None
        self._fetched: deque[ScopeReset | Sequence[Record]] = deque()
        self._taken = asyncio.Event()
        self._taken.set()
        self.arrived: set[str] = set()
        self.refused: dict[Key, str] = {}

    async def follow(self, scopes: Collection[str]) -> None:
        """Follow exactly these scopes from now on; rows of others leave the replica."""
        wanted = set(scopes)
        for scope in self._followed - wanted:
            self._feed.drop([scope])
            self._replica.drop_scope(scope)
            self._forget_refusals(scope)
            self._due.discard(scope)
            self.arrived.discard(scope)
        self._fetched = deque(it for it in self._fetched if not isinstance(it, ScopeReset) or it.scope in wanted)
        added = wanted - self._followed
        self._followed = wanted
        self._due |= added
        if added and self._region != 0:
            await self._feed.add(added)

    @property
    def revision(self) -> int:
        """The store revision up to which everything has been fetched."""
        return self._feed.revision

    @property
    def not_whole(self) -> bool:
        """The DF DB answers, but nothing of it is taken in, for it isn't whole."""
        return self._region == 0

    @property
    def waiting(self) -> bool:
        """Whether ``take`` is due: there is something to take, or nothing more is fetched before."""
        return bool(self._fetched) or not self._taken.is_set()

    @property
    def in_sync(self) -> bool:
        """All that is followed has been taken in from the DF DB that is there now."""
        return bool(self._region) and not self._due and not self._fetched

    @property
    def outage(self) -> str | None:
        """Why the DF DB can't be read now; None while it can."""
        error = self._trouble or self._feed.last_error
        return None if error is None else str(error)

    async def run(self) -> None:
        """Fetch news until cancelled: one change alone at once; of many that come without end some at a time."""
        pace = Pace()
        try:
            async for news in self._feed:
                if isinstance(news, ScopeReset):
                    if news.scope == REGION_SCOPE:
                        await self._judge(next((record.revision for record in news.records if record.key == REGION), 0))
                    else:
                        self._fetched.append(news)
                    self._on_news()
                    continue
                rest = pace.found(self._replica.clock())
                if await self._may_believe(news):
                    self._fetched.extend(_pieces(news.records))
                self._taken.clear()
                self._on_news()
                await self._taken.wait()
                await self._sleep(rest)
                pace.over = self._replica.clock()
        finally:
            await self._feed.aclose()

    def take(self) -> None:
        """Move what was fetched into the replica; of changes one piece, and if there are more, there is news again."""
        while self._fetched:
            piece = self._fetched.popleft()
            if not isinstance(piece, ScopeReset):
                for record in piece:
                    self._change(record)
                break
            self._reset(piece)
        if self._fetched:
            self._on_news()
        else:
            self._taken.set()

    async def _judge(self, region: int) -> bool:
        """The region's row has this revision (0: there is none). If it was another, all is read anew, and False returned."""
        if region == self._region:
            return True
        first, self._region = self._region is None, region
        if first and region:
            return True
        self._feed.drop(self._followed)
        self._fetched.clear()
        self._due = set(self._followed)
        if region:
            LOG.info("the DF DB is whole now, all of it is read anew")
            await self._feed.add(self._followed)
        else:
            LOG.warning("the DF DB %s, and nothing on the switch is removed", NOT_WHOLE)
        return False

    async def _stands(self) -> bool:
        """Look whether the region's row stands as it was; while nobody answers, there is nothing else to take in either."""
        failures = 0
        while True:
            try:
                found = await self._store.get(REGION)
            except StoreError as error:
                failures += 1
                self._trouble = error
                await asyncio.sleep(Backoff().delay(failures, random.random()))
            else:
                self._trouble = None
                return await self._judge(0 if found is None else found.revision)

    def _reset(self, news: ScopeReset) -> None:
        if news.scope not in self._followed:
            return
        self._forget_refusals(news.scope)
        rows = [(row, record.revision) for record in news.records if (row := self._read(record)) is not None]
        if news.scope in self._due:
            self._due.discard(news.scope)
            self._replica.drop_scope(news.scope)  # it may be from another DF DB, whose revisions say nothing
        if not self._replica.reset_scope(news.scope, rows, news.revision):
            LOG.warning(
                "scope %s went back to revision %d (a restored DF DB?); taking it as it is", news.scope, news.revision
            )
            self._replica.drop_scope(news.scope)
            self._replica.reset_scope(news.scope, rows, news.revision)
        self.arrived.add(news.scope)

    async def _may_believe(self, news: Changes) -> bool:
        """Whether the changes are of the DF DB that is known; if not, all is read anew."""
        region = next((record for record in news.records if record.key == REGION), None)
        if region is not None and not await self._judge(0 if region.data is None else region.revision):
            return False
        return all(record.data is not None for record in news.records) or await self._stands()

    def _change(self, record: Record) -> None:
        if record.key.scope not in self._followed:
            return
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


def _pieces(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    """The records in order, in pieces of not much more than ``MOST``; none ends between two of the same revision."""
    start = 0
    for end in range(1, len(records) + 1):
        if end == len(records) or (end - start >= MOST and records[end].revision != records[end - 1].revision):
            yield records[start:end]
            start = end
