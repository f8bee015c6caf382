"""Whether a host can take a port, and how the port is plugged there. Pure: the chassis come in as rows."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from neutron_lib import constants
from neutron_lib.api.definitions import portbindings
from neutron_lib.plugins.ml2 import api

from dragonflow.model import TUNNEL_TYPES, BridgeMapping, Chassis

AGENT_TYPE = "Dragonflow controller"
AGENT_BINARY = "dragonflow-controller"
PHYSICAL_TYPES = frozenset({constants.TYPE_FLAT, constants.TYPE_VLAN})
VNIC_TYPES = frozenset({portbindings.VNIC_NORMAL})
VHOST_SOCKET_NAME = 14
"""Characters of a vhost-user socket's name: os-vif makes it the interface's name, which Linux holds to 15 with the NUL."""


class HostNow(NamedTuple):
    """What is known of a host: its chassis row, if it ever had one, and whether its controller lives."""

    chassis: Chassis | None
    alive: bool


class Vif(NamedTuple):
    """How Nova plugs the port: ``binding:vif_type`` and ``binding:vif_details``."""

    type: str
    details: dict[str, Any]


def obstacle(host: str, now: HostNow, segment: Mapping[str, Any]) -> str | None:  # noqa: PLR0911 - a list of reasons, each its own line
    """Why ``host`` can't take a port of ``segment``, with what to do about it; None if it can."""
    chassis = now.chassis
    if chassis is None:
        return f"host {host} has no chassis: no dragonflow-controller with [df] host = {host} has ever registered"
    if not now.alive:
        return f"the dragonflow-controller of host {host} is not alive"
    network_type = segment[api.NETWORK_TYPE]
    if network_type == constants.TYPE_LOCAL:
        return None
    if network_type in TUNNEL_TYPES:
        if network_type in chassis.tunnel_types:
            return None
        return f"host {host} offers no {network_type} tunnels; add it to [df] tunnel_types there"
    if network_type in PHYSICAL_TYPES:
        physical_network = segment[api.PHYSICAL_NETWORK]
        if any(mapping.physical_network == physical_network for mapping in chassis.bridge_mappings):
            return None
        return (
            f"host {host} has no bridge for physical network {physical_network}; add it to [df] bridge_mappings there"
        )
    return f"segments of type {network_type} are not supported"


def vif(chassis: Chassis, port_id: str) -> Vif:
    """How a port is plugged on the chassis: vhost-user where it has a directory for the sockets, else ``ovs``."""
    details: dict[str, Any] = {
        portbindings.CAP_PORT_FILTER: True,
        portbindings.VIF_DETAILS_CONNECTIVITY: portbindings.CONNECTIVITY_L2,
        portbindings.VIF_DETAILS_BRIDGE_NAME: chassis.bridge,
        portbindings.OVS_DATAPATH_TYPE: chassis.datapath_type,
    }
    if chassis.vhostuser_socket_dir is None:
        return Vif(portbindings.VIF_TYPE_OVS, details)
    socket = posixpath.join(
        chassis.vhostuser_socket_dir, (constants.VHOST_USER_DEVICE_PREFIX + port_id)[:VHOST_SOCKET_NAME]
    )
    details |= {
        portbindings.VHOST_USER_MODE: portbindings.VHOST_USER_MODE_SERVER,
        portbindings.VHOST_USER_OVS_PLUG: True,
        portbindings.VHOST_USER_SOCKET: socket,
    }
    return Vif(portbindings.VIF_TYPE_VHOST_USER, details)


def segments_for(
    segments: Collection[Mapping[str, Any]], subnet_segments: Collection[str | None]
) -> list[Mapping[str, Any]]:
    """The segments on which a port with addresses from these subnets may lie (routed networks tie subnets to segments)."""
    if not subnet_segments or None in subnet_segments:
        return list(segments)
    return [segment for segment in segments if segment[api.ID] in subnet_segments]


def configurations(chassis: Chassis) -> dict[str, Any]:
    """A chassis as Neutron shows it in an agent's ``configurations``."""
    shown: dict[str, Any] = {
        "tunneling_ip": chassis.tunnel_ip,
        "tunnel_types": list(chassis.tunnel_types),
        "bridge_mappings": {mapping.physical_network: mapping.bridge for mapping in chassis.bridge_mappings},
        "integration_bridge": chassis.bridge,
        "datapath_type": chassis.datapath_type,
        "gateway": chassis.gateway,
        "snat_addresses": list(chassis.snat_addresses),
        "version": chassis.version,
    }
    if chassis.vhostuser_socket_dir is not None:
        shown["vhostuser_socket_dir"] = chassis.vhostuser_socket_dir
    return shown


def chassis_of_agent(agent: Mapping[str, Any]) -> Chassis:
    """The chassis behind an agent that ``configurations`` once described.

    :raises KeyError, TypeError, ValueError: the agent is not one that we wrote.
    """
    shown = agent["configurations"]
    return Chassis(
        id=agent["host"],
        tunnel_ip=shown["tunneling_ip"],
        tunnel_types=tuple(shown["tunnel_types"]),
        bridge_mappings=tuple(BridgeMapping(*pair) for pair in sorted(shown["bridge_mappings"].items())),
        bridge=shown["integration_bridge"],
        datapath_type=shown["datapath_type"],
        vhostuser_socket_dir=shown.get("vhostuser_socket_dir"),
        gateway=shown.get("gateway", False),
        snat_addresses=tuple(shown.get("snat_addresses", ())),
        version=shown["version"],
    )
