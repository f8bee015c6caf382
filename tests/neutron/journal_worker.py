"""A process of its own that works off the journal, as an API worker does: ``journal_worker.py SQL_URL STORE_URL CLAIM CLOCK``.

It says when it is ready, and begins when it is told a line. Its clock is CLOCK seconds fast; libfaketime would do that better,
but has ``time.sleep(0)`` fail, which oslo.db does.
"""

from __future__ import annotations

import sys
import time

from neutron_lib.context import Context
from oslo_config import cfg
from oslo_db import options

from dragonflow.model import LogicalSwitch
from dragonflow.neutron import db
from dragonflow.neutron.dfdb import DfDb
from dragonflow.neutron.journal import Journal
from dragonflow.neutron.mirror import Mirror


class Neutron:
    """Has every network, and takes its time to say so."""

    def load(self, kind: str, id: str):
        time.sleep(0.002)
        return lambda key: LogicalSwitch(id=id, key=key, network_type="geneve", mtu=1442, revision=1)

    def revision(self, kind: str, id: str) -> int:
        return 1


def main(sql: str, store: str, claim: float) -> None:
    options.set_defaults(cfg.CONF, connection=sql)
    cfg.CONF([], project="neutron")
    dfdb = DfDb(store, "store")
    journal = Journal(Mirror(dfdb, Neutron()), 0.05, claim, context=Context)
    print("ready", flush=True)
    sys.stdin.readline()
    while db.pending(Context()):
        time.sleep(min(journal.work(), 0.05))
    dfdb.close()


if __name__ == "__main__":
    right, fast = time.time, float(sys.argv[4])
    time.time = lambda: right() + fast
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
