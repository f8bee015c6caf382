"""Dragonflow as a driver of Neutron's ``qos`` plugin: which rules ports of ours may have.

A policy's rules become a row of the DF DB; ports and networks name the policy in theirs (``translate``). That a policy or rule
changed is caught where Neutron writes it (``db.qos``). So there is nothing to do here but to say what is supported: Neutron
refuses (409) to give a policy with any other rule to a port that we have bound, and to add such a rule to its policy.
"""

from __future__ import annotations

from typing import Any

from neutron_lib import constants
from neutron_lib.api.definitions import portbindings
from neutron_lib.callbacks import events, registry
from neutron_lib.db import constants as db_constants
from neutron_lib.plugins import constants as plugins
from neutron_lib.plugins import directory
from neutron_lib.services.qos import base
from neutron_lib.services.qos import constants as qos_constants
from oslo_config import cfg

from dragonflow.neutron import db
from dragonflow.neutron.binding import VNIC_TYPES
from dragonflow.neutron.status import DRIVER

_KILOBITS = {"type:range": [0, db_constants.DB_INTEGER_MAX_VALUE]}

SUPPORTED_RULES = {
    qos_constants.RULE_TYPE_BANDWIDTH_LIMIT: {
        qos_constants.MAX_KBPS: _KILOBITS,
        qos_constants.MAX_BURST: _KILOBITS,
        qos_constants.DIRECTION: {"type:values": constants.VALID_DIRECTIONS},
    },
    qos_constants.RULE_TYPE_DSCP_MARKING: {
        qos_constants.DSCP_MARK: {"type:values": constants.VALID_DSCP_MARKS},
    },
}
"""Minimum bandwidth and minimum packet rate are promises that nobody here could keep; limits of packet rates aren't there."""


class DragonflowQos(base.DriverBase):
    """Registers with the plugin."""

    def __init__(self) -> None:
        vif_types = (portbindings.VIF_TYPE_OVS, portbindings.VIF_TYPE_VHOST_USER)
        super().__init__(DRIVER, vif_types, tuple(VNIC_TYPES), SUPPORTED_RULES)

    @property
    def is_loaded(self) -> bool:
        """See ``DriverBase``."""
        return DRIVER in cfg.CONF.ml2.mechanism_drivers

    @registry.receives(qos_constants.QOS_PLUGIN, [events.AFTER_INIT])
    def _register(self, resource: str, event: str, trigger: Any, **kwargs: Any) -> None:
        super()._register(resource, event, trigger, **kwargs)
        db.listen_to_qos()


def plugin() -> Any:
    """Neutron's QoS plugin, or None."""
    return directory.get_plugin(plugins.QOS)
