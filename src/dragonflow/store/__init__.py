"""The DF DB: ``protocol`` says what every driver does, ``open_store`` finds the driver for a URL."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from dragonflow.store import memory, sqlite
from dragonflow.store.protocol import Store, StoreError

__all__ = ["UnknownStore", "open_store"]


class UnknownStore(StoreError):
    """The URL names no DF DB that this version knows."""


def open_store(url: str, *, create: bool = True) -> Store:
    """The DF DB of a URL: ``sqlite:///ABSOLUTE/PATH``, or ``memory://NAME`` within one process. No I/O happens yet.

    Without ``create``, as commands that only look want it, a DF DB that is not there is ``Unavailable`` instead of made.

    :raises UnknownStore: with what to write in the option ``[df] store_url``.
    """
    driver, separator, rest = url.partition("://")
    match driver:
        case "sqlite" if separator and rest.startswith("/") and len(rest) > 1 and "?" not in rest:
            return sqlite.SqliteStore(Path(unquote(rest)), create=create)
        case "memory" if separator and rest:
            return memory.MemoryStore(memory.named(rest))
    raise UnknownStore(
        f"[df] store_url = {url!r} is no DF DB that this version knows; write sqlite:///ABSOLUTE/PATH "
        "(or memory://NAME within one process)"
    )
