"""Small integers that are unique in a region, for the fields of packets and tables that can't hold a UUID.

A key is taken and given back in the caller's own transaction, so an object's row and its key appear and vanish in one commit.
Nobody ever shares a key with another, and of the keys that were given back the one that has been free longest is given out
next, so that whoever still remembers an old owner has had time to learn better.

Of a pool there are three kinds of records, in the scope ``keys:<pool>``: ``KeyPool`` (how far the pool was ever used, first
and last of the queue of free keys), ``KeySlot`` (one per key ever used: its owner, or the next in the queue), and ``KeyOwner``
(the key of an owner). Each step touches a fixed number of them, and drafts that collide are tried again (``transact``).
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import msgspec

from dragonflow.store.draft import Draft
from dragonflow.store.protocol import Key, StoreCorrupt, StoreError


class Pool(NamedTuple):
    """A range of keys, both ends included."""

    name: str
    first: int
    last: int

    @property
    def scope(self) -> str:
        """Where the pool's records lie."""
        return f"keys:{self.name}"


NETWORK = Pool("network", 1, 2**24 - 1)
"""Keys of networks: as many as a VNI has values."""

PORT = Pool("port", 1, 2**30 - 1)
"""Keys of ports. Ids of buckets and meters are made of them, with a bit or two above."""

ROUTER = Pool("router", 1, 2**24 - 1)
"""Keys of routers."""


class Exhausted(StoreError):
    """All keys of the pool are taken."""


class _State(msgspec.Struct, frozen=True, tag_field="schema", tag="KeyPool/1"):
    fresh: int
    oldest: int | None = None
    youngest: int | None = None


class _Slot(msgspec.Struct, frozen=True, tag_field="schema", tag="KeySlot/1"):
    owner: str | None
    next: int | None = None


class _Owner(msgspec.Struct, frozen=True, tag_field="schema", tag="KeyOwner/1"):
    key: int


S = TypeVar("S", _State, _Slot, _Owner)


async def find(draft: Draft, pool: Pool, owner: str) -> int | None:
    """The owner's key, if it has one."""
    held = await _read(draft, _owner_key(pool, owner), _Owner)
    return None if held is None else held.key


async def allocate(draft: Draft, pool: Pool, owner: str) -> int:
    """The owner's key: the one it has, or a free one.

    :raises Exhausted: there is no free key left.
    :raises StoreCorrupt: the pool's records contradict each other.
    """
    held = await find(draft, pool, owner)
    if held is not None:
        return held
    state = await _read(draft, _pool_key(pool), _State) or _State(fresh=pool.first)
    if state.oldest is not None:
        number = state.oldest
        slot = await _read(draft, _slot_key(pool, number), _Slot)
        if slot is None or slot.owner is not None or (slot.next is None) != (number == state.youngest):
            raise _contradiction(pool, f"key {number} stands in the queue of free keys but is {slot}")
        state = _State(state.fresh, slot.next, state.youngest if slot.next is not None else None)
    elif state.fresh <= pool.last:
        number = state.fresh
        slot = await _read(draft, _slot_key(pool, number), _Slot)
        if slot is not None:
            raise _contradiction(pool, f"key {number} was never given out but is {slot}")
        state = _State(number + 1)
    else:
        raise Exhausted(f"all {pool.last - pool.first + 1} keys of the pool {pool.name!r} are taken; {owner} gets none")
    _write(draft, _pool_key(pool), state)
    _write(draft, _slot_key(pool, number), _Slot(owner))
    _write(draft, _owner_key(pool, owner), _Owner(number))
    return number


async def release(draft: Draft, pool: Pool, owner: str) -> int | None:
    """Give the owner's key back and return it; None if it has none. :raises StoreCorrupt: see ``allocate``."""
    number = await find(draft, pool, owner)
    if number is None:
        return None
    slot = await _read(draft, _slot_key(pool, number), _Slot)
    state = await _read(draft, _pool_key(pool), _State)
    if state is None or slot is None or slot.owner != owner:
        raise _contradiction(pool, f"{owner} has key {number}, which is {slot}")
    if state.youngest is not None:
        last = await _read(draft, _slot_key(pool, state.youngest), _Slot)
        if last is None or last.owner is not None or last.next is not None:
            raise _contradiction(pool, f"key {state.youngest} ends the queue of free keys but is {last}")
        _write(draft, _slot_key(pool, state.youngest), _Slot(None, number))
    oldest = number if state.oldest is None else state.oldest
    _write(draft, _pool_key(pool), _State(state.fresh, oldest, number))
    _write(draft, _slot_key(pool, number), _Slot(None))
    draft.delete(_owner_key(pool, owner))
    return number


def _pool_key(pool: Pool) -> Key:
    return Key(pool.scope, "KeyPool", pool.name)


def _slot_key(pool: Pool, number: int) -> Key:
    return Key(pool.scope, "KeySlot", str(number))


def _owner_key(pool: Pool, owner: str) -> Key:
    return Key(pool.scope, "KeyOwner", owner)


async def _read(draft: Draft, key: Key, kind: type[S]) -> S | None:
    data = await draft.get(key)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StoreCorrupt(f"{key}: {error}; run 'dragonflow repair --fix'") from error


def _write(draft: Draft, key: Key, value: _State | _Slot | _Owner) -> None:
    draft.put(key, msgspec.json.encode(value))


def _contradiction(pool: Pool, what: str) -> StoreCorrupt:
    return StoreCorrupt(f"the pool {pool.name!r} of keys: {what}; run 'dragonflow repair --fix'")
