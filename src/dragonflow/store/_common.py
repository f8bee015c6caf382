"""What every driver checks alike before it does any work: keys, transactions and patterns of scopes."""

from __future__ import annotations

from collections.abc import Collection

from dragonflow.store.protocol import EVERYTHING, Delete, Key, Put, Txn, check_key


class Scopes:
    """The scopes of one snapshot or watch: exact names, and prefixes that were written with a star at the end."""

    __slots__ = ("exact", "prefixes")

    def __init__(self, scopes: Collection[str]) -> None:
        if isinstance(scopes, str):
            raise TypeError(f"scopes must be a collection of names, not the one string {scopes!r}")
        for scope in scopes:
            if not scope or "\0" in scope or "*" in scope[:-1]:
                raise ValueError(f"{scope!r} is no scope: it must not be empty, and a star may stand only at its end")
        self.exact = frozenset(scope for scope in scopes if not scope.endswith(EVERYTHING))
        self.prefixes = tuple(sorted({scope[:-1] for scope in scopes if scope.endswith(EVERYTHING)}))

    def __contains__(self, scope: str) -> bool:
        return scope in self.exact or scope.startswith(self.prefixes)


def check_txn(txn: Txn) -> None:
    """:raises ValueError: a key is not valid or is written twice."""
    seen: set[Key] = set()
    for write in txn.writes:
        check_key(write.key)
        if write.key in seen:
            raise ValueError(f"{write.key}: written twice in one transaction")
        seen.add(write.key)
    for check in txn.checks:
        check_key(check.key)


def leases_of(writes: Collection[Put | Delete]) -> frozenset[str]:
    """The leases that some of the writes are attached to."""
    return frozenset(write.lease for write in writes if isinstance(write, Put) and write.lease is not None)
