"""The DF DB: ``protocol`` says what every driver does, ``open_store`` finds the driver for a URL."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from dragonflow import secrecy
from dragonflow.store import memory, sqlite
from dragonflow.store._url import UnknownStore
from dragonflow.store.protocol import Store

__all__ = ["UnknownStore", "open_store"]


def open_store(url: str, *, create: bool = True) -> Store:
    """The DF DB of a URL. No I/O happens yet. These there are::

        sqlite:///ABSOLUTE/PATH
        etcd://[USER@]HOST:PORT[,HOST:PORT…]/PREFIX[?password_file=FILE]          etcd+tls://… with ca, cert and key
        redis://[USER@]HOST:PORT[/DB][?password_file=FILE][&wait=N]               redis+tls://…, redis+unix://…, redis+sentinel://…
        memory://NAME                                                             within one process

    Without ``create``, as commands that only look want it, an SQLite file that is not there is ``Unavailable`` instead of made.

    :raises UnknownStore: with what to write in the option ``[df] store_url``.
    """
    driver, separator, rest = url.partition("://")
    match driver.split("+"):
        case ["sqlite"] if separator and rest.startswith("/") and len(rest) > 1 and "?" not in rest:
            return sqlite.SqliteStore(Path(unquote(rest)), create=create)
        case ["memory"] if separator and rest:
            return memory.MemoryStore(memory.named(rest))
        case ["etcd" | "redis" as server, *_] if separator:
            try:
                return _on_servers(server, url)
            except UnknownStore as error:
                raise UnknownStore(f"[df] store_url: {error}") from None
    raise UnknownStore(
        f"[df] store_url = {secrecy.masked(url)!r} is no DF DB that this version knows; write sqlite:///ABSOLUTE/PATH, "
        "etcd://HOST:PORT/PREFIX or redis://HOST:PORT/DB (or memory://NAME within one process)"
    )


def _on_servers(driver: str, url: str) -> Store:
    if driver == "etcd":
        from dragonflow.store.etcd import EtcdStore  # gRPC takes 0.2 s to import

        return EtcdStore.of(url)
    from dragonflow.store.redis import RedisStore  # as long as etcd's

    return RedisStore.of(url)
