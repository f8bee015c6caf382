"""Optimistic transactions over several rows: read what you need, say what to write, and try again if somebody was faster.

Every record that was read through a draft becomes a check of its transaction. So what was decided on those reads is written
only if they still hold, whatever driver is underneath.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from dragonflow.store.feed import Backoff
from dragonflow.store.protocol import ABSENT, Check, Conflict, Delete, Key, Put, Record, Store, Txn

T = TypeVar("T")

_BACKOFF = Backoff(first=0.002, most=0.1)


class Draft:
    """A transaction that is being written. It sees its own writes; a later write of a key takes the earlier one's place."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read: dict[Key, Record | None] = {}
        self._writes: dict[Key, Put | Delete] = {}

    async def get(self, key: Key) -> bytes | None:
        """What the key holds, or None; the transaction will fail if another changes that meanwhile."""
        write = self._writes.get(key)
        if write is not None:
            return write.data if isinstance(write, Put) else None
        if key not in self._read:
            self._read[key] = await self._store.get(key)
        record = self._read[key]
        return None if record is None else record.data

    def put(self, key: Key, data: bytes, lease: str | None = None) -> None:
        """Write a record."""
        self._writes[key] = Put(key, data, lease)

    def delete(self, key: Key) -> None:
        """Remove a record, if it is there."""
        self._writes[key] = Delete(key)

    @property
    def checks(self) -> tuple[Check, ...]:
        """What was read, as conditions."""
        return tuple(Check(key, ABSENT if record is None else record.revision) for key, record in self._read.items())

    @property
    def writes(self) -> tuple[Put | Delete, ...]:
        """What is to be written."""
        return tuple(self._writes.values())

    def txn(self) -> Txn:
        """All of it."""
        return Txn(self.writes, self.checks)


async def transact(store: Store, build: Callable[[Draft], Awaitable[T]], attempts: int = 50) -> tuple[T, Draft, int]:
    """Have ``build`` write a draft and commit it; if somebody was faster, from the beginning, after a short random pause.

    ``build`` may run several times, so it must do nothing but use the draft. It reads records one after the other, and what
    was written in between can make sound ones contradict each other: what it raises counts only if all its reads still hold.
    Returns what it returned, the draft that was committed, and its revision.

    :raises Conflict: the last of so many attempts failed too.
    """
    for failures in range(1, attempts + 1):
        try:
            return await _attempt(store, Draft(store), build)
        except Conflict:
            if failures == attempts:
                raise
        await asyncio.sleep(_BACKOFF.delay(failures, 0) * random.random())
    raise ValueError("attempts must be at least 1")


async def _attempt(store: Store, draft: Draft, build: Callable[[Draft], Awaitable[T]]) -> tuple[T, Draft, int]:
    try:
        result = await build(draft)
    except Exception:
        await store.commit(Txn((), draft.checks))
        raise
    return result, draft, await store.commit(draft.txn())
