"""The door for ports of other regions: what their ``binding:profile`` may say (see ``profile`` for what it means).

Looked at in the transaction that writes the port, so what is refused leaves nothing behind; and only if something changes that
matters: a port that is there goes on to change its name or its status whatever has become of its region since. What else in
Neutron may not have such a port is refused by ``db.remote``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import Any

from neutron.db import segments_db
from neutron_lib import constants, exceptions
from neutron_lib.api.definitions import portbindings
from neutron_lib.callbacks import events, registry, resources
from neutron_lib.plugins.ml2 import api
from neutron_lib.services.trunk.constants import TRUNK_SUBPORT_OWNER

from dragonflow.model import TUNNEL_TYPES, Chassis
from dragonflow.neutron import agents, db
from dragonflow.neutron.profile import ProfileError, RemotePort, read

OWNERS = (
    constants.DEVICE_OWNER_NETWORK_PREFIX,
    constants.DEVICE_OWNER_COMPUTE_PREFIX,
    constants.DEVICE_OWNER_BAREMETAL_PREFIX,
    constants.DEVICE_OWNER_MANILA_PREFIX,
    TRUNK_SUBPORT_OWNER,
)
"""How the ``device_owner`` of a port begins that Neutron, Nova, Ironic or Manila of this region take for theirs: they bind it,
migrate it, and want to hear of it."""

_MATTERS = (portbindings.PROFILE, portbindings.HOST_ID, "device_owner")


class RemotePortDoor:
    """Lets no port into Neutron's database that says nonsense of another region.

    ``known`` tells the chassis of this region; None if they aren't known, then Neutron's agents are asked.
    """

    def __init__(self, known: Callable[[], Iterable[Chassis] | None]) -> None:
        self._known = known

    def open(self) -> None:
        """Look at each port from now on."""
        db.listen_to_remote_ports()
        registry.subscribe(self._created, resources.PORT, events.PRECOMMIT_CREATE)
        registry.subscribe(self._updated, resources.PORT, events.PRECOMMIT_UPDATE)

    def _created(self, _resource: str, _event: str, _trigger: object, payload: Any) -> None:
        self._look(payload.context, payload.resource_id, payload.request_body)

    def _updated(self, _resource: str, _event: str, _trigger: object, payload: Any) -> None:
        old, new = payload.states[0], payload.desired_state
        if any(old.get(name) != new.get(name) for name in _MATTERS):
            self._look(payload.context, payload.resource_id, new)

    def _look(self, context: Any, port_id: str, port: Mapping[str, Any]) -> None:
        try:
            found = read(port.get(portbindings.PROFILE))
        except ProfileError as error:
            raise _refused(str(error)) from error
        if found is not None and (obstacle := self._obstacle(context, port_id, port, found)):
            raise _refused(obstacle)

    def _obstacle(self, context: Any, port_id: str, port: Mapping[str, Any], found: RemotePort) -> str | None:
        owner = port.get("device_owner") or ""
        if owner.startswith(OWNERS):
            return f"device_owner is {owner!r}: that is for ports of this region. Leave it out, or give one of your own"
        if chassis := self._chassis_with(context, found.host_ip):
            return f"host_ip is {found.host_ip}: that is chassis {chassis} of this region. Set binding:host_id instead"
        segments = segments_db.get_network_segments(context, port["network_id"])
        network_type = segments[0][api.NETWORK_TYPE] if segments else None
        if network_type not in TUNNEL_TYPES:
            return f"the network is of type {network_type}: only {', '.join(TUNNEL_TYPES)} networks reach other regions"
        return db.obstacle_to_remote(context, port_id)

    def _chassis_with(self, context: Any, host_ip: str) -> str | None:
        known, wanted = self._known(), ip_address(host_ip)
        chassis = agents.known_chassis(context.elevated()) if known is None else known
        return next((each.id for each in chassis if _address(each) == wanted), None)


def _address(chassis: Chassis) -> object:
    try:
        return ip_address(chassis.tunnel_ip)
    except ValueError:
        return None


def _refused(why: str) -> exceptions.InvalidInput:
    return exceptions.InvalidInput(error_message=f"binding:profile: {why}")
