"""Each process that runs the driver's threads says that it is there, by a row on a lease: ``dragonflow show servers``."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time

from dragonflow import __version__
from dragonflow.model import Server, encode
from dragonflow.neutron.outage import Outage
from dragonflow.store.blocking import BlockingStore
from dragonflow.store.protocol import Key, StoreError
from dragonflow.store.standing import Standing

LOG = logging.getLogger(__name__)


def server_name() -> str:
    """This process's name among all servers'."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Presence:
    """Keeps this process's ``Server`` row standing until stopped; ``ttl`` seconds after a kill it is gone."""

    def __init__(self, store: BlockingStore, ttl: float) -> None:
        self._store = store
        self._ttl = ttl
        self._stop = threading.Event()
        self._outage = Outage("renewing this server's lease")

    def stop(self) -> None:
        """Have ``run`` return, and take the row away."""
        self._stop.set()

    def run(self) -> None:
        """Renew the lease; a row or a lease that is lost is made anew."""
        row = Server(
            id=server_name(), host=socket.gethostname(), pid=os.getpid(), since=time.time(), version=__version__
        )
        standing = Standing(Key(row.scope, Server.__name__, row.id), encode(row), self._ttl)
        while not self._stop.is_set():
            pause = self._ttl / 4
            try:
                self._store.call(standing.renew)
                self._outage.over()
            except StoreError as error:
                pause = self._outage.failed(error)
            self._stop.wait(pause)
        try:
            self._store.call(standing.withdraw)
        except StoreError as error:
            LOG.debug("df: this server's lease was not revoked, it expires by itself: %s", error)
