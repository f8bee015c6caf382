"""Brings one object's rows in the DF DB in line with Neutron, whoever else does the same at the same time.

The DF DB's row is read first, Neutron second, and the commit checks that the row is still the one that was read: so nobody
overwrites a newer state with an older one. Doing it twice changes nothing. One hole remains: who finds nothing to write leaves no
trace, so another who read Neutron before may still write what it read. Therefore whoever wrote looks once more whether
Neutron still has the revision that was written.
"""

from __future__ import annotations

import logging

import msgspec

from dragonflow.model import CodecError, Row, decode, encode
from dragonflow.neutron import translate
from dragonflow.neutron.dfdb import DfDb
from dragonflow.neutron.source import KINDS, POINTER_SCOPES, POINTERS, Kind, RowMaker, Source, pointed
from dragonflow.store import keys
from dragonflow.store.draft import Draft, transact
from dragonflow.store.protocol import ABSENT, Check, Conflict, Key, Record, Store, Txn

LOG = logging.getLogger(__name__)

ATTEMPTS = 20
"""How often to begin anew because others wrote the same rows, before giving the object back to the journal."""


class _Moved(Exception):
    """Somebody wrote the row after it was read."""


class Mirror:
    """Writes to ``dfdb`` what ``source`` says."""

    def __init__(self, dfdb: DfDb, source: Source) -> None:
        self._dfdb = dfdb
        self._source = source

    def sync(self, kind: str, id: str, parent: str, force: bool = False) -> int | None:
        """Make the object's rows what Neutron says now. Returns the store revision, None if nothing had to be written.

        ``parent`` is the network in whose scope the rows lie (a floating IP's: the external); of a router, the router itself.

        With ``force`` also if the object's own row stands right: then key and pointers are written anew with it.

        :raises StoreError: the DF DB failed, or others were always faster (``Conflict``): try later.
        """
        what = KINDS[kind]
        key = Key(what.scope(parent), what.row.__name__, id)
        written: int | None = None
        for attempt in range(1, ATTEMPTS + 1):
            found = self._dfdb.store.get(key)
            make = self._source.load(kind, id)
            old = _read(found)
            stands = old is not None and make is not None and not force and same(old, make(_number(old)))
            if stands or (make is None and found is None):
                if written is None and not self._stays(key, found):
                    continue
                return written
            try:
                written = self._write(what, key, found, make, old)
            except _Moved:
                LOG.debug("df: %s was written by another, attempt %d", key, attempt)
                continue
            force = False
            if self._source.revision(kind, id) == (None if make is None else _revision(make(0))):
                return written
        raise Conflict(key, 0 if found is None else found.revision, -1)

    def _stays(self, key: Key, found: Record | None) -> bool:
        """Whether what was read stands still, and no server's death can bring back what was before."""
        try:
            self._dfdb.store.commit(Txn((), (Check(key, ABSENT if found is None else found.revision),)))
        except Conflict:
            return False
        return True

    def _write(self, what: Kind, key: Key, found: Record | None, make: RowMaker | None, old: Row | None) -> int:
        stale = set() if found is None else self._pointers_of(old, key)

        async def build(draft: Draft) -> None:
            await draft.get(key)
            seen = next(check.revision for check in draft.checks if check.key == key)
            if seen != (0 if found is None else found.revision):
                raise _Moved
            if make is None:
                for gone in (key, *stale):
                    draft.delete(gone)
                if what.pool is not None:
                    await keys.release(draft, what.pool, key.id)
                return
            number = 0 if what.pool is None else await keys.allocate(draft, what.pool, key.id)
            row = make(number)
            wanted = {_key(pointer): encode(pointer) for pointer in translate.pointers(row)}
            for gone in stale - wanted.keys():
                draft.delete(gone)
            draft.put(key, encode(row))
            for pointer, data in wanted.items():
                draft.put(pointer, data)

        async def commit(store: Store) -> tuple[Draft, int]:
            _, draft, revision = await transact(store, build)
            return draft, revision

        draft, revision = self._dfdb.store.call(commit)
        self._dfdb.tell(draft.txn(), revision)
        return revision

    def _pointers_of(self, old: Row | None, key: Key) -> set[Key]:
        """The pointers that stand beside the row: they follow from it, unless it can't be read."""
        if old is not None:
            return {_key(pointer) for pointer in translate.pointers(old)}
        kinds = {name for name, kind in POINTERS.items() if KINDS[kind].row.__name__ == key.kind}
        records = self._dfdb.store.snapshot(POINTER_SCOPES).records if kinds else ()
        return {record.key for record in records if record.key.kind in kinds and pointed(record.key) == key.id}


def _read(found: Record | None) -> Row | None:
    if found is None or found.data is None:
        return None
    try:
        return decode(found.key.kind, found.key.id, found.data)
    except CodecError as error:
        LOG.warning("df: a row that can't be read will be written anew: %s", error)
        return None


def same(one: Row, other: Row) -> bool:
    """Whether the rows say the same. Neutron's revision alone is no difference: it rises with every change of a port's status
    and of a network's subnets, and nobody who reads the row need learn of that."""
    revision = _revision(other)
    return one == other or (_revision(one) != revision and msgspec.structs.replace(one, revision=revision) == other)


def _number(row: Row) -> int:
    return getattr(row, "key", 0)


def _revision(row: Row) -> int:
    return getattr(row, "revision", 0)


def _key(row: Row) -> Key:
    return Key(row.scope, type(row).__name__, row.id)
