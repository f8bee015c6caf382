"""Small numbers for names, where a field of a flow can't hold the name: a function of the set of names, without a memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import NamedTuple


class Numbering:
    """Gives each name a number within ``first`` … ``last`` that no other name has.

    That is the name's hash, or the next that is free: a hash table with linear probing. Who stands at a number gives way to names
    that rank before it (by another part of the hash), and looks further. So the numbers don't depend on the order in which names
    came (Blelloch, Golovin: Strongly History-Independent Hashing, 2007), who begins anew with the same names finds the same
    numbers, and when a name comes or goes only those change that lie between it and the next free number.
    """

    def __init__(self, first: int, last: int) -> None:
        self._first, self._size = first, last - first + 1
        self._names: dict[int, _Name] = {}
        self._numbers: dict[str, int] = {}

    def __getitem__(self, name: str) -> int:
        return self._numbers[name]

    def change(self, come: Iterable[str] = (), gone: Iterable[str] = ()) -> Mapping[str, int | None]:
        """Let names come and others go. Returns the numbers that changed thereby; None: the name has none any more.

        :raises ValueError: more names than numbers; those that are too many have none.
        """
        before = dict[str, int | None]()
        for name in gone:
            self._take_out(name, before)
        for name in come:
            if len(self._numbers) == self._size:
                raise ValueError(f"more names than the {self._size} numbers from {self._first} on")
            self._put_in(self._ranked(name), before)
        return {name: now for name, was in before.items() if (now := self._numbers.get(name)) != was}

    def _ranked(self, name: str) -> _Name:
        hashed = blake2b(name.encode(), digest_size=16).digest()
        liked = self._first + int.from_bytes(hashed[:8], "big") % self._size
        return _Name(hashed[8:], name, liked)

    def _put_in(self, it: _Name, before: dict[str, int | None]) -> None:
        number = it.liked
        while (there := self._names.get(number)) is not None:
            if it < there:
                self._set(number, it, before)
                it = there
            number = self._after(number)
        self._set(number, it, before)

    def _take_out(self, name: str, before: dict[str, int | None]) -> None:
        """Those behind it, up to the next free number, look for their places anew."""
        number = self._numbers[name]
        self._drop(number, before)
        behind = []
        while (number := self._after(number)) in self._names:
            behind.append(self._drop(number, before))
        for it in behind:
            self._put_in(it, before)

    def _after(self, number: int) -> int:
        return self._first + (number - self._first + 1) % self._size

    def _set(self, number: int, it: _Name, before: dict[str, int | None]) -> None:
        before.setdefault(it.name, self._numbers.get(it.name))
        self._names[number], self._numbers[it.name] = it, number

    def _drop(self, number: int, before: dict[str, int | None]) -> _Name:
        it = self._names.pop(number)
        before.setdefault(it.name, self._numbers.pop(it.name))
        return it


class _Name(NamedTuple):
    """A name with its rank, which is less for those that others give way to, and the number it likes best."""

    rank: bytes
    name: str
    liked: int
