"""Says of a DF DB that it is whole, and has to be sure of that: from then on controllers remove what it doesn't hold.

A mark is written before Neutron's database and the DF DB are compared, and the row ``Region`` only if the mark still stands
when nothing is missing any more. So what was found of a DF DB that was wiped meanwhile is never said of the one in its place.
Several may compare at the same time (the leader, and ``dragonflow repair --fix``), from one mark; who ends first says it.
"""

from __future__ import annotations

import contextlib
import logging
import time

from dragonflow import __version__
from dragonflow.model import REGION_SCOPE, Region, encode
from dragonflow.store.blocking import BlockingStore
from dragonflow.store.protocol import ABSENT, Check, Conflict, Delete, Key, Put, Txn

LOG = logging.getLogger(__name__)

REGION = Key(REGION_SCOPE, Region.__name__, Region(since=0.0).id)
MARK = Key(REGION_SCOPE, "Founding", REGION.id)


def is_whole(store: BlockingStore) -> bool:
    """Whether somebody has said so. :raises StoreError: the DF DB can't be read."""
    return store.get(REGION) is not None


class Founding:
    """One attempt to say that ``store`` is whole, from the begin of a comparison to its end."""

    def __init__(self, store: BlockingStore) -> None:
        self._store = store
        self._mark = _mark(store)

    def finish(self) -> bool:
        """Nothing is missing: say so. Returns whether it is said; not if the DF DB isn't the same any more."""
        row = Region(since=time.time(), version=__version__)
        checks = (Check(MARK, self._mark), Check(REGION, ABSENT))
        try:
            self._store.commit(Txn((Put(REGION, encode(row)), Delete(MARK)), checks))
        except Conflict as error:
            LOG.info("df: the DF DB is another one than at the begin, or somebody else was faster: %s", error)
            return is_whole(self._store)
        LOG.warning("df: the DF DB is whole: from now on controllers take it in")
        return True


def _mark(store: BlockingStore) -> int:
    """The revision of the mark, which is put if there is none."""
    while (found := store.get(MARK)) is None:
        with contextlib.suppress(Conflict):
            return store.commit(Txn((Put(MARK, b"{}"),), (Check(MARK, ABSENT),)))
    return found.revision
