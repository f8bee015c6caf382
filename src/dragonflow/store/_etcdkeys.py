"""How the records' keys are written in etcd: ``/PREFIX/scope/kind/id``, as etcd's own tools and roles have them.

A slash within a scope or kind is written ``%2F``, and a percent sign ``%25``. As each character is written by itself, the
records of a scope, and those of all scopes that begin with a text, lie side by side: each is one range of keys.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

from dragonflow.store._common import Scopes
from dragonflow.store.protocol import EVERYTHING, Key, check_key

Range = tuple[bytes, bytes]
"""First key, and the one after the last."""


class Keys:
    """The keys below one prefix. ``root`` is ``/PREFIX/``: no record has that key, but who may read may read it."""

    def __init__(self, prefix: str) -> None:
        self.root = f"/{prefix}/".encode()

    def encode(self, key: Key) -> bytes:
        """The key in etcd of a valid key."""
        return self.root + f"{_escape(key.scope)}/{_escape(key.kind)}/{key.id}".encode()

    def decode(self, raw: bytes) -> Key | None:
        """The key of a record; None for what somebody else wrote below our prefix."""
        first = raw.find(b"/", len(self.root))
        second = raw.find(b"/", first + 1)
        if first < 0 or second < 0:
            return None
        try:
            key = Key(_part(raw[len(self.root) : first]), _part(raw[first + 1 : second]), raw[second + 1 :].decode())
        except ValueError:
            return None
        return key if key.id and "\0" not in key.id else None

    def range(self, scope: str) -> Range:
        """Where the records of a scope, or of all scopes that begin with a text, lie."""
        start = self.root + (_escape(scope[:-1]) if scope.endswith(EVERYTHING) else f"{_escape(scope)}/").encode()
        return start, start[:-1] + bytes((start[-1] + 1,))  # UTF-8 has no byte 255

    def ranges(self, scopes: Collection[str]) -> list[Range]:
        """Where the records of all these scopes lie, each once. :raises ValueError: a scope is none."""
        wanted = Scopes(scopes)
        found: list[Range] = []
        everything = [*wanted.exact, *(prefix + EVERYTHING for prefix in wanted.prefixes)]
        for start, end in sorted(map(self.range, everything)):
            if not found or start >= found[-1][1]:  # ranges lie within each other or apart
                found.append((start, end))
        return found


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("/", "%2F")


@lru_cache(maxsize=8192)  # few scopes and kinds have many records, and so share their names' memory
def _part(raw: bytes) -> str:
    """:raises ValueError: this is not how we write a scope or a kind."""
    text = raw.decode()
    plain = text.replace("%2F", "/").replace("%25", "%")
    if _escape(plain) != text:
        raise ValueError(text)
    check_key(Key(plain, plain, plain))
    return plain
