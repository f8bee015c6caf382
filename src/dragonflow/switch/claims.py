"""What owners claim, name by name, and where the switch is known to differ: the ledger's one data structure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class _Several(dict[Any, int]):
    """More than one claim to one name: value → number of claims."""


class Claims(Generic[K, V]):
    """Claims of values to names. Of different values claimed for one name the smallest wins, whatever came first.

    ``unlike`` holds what the switch has (None: nothing) under exactly those names where that isn't what is wanted; so the
    difference to the switch costs as much as what changed. Values must be hashable, comparable and not None.
    """

    def __init__(self) -> None:
        self._claims: dict[K, V | _Several] = {}
        self.contested: dict[K, None] = {}
        self.unlike: dict[K, V | None] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._claims

    def __iter__(self) -> Iterator[K]:
        return iter(self._claims)

    def __len__(self) -> int:
        return len(self._claims)

    def wanted(self, name: K) -> V | None:
        """The winning claim."""
        claim = self._claims.get(name)
        return min(claim) if type(claim) is _Several else claim  # type: ignore[return-value]

    def claimed(self, name: K) -> Iterable[V]:
        """All the values that are claimed for the name, the winner first."""
        claim = self._claims.get(name)
        if claim is None:
            return ()
        return sorted(claim) if type(claim) is _Several else (claim,)  # type: ignore[return-value]

    def on_switch(self, name: K) -> V | None:
        """What the switch has under the name."""
        return self.unlike[name] if name in self.unlike else self.wanted(name)

    def add(self, name: K, value: V) -> None:
        """One claim more."""
        claim = self._claims.get(name)
        if claim is None:
            self._claims[name] = value
            if self.unlike.setdefault(name, None) == value:
                del self.unlike[name]
            return
        before = self.wanted(name)
        if type(claim) is not _Several:
            claim = self._claims[name] = _Several({claim: 1})
        claim[value] = claim.get(value, 0) + 1
        if len(claim) > 1:
            self.contested[name] = None
        self._moved(name, before, min(claim))

    def remove(self, name: K, value: V) -> None:
        """One claim less; it must have been added."""
        claim = self._claims[name]
        if type(claim) is not _Several:
            del self._claims[name]
            self._moved(name, value, None)
            return
        before = min(claim)
        claim[value] -= 1
        if not claim[value]:
            del claim[value]
            if len(claim) == 1:
                self.contested.pop(name, None)
        after = min(claim)
        if len(claim) == 1 and claim[after] == 1:
            self._claims[name] = after
        self._moved(name, before, after)

    def _moved(self, name: K, before: V | None, after: V | None) -> None:
        """What is wanted changed; keep ``unlike`` true to its word."""
        if before == after:
            return
        if name not in self.unlike:
            self.unlike[name] = before
        elif self.unlike[name] == after:
            del self.unlike[name]

    def saw(self, name: K, value: V | None) -> None:
        """The switch has this under the name now."""
        if self.wanted(name) == value:
            self.unlike.pop(name, None)
        else:
            self.unlike[name] = value

    def saw_all(self, found: Mapping[K, V]) -> None:
        """The switch has exactly this."""
        self.unlike = {name: value for name, value in found.items() if self.wanted(name) != value}
        for name in self._claims:
            if name not in found:
                self.unlike[name] = None
