"""The message bus: ``protocol`` says what every bus does, ``open_pubsub`` finds one for a URL, ``news`` ties it to the store."""

from __future__ import annotations

from pathlib import Path

from dragonflow import secrecy
from dragonflow.pubsub import memory
from dragonflow.pubsub.none import NoPubSub
from dragonflow.pubsub.protocol import PubSub
from dragonflow.pubsub.redis import RedisPubSub
from dragonflow.pubsub.zmq import IpcTransport, TcpTransport, ZmqPubSub
from dragonflow.store._url import UnknownStore
from dragonflow.store.protocol import Store
from dragonflow.store.redis_client import RedisUrl

__all__ = ["UnknownPubSub", "open_pubsub"]


class UnknownPubSub(ValueError):
    """The URL names no bus that this version knows."""


def open_pubsub(url: str, store: Store) -> PubSub:
    """The bus of a URL: ``store`` (none but the store's own watch), ``zmq+ipc:///DIRECTORY``, ``zmq+tcp://ADDRESS``
    (with ``?key=FILE&peers=DIRECTORY``, see ``curve``), those of Redis (``redis://HOST:PORT``, see ``store.open_store``), or
    ``memory://NAME`` within one process. Before each of them may stand ``lossy+``, for the lab (see ``testing.lossy``). No I/O
    happens yet. The store must stay open as long as the bus.

    :raises UnknownPubSub: with what to write in the option ``[df] pubsub_url``.
    """
    if url.startswith("lossy+") and "#" in url:
        from dragonflow.testing.lossy import LossyPubSub  # noqa: PLC0415 - only where it is asked for

        bus, _, file = url.removeprefix("lossy+").rpartition("#")
        return LossyPubSub(open_pubsub(bus, store), Path(file))
    scheme, separator, rest = url.partition("://")
    try:
        match scheme:
            case "store" if not separator:
                return NoPubSub()
            case "memory" if rest:
                return memory.MemoryPubSub(memory.named(rest))
            case "zmq+ipc" if rest.startswith("/") and len(rest) > 1:
                return ZmqPubSub(store, IpcTransport(Path(rest)))
            case "zmq+tcp" if rest:
                return ZmqPubSub(store, TcpTransport(rest))
            case _ if separator and scheme.partition("+")[0] == "redis":
                return RedisPubSub(store, RedisUrl.parse(url))
    except UnknownStore as error:
        raise UnknownPubSub(f"[df] pubsub_url: {error}") from error
    except ValueError as error:
        raise UnknownPubSub(f"[df] pubsub_url = {secrecy.masked(url)!r}: {error}") from error
    raise UnknownPubSub(
        f"[df] pubsub_url = {secrecy.masked(url)!r} is no bus that this version knows; write 'store', "
        "zmq+ipc:///ABSOLUTE/DIRECTORY, zmq+tcp://ADDRESS?key=FILE&peers=DIRECTORY or redis://HOST:PORT "
        "(or memory://NAME within one process)"
    )
