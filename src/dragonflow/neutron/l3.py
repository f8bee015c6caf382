"""Dragonflow as a service provider of Neutron's ``router`` plugin; see ``docs/operate/neutron.md``.

::

    [service_providers]
    service_provider = L3_ROUTER_NAT:df:dragonflow.neutron.l3.DragonflowRouters:default

The plugin remains Neutron's own, and with it quotas, flavors, extra routes and port forwarding. That a router changed is caught
where Neutron writes it (``db.routers``), so there is nothing to do here but to say which routers are ours and what they can be.
"""

from __future__ import annotations

from typing import Any

from neutron.services.l3_router.service_providers import base
from neutron_lib.callbacks import events, registry, resources
from neutron_lib.plugins import constants, directory

from dragonflow.neutron import db


class DragonflowRouters(base.L3ServiceProvider):
    """Routers that every chassis carries out itself: no agent is scheduled, and nothing is asked for to make them so.

    Neutron's own ``distributed`` and ``ha`` mean its agents' ways of doing that; a router that asks for either goes to them.
    """

    ha_support = base.UNSUPPORTED
    distributed_support = base.UNSUPPORTED
    use_integrated_agent_scheduler = False

    def __init__(self, l3plugin: Any) -> None:
        super().__init__(l3plugin)
        db.listen_to_routers()
        db.listen_to_floating_ips()
        for event in (events.PRECOMMIT_ADD_ASSOCIATION, events.PRECOMMIT_DELETE_ASSOCIATIONS):
            registry.subscribe(self._router_moves, resources.ROUTER_CONTROLLER, event)

    def _router_moves(self, _resource: str, _event: str, _trigger: object, payload: Any) -> None:
        """A router comes from another provider or goes to one."""
        db.record(payload.context, db.ROUTER_KIND, payload.resource_id, payload.resource_id)


def plugin() -> Any:
    """Neutron's L3 plugin; None if there is none, or none that knows of providers."""
    found = directory.get_plugin(constants.L3)
    return found if hasattr(found, "l3_driver_controller") else None


def providers() -> list[str]:
    """The names under which Dragonflow is configured as a provider; usually ``df`` alone, or none."""
    found = plugin()
    drivers = {} if found is None else found.l3_driver_controller.drivers
    return [name for name, driver in drivers.items() if isinstance(driver, DragonflowRouters)]
