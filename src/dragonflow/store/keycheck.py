"""Looks whether a pool of keys and the rows that use them agree, and writes the pool anew where they don't. For ``repair``."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

import msgspec

from dragonflow.store.keys import Pool, _Owner, _owner_key, _pool_key, _Slot, _slot_key, _State
from dragonflow.store.protocol import ABSENT, Check, Delete, Key, Put, Record, Txn

S = TypeVar("S", _State, _Slot, _Owner)


class Problem(NamedTuple):
    """What is wrong with the key of ``owner``, or with the pool itself where the owner is its name."""

    owner: str
    difference: str


class Audit:
    """The ``records`` of the scope of ``pool`` against ``used``: the keys that the rows of all living owners carry."""

    def __init__(self, pool: Pool, records: Iterable[Record], used: Mapping[str, int]) -> None:
        self._pool = pool
        self._used = used
        self._records = {record.key: record for record in records}
        self._unreadable: list[Problem] = []
        self._slots: dict[int, _Slot] = {}
        self.held: dict[str, int] = {}
        """Which key the pool says that an owner has."""
        state = None
        for record in self._records.values():
            key = record.key
            if key == _pool_key(pool):
                state = self._decode(record, _State)
            elif key.kind == "KeySlot" and (slot := self._decode(record, _Slot)) and key.id.isdecimal():
                self._slots[int(key.id)] = slot
            elif key.kind == "KeyOwner" and (owner := self._decode(record, _Owner)):
                self.held[key.id] = owner.key
        self._state = state or _State(fresh=pool.first)

    def _decode(self, record: Record, kind: type[S]) -> S | None:
        try:
            return msgspec.json.decode(record.data or b"", type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._unreadable.append(Problem(record.key.id, f"unreadable record {record.key}: {error}"))
            return None

    def problems(self) -> list[Problem]:
        """All that is wrong; empty if pool and rows agree."""
        found = list(self._unreadable)
        by_key: dict[int, str] = {}
        for owner, key in sorted(self._used.items()):
            if key in by_key:
                found.append(Problem(owner, f"key {key} is also that of {by_key[key]}"))
            by_key.setdefault(key, owner)
            held = self.held.get(owner)
            if held != key:
                found.append(Problem(owner, f"the row has key {key}, the pool {'none' if held is None else held}"))
        for owner, key in sorted(self.held.items()):
            if owner not in self._used:
                found.append(Problem(owner, f"leaked: key {key} belongs to nobody who exists"))
            if key not in self._slots or self._slots[key].owner != owner:
                found.append(Problem(owner, f"key {key} is not marked as its own"))
        for number, slot in sorted(self._slots.items()):
            if slot.owner is not None and self.held.get(slot.owner) != number:
                found.append(Problem(slot.owner, f"key {number} is marked as its own, but it does not hold it"))
        if self._queue() is None or any(number >= self._state.fresh for number in self._slots):
            found.append(Problem(self._pool.name, "the queue of free keys is broken"))
        return found

    def _queue(self) -> list[int] | None:
        """The free keys in the order in which they will be given out; None if the queue is broken."""
        queue: list[int] = []
        number = self._state.oldest
        while number is not None:
            slot = self._slots.get(number)
            if slot is None or slot.owner is not None or len(queue) > len(self._slots):
                return None
            queue.append(number)
            number = slot.next
        free = {number for number, slot in self._slots.items() if slot.owner is None}
        end = queue[-1] if queue else None
        return queue if set(queue) == free and end == self._state.youngest else None

    def rebuild(self) -> tuple[Txn, dict[str, int]]:
        """The transaction that makes the pool right, and the keys that owners have afterwards.

        Of two who share a key, the one keeps it of whom the pool says so, else the first by name; the other gets the one that the
        pool says is its own, if there is one. The transaction fails if anybody took or gave back a key meanwhile.
        """
        keys: dict[str, int] = {}
        taken: dict[int, str] = {}
        agreed = {owner: key for owner, key in self._used.items() if self.held.get(owner) == key}
        for said in (agreed, self.held, self._used):
            for owner, key in sorted(said.items()):
                known = owner in self._used and owner not in keys
                if known and key not in taken and self._pool.first <= key <= self._pool.last:
                    keys[owner], taken[key] = key, owner
        fresh = max([self._state.fresh, *(number + 1 for number in (*taken, *self._slots))])
        for owner in sorted(self._used.keys() - keys.keys()):
            keys[owner], taken[fresh] = fresh, owner
            fresh += 1
        order = {number: place for place, number in enumerate(self._queue() or ())}
        free = sorted(set(range(self._pool.first, fresh)) - taken.keys(), key=lambda n: (order.get(n, len(order)), n))
        state = _State(fresh, free[0] if free else None, free[-1] if free else None)
        wanted = {_pool_key(self._pool): msgspec.json.encode(state)}
        wanted |= {_owner_key(self._pool, owner): msgspec.json.encode(_Owner(key)) for owner, key in keys.items()}
        wanted |= {_slot_key(self._pool, key): msgspec.json.encode(_Slot(owner)) for key, owner in taken.items()}
        for number, after in itertools.zip_longest(free, free[1:]):
            wanted[_slot_key(self._pool, number)] = msgspec.json.encode(_Slot(None, after))
        puts: list[Put | Delete] = [Put(key, data) for key, data in wanted.items() if not self._holds(key, data)]
        writes = (*puts, *(Delete(key) for key in self._records.keys() - wanted.keys()))
        # Whoever takes or gives back a key writes the pool's own record, so one check guards them all.
        guard = self._records.get(_pool_key(self._pool))
        return Txn(writes, (Check(_pool_key(self._pool), ABSENT if guard is None else guard.revision),)), keys

    def _holds(self, key: Key, data: bytes) -> bool:
        record = self._records.get(key)
        return record is not None and record.data == data
