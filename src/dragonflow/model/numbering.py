"""Small numbers for names, where a field of a flow can't hold the name: a function of the set of names, without a memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b


class Numbering:
    """Gives each name a number within ``first`` … ``last`` that no other name has.

    That is the name's hash; of names whose hashes collide those that come later in the order take the next that is free. So a
    name changes its number only when another comes or goes whose hash lies beside its own, and who begins anew with the same
    names finds the same numbers.
    """

    def __init__(self, first: int, last: int) -> None:
        self._first, self._size = first, last - first + 1
        self._numbers: dict[str, int] = {}
        self._liked: dict[int, set[str]] = {}
        self._crowded = 0
        """How many pairs of names like the same number."""

    def __getitem__(self, name: str) -> int:
        return self._numbers[name]

    def change(self, come: Iterable[str] = (), gone: Iterable[str] = ()) -> Mapping[str, int | None]:
        """Let names come and others go. Returns the numbers that changed thereby; None: the name has none any more.

        :raises ValueError: more names than numbers.
        """
        before, simple, touched = self._numbers, not self._crowded, set[str]()
        for name in gone:
            liked = self._liked[self._like(name)]
            liked.remove(name)
            self._crowded -= len(liked)
            if not liked:
                del self._liked[self._like(name)]
            touched.add(name)
        for name in come:
            liked = self._liked.setdefault(self._like(name), set())
            self._crowded += len(liked)
            liked.add(name)
            touched.add(name)
        if simple and not self._crowded:
            changed: dict[str, int | None] = {}
            for name in touched:
                now = self._like(name) if name in self._liked.get(self._like(name), ()) else None
                if now != before.get(name):
                    changed[name] = now
        else:
            after = self._spread()
            changed = {name: after.get(name) for name in before.keys() | after if after.get(name) != before.get(name)}
        for name, number in changed.items():
            if number is None:
                del self._numbers[name]
            else:
                self._numbers[name] = number
        return changed

    def _like(self, name: str) -> int:
        return self._first + int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") % self._size

    def _spread(self) -> dict[str, int]:
        found: dict[str, int] = {}
        taken: set[int] = set()
        for liked in sorted(self._liked):
            for name in sorted(self._liked[liked]):
                if len(taken) == self._size:
                    raise ValueError(f"more names than the {self._size} numbers from {self._first} on")
                number = liked
                while number in taken:
                    number = self._first + (number - self._first + 1) % self._size
                taken.add(number)
                found[name] = number
        return found
