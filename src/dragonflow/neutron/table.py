"""The rows of some scopes as a feed tells them, decoded, for threads to look at."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

from dragonflow.model import CodecError, Row, decode
from dragonflow.store.feed import Changes, ScopeReset
from dragonflow.store.protocol import Key, Record

LOG = logging.getLogger(__name__)

R = TypeVar("R", bound=Row)


class Table(Generic[R]):
    """Rows of the given types by their keys. A row that can't be read counts as absent, is logged and counted in ``refused``."""

    def __init__(self, *types: type[R]) -> None:
        self._types = {kind.__name__: kind for kind in types}
        self._rows: dict[Key, R] = {}
        self._keys: dict[str, set[Key]] = {}
        self._lock = threading.Lock()
        self.refused = 0

    def apply(self, news: ScopeReset | Changes) -> set[Key]:
        """Take in what a feed tells. Returns the keys of what is, or may be, different now."""
        fresh = {record.key: self._read(record) for record in news.records if record.key.kind in self._types}
        with self._lock:
            if isinstance(news, ScopeReset):
                prefix, star = news.scope.removesuffix("*"), news.scope.endswith("*")
                for key in list(self._rows):
                    if key not in fresh and (key.scope.startswith(prefix) if star else key.scope == news.scope):
                        fresh[key] = None
            for key, row in fresh.items():
                self._set(key, row)
        return set(fresh)

    def get(self, key: Key) -> R | None:
        """One row."""
        with self._lock:
            return self._rows.get(key)

    def named(self, id: str) -> list[R]:
        """The rows with this id, in whichever scopes; in no order."""
        with self._lock:
            return [self._rows[key] for key in self._keys.get(id, ())]

    def __iter__(self) -> Iterator[R]:
        with self._lock:
            return iter(list(self._rows.values()))

    def _set(self, key: Key, row: R | None) -> None:
        keys = self._keys.setdefault(key.id, set())
        if row is None:
            self._rows.pop(key, None)
            keys.discard(key)
        else:
            self._rows[key] = row
            keys.add(key)
        if not keys:
            del self._keys[key.id]

    def _read(self, record: Record) -> R | None:
        if record.data is None:
            return None
        try:
            row = decode(record.key.kind, record.key.id, record.data, record.key.scope)
        except CodecError as error:
            self.refused += 1
            LOG.error("df: row ignored (%d so far): %s", self.refused, error)
            return None
        return row  # type: ignore[return-value]  # the key's kind is one of our types, and decode goes by it
