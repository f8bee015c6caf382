"""A process with a real Neutron core and our driver's threads, as an API worker is: ``server.py NEUTRON.CONF``.

For each line of its input, a JSON list of a method of the core plugin and its arguments (after the context), it prints the
JSON of what the method returns, or ``{"error": …}``. What is created gets the API's defaults. Callers come one by one; the
driver's threads work beside them.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from neutron import manager
from neutron.api import extensions
from neutron.common import config
from neutron_lib.api import attributes
from neutron_lib.context import get_admin_context
from neutron_lib.plugins import directory, utils

from dragonflow.neutron import mender

_CREATE = {
    "create_network": utils.create_network,
    "create_subnet": utils.create_subnet,
    "create_port": utils.create_port,
}


def main(conf: str) -> None:
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Neutron's log must not come between
    config.register_common_config_options()
    config.init(["--config-file", conf])
    config.setup_logging()
    manager.init()
    extensions.PluginAwareExtensionManager.get_instance().extend_resources("2.0", attributes.RESOURCES)
    plugin = directory.get_plugin()
    driver = plugin.mechanism_manager.mech_drivers["df"].obj
    plugin._rebind_on_revive_agent_types = ["Dragonflow controller"]
    mender.PERIOD = float(os.environ.get("DF_TEST_MENDER_PERIOD", mender.PERIOD))
    driver.workers.start()
    print(json.dumps("ready"), file=out)
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        answer: Any
        try:
            create = _CREATE.get(method)
            if create is not None:
                answer = create(plugin, get_admin_context(), *arguments)
            else:
                answer = getattr(plugin, method)(get_admin_context(), *arguments)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer, default=str), file=out)


if __name__ == "__main__":
    main(sys.argv[1])
