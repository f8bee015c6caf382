"""What every DF DB driver does, and the errors it may raise.

The store keeps opaque bytes under keys and knows nothing of the model. A *revision* is a positive integer that grows by
every commit of the whole store; each record carries the revision of the commit that last wrote it. All of a commit's writes
become visible at once and share its revision.

``conformance.py`` says the same as a test suite; each driver passes it unchanged.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol, Self

import msgspec


class StoreError(Exception):
    """Base of all that a store raises."""


class Unavailable(StoreError):
    """The store can't be reached or is busy; nothing is known of the fate of the request. Try again later."""


class Conflict(StoreError):
    """A check of a transaction failed; nothing was written."""

    def __init__(self, key: Key, expected: int, found: int) -> None:
        super().__init__(f"{key}: expected revision {expected}, found {found}")
        self.key, self.expected, self.found = key, expected, found


class Compacted(StoreError):
    """What was missed of ``scopes`` is no longer kept, or is not worth replaying: take a new snapshot of them."""

    def __init__(self, message: str, scopes: Collection[str]) -> None:
        super().__init__(message)
        self.scopes = frozenset(scopes)


class LeaseExpired(StoreError):
    """The lease is gone, and with it all records that were attached to it."""


class StoreCorrupt(StoreError):
    """The store's own data can't be read; the message says where and what to do."""


EVERYTHING = "*"
"""As a scope to read: all scopes. ``"status:*"`` (any text, then a star) reads all scopes that begin with the text."""


class Key(NamedTuple):
    """The name of a record. A scope ends where the subscriber's interest ends; no part may hold a NUL or be empty."""

    scope: str
    kind: str
    id: str

    def __str__(self) -> str:
        return f"{self.scope}/{self.kind}/{self.id}"


def check_key(key: Key) -> None:
    """:raises ValueError: a part is empty, holds a NUL or can't be UTF-8, or the scope holds a star, which means a pattern."""
    for part in key:
        if not part or "\0" in part:
            raise ValueError(f"{key!r}: no part of a key may be empty or hold a NUL")
        try:
            part.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{key!r}: {error}") from error
    if EVERYTHING in key.scope:
        raise ValueError(f"{key!r}: a star in a scope means a pattern and can't be part of a key")


class Record(msgspec.Struct, frozen=True):
    """A record as stored; ``data`` is None where it says that the record was deleted in ``revision``."""

    key: Key
    data: bytes | None
    revision: int


class Snapshot(msgspec.Struct, frozen=True):
    """All living records of the asked scopes, as they stood together at ``revision``."""

    revision: int
    records: tuple[Record, ...]


class Changes(msgspec.Struct, frozen=True):
    """What changed in watched scopes, in order of revision; none of it is younger than ``revision``.

    Each scope is told in order, and what a commit wrote in one scope is never split over two. Different scopes may be told apart:
    who must see two records change together puts them into one scope, or compares them. Several commits may come in one. Of a
    record written twice in between, a driver may tell only the last state.
    """

    revision: int
    records: tuple[Record, ...]


ABSENT = 0
"""As the expected revision of a check: the record must not exist."""


class Check(NamedTuple):
    """A condition of a transaction: the record's revision is exactly this (or ``ABSENT``)."""

    key: Key
    revision: int


class Put(NamedTuple):
    """Write a record; with a lease it lives no longer than the lease."""

    key: Key
    data: bytes
    lease: str | None = None


class Delete(NamedTuple):
    """Remove a record; removing what is not there is no error."""

    key: Key


class Txn(msgspec.Struct, frozen=True):
    """All or nothing: if every check holds, every write is done. No key may be written twice.

    What was committed stays, whatever server dies, and so does what a transaction without writes has checked. What is only read
    may yet be lost where a store takes a write in before it is safe (Redis): check it before you leave something undone for it.
    """

    writes: tuple[Put | Delete, ...]
    checks: tuple[Check, ...] = ()


class Watch(Protocol):
    """News of a changing set of scopes, told at once and for ever. For one reader, on one event loop.

    Iterating may be cancelled and taken up again without loss, and so it may after ``Unavailable``: the watch then resumes by
    itself where it was. Only what it names in ``Compacted`` has to be read anew, and be asked for again with ``add``.
    """

    def add(self, after: Mapping[str, int]) -> None:
        """Tell of each of these scopes what changes after its revision, from the next ``anext`` on.

        Scopes are exact names, or prefixes ending in a star; one that is watched already begins anew. The revision is that of
        a snapshot of the scope.
        """
        ...

    def drop(self, scopes: Collection[str]) -> None:
        """Tell of these scopes, each written as it was added, no more."""
        ...

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> Changes:
        """Wait for changes. Ends when the store or the watch was closed.

        :raises Compacted: the changes of the scopes it names are no longer kept; it tells of them no more.
        :raises Unavailable: the store can't be reached.
        """
        ...

    async def aclose(self) -> None:
        """Let go of what the watch holds; a reader that waits is told the end."""
        ...


class Store(Protocol):
    """A DF DB. Every method may raise ``Unavailable``; none blocks the event loop.

    A method that was cancelled or raised ``Unavailable`` in ``commit`` may or may not have written: read, then decide.
    """

    async def snapshot(self, scopes: Collection[str]) -> Snapshot:
        """All records of the scopes (exact names, or prefixes ending in ``*``) at one revision."""
        ...

    def watch(self, after: Mapping[str, int]) -> Watch:
        """A watch that begins with these scopes; see ``Watch.add``. No I/O happens yet.

        :raises ValueError: a scope is none.
        """
        ...

    async def get(self, key: Key) -> Record | None:
        """One record, or None."""
        ...

    async def commit(self, txn: Txn) -> int:
        """Carry out a transaction and return its revision.

        :raises Conflict: a check failed; nothing was written.
        :raises LeaseExpired: a write names a lease that is gone; nothing was written.
        """
        ...

    async def grant_lease(self, ttl: float) -> str:
        """A new lease that expires ``ttl`` seconds after it was last kept alive."""
        ...

    async def keep_alive(self, lease: str) -> None:
        """Renew a lease for its full time. :raises LeaseExpired: it is gone."""
        ...

    async def revoke(self, lease: str) -> None:
        """End a lease now; its records are deleted. Revoking what is gone is no error."""
        ...

    @property
    def needs_hints(self) -> bool:
        """Whether watches are told of news sooner by ``hint``. Else nobody need listen for news in order to give any."""
        ...

    def hint(self) -> None:
        """Somebody says that there is news (see pubsub): watchers look now instead of at their next turn."""
        ...

    async def close(self) -> None:
        """Let go of connections and files; watches end. Leases stay until they expire."""
        ...
