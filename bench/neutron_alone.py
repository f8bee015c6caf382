"""Neutron's own way from DOWN to ACTIVE, with nothing of Dragonflow in the process. Started by ``bench/neutron.py``.

    python -P bench/neutron_alone.py NEUTRON.CONF ML2_CONF.INI     (-P: or the bench beside it would hide Neutron's package)

ML2 with the mechanism driver ``openvswitch``, whose hooks do nothing on a change of status. For each port id on a line of its
input it does what ML2's RPC does when an agent says that a port works, and prints when it began (seconds of the epoch), how
long the call took, and how much processor time the process used.
"""

from __future__ import annotations

import json
import os
import sys
import time

from neutron import manager
from neutron.common import config
from neutron.db import provisioning_blocks
from neutron_lib.callbacks import resources
from neutron_lib.context import get_admin_context
from oslo_config import cfg


def main(conf_files: list[str]) -> None:
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Neutron's log must not come between
    config.register_common_config_options()
    config.init([argument for path in conf_files for argument in ("--config-file", path)])
    config.setup_logging()
    cfg.CONF.import_opt("mechanism_drivers", "neutron.plugins.ml2.plugin", group="ml2")
    cfg.CONF.set_override("mechanism_drivers", ["openvswitch"], group="ml2")
    manager.init()
    print("ready", file=out)
    for line in sys.stdin:
        used, began, clock = time.process_time(), time.time(), time.perf_counter()
        provisioning_blocks.provisioning_complete(
            get_admin_context(), line.strip(), resources.PORT, provisioning_blocks.L2_AGENT_ENTITY
        )
        found = {
            "began": began,
            "took": time.perf_counter() - clock,
            "processor": time.process_time() - used,
        }
        print(json.dumps(found), file=out)


if __name__ == "__main__":
    main(sys.argv[1:])
