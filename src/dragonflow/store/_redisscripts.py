"""The Lua scripts under ``store/redis.py``, and what their answers mean. They themselves lie in ``redis_lua``."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from dragonflow.store._common import refuse_lost
from dragonflow.store.protocol import Key, Record, StoreCorrupt

LAYOUT = 1
"""The number of the keys' layout, kept in the DF DB; another one is refused."""

LEAP = 1 << 30
"""Revisions that a new master leaves out (see write.lua): one that answers from half as far behind is master no more."""


class Script(NamedTuple):
    text: str
    sha: str


@cache
def script(name: str) -> Script:
    """A script with its head, ready for Redis."""
    lua = files("dragonflow.store") / "redis_lua"
    reads = name in ("get", "read")
    parts = ("head", "look" if reads else "write", name)
    text = "\n".join((lua / f"{part}.lua").read_text() for part in parts)
    text = ("#!lua flags=no-writes\n" if reads else "#!lua\n") + text
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class Head(NamedTuple):
    """How the store stood in a reading. ``due`` and ``age``, in ms, are None if there are no leases; see look.lua."""

    identity: str
    layout: str
    revision: int
    forgotten: int
    due: int | None
    age: int | None

    @classmethod
    def of(cls, raw: list[Any]) -> Head:
        identity, layout, *rest = raw
        return cls((identity or b"").decode(), (layout or b"").decode(), *rest)


class Page(NamedTuple):
    """What one script read; see read.lua."""

    head: Head
    rest: list[tuple[str, int]]
    records: list[Record]

    @classmethod
    def of(cls, head: Head, reply: list[Any]) -> Page:
        """From what follows the head in the answer of read.lua. :raises StoreCorrupt: somebody else wrote it."""
        rest, *rows = reply
        return cls(
            head,
            [(scope.decode(), int(told)) for scope, told in zip(rest[::2], rest[1::2], strict=True)],
            [each for scope, taken in zip(rows[::2], rows[1::2], strict=True) for each in _records(scope, taken)],
        )

    def refuse_lost(self, after: Mapping[str, int]) -> None:
        """:raises Compacted: what is to be told is forgotten, or there was a fail-over since, which may have lost what is known.

        A reader may know more than its watch has told: its own commits. What a fail-over lost of them, only reading all shows.
        """
        refuse_lost(after, self.head.forgotten, self.head.revision)


def field(key: Key) -> bytes:
    """The name of a record within its scope."""
    return f"{key.kind}\0{key.id}".encode()


def _records(scope: bytes, taken: list[Any]) -> Iterator[Record]:
    name = scope.decode()
    for field, revision, data in zip(taken[::3], taken[1::3], taken[2::3], strict=True):
        kind, separator, identity = field.decode().partition("\0")
        if not separator:
            raise StoreCorrupt(
                f"Redis holds a row of scope {name!r} that Dragonflow did not write: {field!r}; delete it"
            )
        yield Record(Key(name, sys.intern(kind), identity), data, int(revision))
