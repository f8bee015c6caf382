"""Neutron's dicts to rows of the DF DB. Pure: what comes out depends on nothing but the arguments.

Neutron's API has validated the dicts; keys that come from extensions may be missing and have Neutron's own defaults.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import msgspec
from neutron_lib import constants

from dragonflow.model import (
    PHYSICAL_TYPES,
    AddressGroup,
    AddressPair,
    AllocationPool,
    BandwidthLimit,
    Binding,
    DhcpOption,
    ExternalNetwork,
    FixedIP,
    FloatingIp,
    GroupMember,
    HostRoute,
    LogicalPort,
    LogicalRouter,
    LogicalSwitch,
    PortForwarding,
    QosPolicy,
    Route,
    RouterGateway,
    RouterInterface,
    Row,
    SecurityGroup,
    SecurityRule,
    Subnet,
)
from dragonflow.neutron.profile import remote

UNBOUND_VIF_TYPES = frozenset({"unbound", "binding_failed", "distributed"})
"""With these, no host has the port (``distributed``: bound per host elsewhere)."""


class PortBinding(NamedTuple):
    """One of a port's bindings, as in ``ml2_port_bindings``."""

    host: str
    vif_type: str
    active: bool


class Trunking(NamedTuple):
    """A port's part in a trunk.

    Of a parent it is the id of the ``trunk``; of a child the ``parent`` port, the tag by which they are told apart, and the
    parent's ``bindings``.
    """

    trunk: str | None = None
    parent: str | None = None
    vlan: int | None = None
    bindings: tuple[PortBinding, ...] = ()


_ALONE = Trunking()


def logical_switch(network: Mapping[str, Any], key: int, dns_domain: str = "") -> LogicalSwitch:
    """A network's row. Of a multi-segment network the first segment counts. ``dns_domain`` is for networks without their own."""
    segment = (network.get("segments") or [network])[0]
    return LogicalSwitch(
        id=network["id"],
        key=key,
        name=network["name"],
        project=network["project_id"],
        network_type=segment.get("provider:network_type") or "local",
        physical_network=segment.get("provider:physical_network"),
        segmentation_id=segment.get("provider:segmentation_id"),
        mtu=network["mtu"],
        dns_domain=network.get("dns_domain") or dns_domain,
        admin_up=network["admin_state_up"],
        external=network.get("router:external", False),
        qos=network.get("qos_policy_id"),
        revision=network.get("revision_number", 0),
    )


def subnet(subnet: Mapping[str, Any]) -> Subnet:
    """A subnet's row."""
    return Subnet(
        id=subnet["id"],
        network=subnet["network_id"],
        name=subnet["name"],
        project=subnet["project_id"],
        cidr=str(subnet["cidr"]),
        gateway_ip=_text(subnet["gateway_ip"]),
        enable_dhcp=subnet["enable_dhcp"],
        ipv6_ra_mode=subnet["ipv6_ra_mode"],
        ipv6_address_mode=subnet["ipv6_address_mode"],
        dns_nameservers=tuple(str(server) for server in subnet["dns_nameservers"]),
        host_routes=tuple(
            sorted(
                (HostRoute(str(route["destination"]), str(route["nexthop"])) for route in subnet["host_routes"]),
                key=lambda route: (route.destination, route.nexthop),
            )
        ),
        allocation_pools=tuple(
            sorted(
                (AllocationPool(str(pool["start"]), str(pool["end"])) for pool in subnet["allocation_pools"]),
                key=lambda pool: (pool.start, pool.end),
            )
        ),
        revision=subnet.get("revision_number", 0),
    )


def logical_port(
    port: Mapping[str, Any],
    key: int,
    generation: int,
    others: Collection[PortBinding] = (),
    trunking: Trunking | None = None,
) -> LogicalPort:
    """A port's row; ``others`` are its bindings beside the active one that the port dict tells.

    A trunk's child is where its parent is, at once; Neutron binds it there by itself a little later. Only if Neutron couldn't,
    it is nowhere.

    A port of another region is on its chassis there.
    """
    mac = str(port["mac_address"])
    vif_type, host = port.get("binding:vif_type") or "unbound", port.get("binding:host_id")
    part = trunking or _ALONE
    if part.parent is not None:
        active = next((it for it in part.bindings if it.active), PortBinding("", "unbound", True))
        others = part.bindings
        if vif_type != "binding_failed":
            host, vif_type = active.host, active.vif_type
    elsewhere = remote(port.get("binding:profile"), host) if part.parent is None else None
    here = None if vif_type in UNBOUND_VIF_TYPES else host or None
    return LogicalPort(
        id=port["id"],
        key=key,
        network=port["network_id"],
        name=port["name"],
        project=port["project_id"],
        mac=mac,
        fixed_ips=tuple(FixedIP(fixed["subnet_id"], str(fixed["ip_address"])) for fixed in port["fixed_ips"]),
        device_id=port["device_id"],
        device_owner=port["device_owner"],
        admin_up=port["admin_state_up"],
        chassis=elsewhere.chassis if elsewhere else here,
        standby=tuple(
            sorted(
                binding.host
                for binding in others
                if not binding.active and binding.host and binding.vif_type not in UNBOUND_VIF_TYPES
            )
        ),
        generation=generation,
        vnic_type=port.get("binding:vnic_type") or "normal",
        vif_type=vif_type,
        security_groups=tuple(sorted(port.get("security_groups", ()))),
        address_pairs=tuple(
            sorted(
                (_address_pair(pair, mac) for pair in port.get("allowed_address_pairs", ())),
                key=lambda pair: (pair.ip, pair.mac or ""),
            )
        ),
        port_security=port.get("port_security_enabled", True),
        dhcp_options=tuple(
            sorted(
                (
                    DhcpOption(option["opt_name"], option["opt_value"] or "", option["ip_version"])
                    for option in port.get("extra_dhcp_opts") or ()
                ),
                key=lambda option: (option.ip_version, option.name),
            )
        ),
        dns_name=port.get("dns_name") or "",
        trunk=part.trunk,
        parent=part.parent,
        vlan=part.vlan,
        qos=port.get("qos_policy_id"),
        remote=elsewhere.end if elsewhere else None,
        revision=port.get("revision_number", 0),
    )


def logical_router(router: Mapping[str, Any], key: int, interfaces: Collection[tuple[str, str]]) -> LogicalRouter:
    """A router's row; ``interfaces`` are the port and the network of each."""
    routes = (Route(str(route["destination"]), str(route["nexthop"])) for route in router.get("routes", ()))
    return LogicalRouter(
        id=router["id"],
        key=key,
        name=router["name"],
        project=router["project_id"],
        admin_up=router["admin_state_up"],
        routes=tuple(sorted(routes, key=lambda route: (route.destination, route.nexthop))),
        interfaces=tuple(RouterInterface(port, network) for port, network in sorted(interfaces)),
        gateway=_gateway(router),
        revision=router.get("revision_number", 0),
    )


def floating_ip(floating: Mapping[str, Any], forwardings: Collection[Mapping[str, Any]]) -> FloatingIp:
    """A floating IP's row, from the columns of Neutron's tables for it and for its port forwardings."""
    found = [
        PortForwarding(
            protocol=each["protocol"],
            external_first=each["external_port_start"],
            external_last=each["external_port_end"],
            port=each["internal_neutron_port_id"],
            ip=each["internal_ip_address"],
            internal_first=each["internal_port_start"],
            internal_last=each["internal_port_end"],
        )
        for each in forwardings
    ]
    return FloatingIp(
        id=floating["id"],
        network=floating["floating_network_id"],
        address=floating["floating_ip_address"],
        port=floating["floating_port_id"],
        project=floating["project_id"] or "",
        router=floating["router_id"],
        fixed_port=floating["fixed_port_id"],
        fixed_ip=floating["fixed_ip_address"],
        forwardings=tuple(sorted(found, key=lambda each: (each.protocol, each.external_first))),
        qos=floating.get("qos_policy_id"),
        revision=floating["revision_number"],
    )


def _gateway(router: Mapping[str, Any]) -> RouterGateway | None:
    """The gateway that Neutron calls the router's own; of several external gateways it is the first."""
    port, info = router.get("gw_port_id"), router.get("external_gateway_info")
    if not port or not info:
        return None
    return RouterGateway(port, info["network_id"], info.get("enable_snat", True), info.get("qos_policy_id"))


def qos_policy(policy: Mapping[str, Any]) -> QosPolicy:
    """A QoS policy's row. Rules of other types have no part in it: Neutron lets none of them near a port of ours."""
    limits = {rule["direction"]: rule for rule in policy["rules"] if rule["type"] == "bandwidth_limit"}
    marks = [rule["dscp_mark"] for rule in policy["rules"] if rule["type"] == "dscp_marking"]
    return QosPolicy(
        id=policy["id"],
        name=policy["name"],
        project=policy["project_id"],
        egress=_limit(limits.get("egress")),
        ingress=_limit(limits.get("ingress")),
        dscp=next(iter(marks), None),
        revision=policy.get("revision_number", 0),
    )


def security_group(group: Mapping[str, Any], rules: Collection[Mapping[str, Any]]) -> SecurityGroup:
    """A security group's row, from Neutron's dicts for it and its rules."""
    return SecurityGroup(
        id=group["id"],
        name=group["name"],
        project=group["project_id"] or "",
        stateful=group["stateful"],
        rules=tuple(sorted(dict.fromkeys(map(_security_rule, rules)), key=msgspec.json.encode)),
        revision=group.get("revision_number", 0),
    )


def _security_rule(rule: Mapping[str, Any]) -> SecurityRule:
    return SecurityRule(
        direction=rule["direction"],
        ip_version=6 if rule["ethertype"] == constants.IPv6 else 4,
        protocol=_protocol(rule["protocol"], rule["ethertype"]),
        first=rule["port_range_min"],
        last=rule["port_range_max"],
        remote_group=rule["remote_group_id"],
        address_group=rule["remote_address_group_id"],
        prefix=_text(rule["remote_ip_prefix"]),
    )


def _protocol(protocol: str | None, ethertype: str) -> int | None:
    """The number of a protocol that Neutron names or numbers. In IPv6 its "icmp" is ICMPv6, as with Neutron's own agents."""
    if protocol is None or protocol == "any":
        return None
    number = int(constants.IP_PROTOCOL_MAP.get(protocol, protocol))
    return (
        constants.PROTO_NUM_IPV6_ICMP if (number, ethertype) == (constants.PROTO_NUM_ICMP, constants.IPv6) else number
    )


def address_group(group: Mapping[str, Any]) -> AddressGroup:
    """An address group's row."""
    return AddressGroup(
        id=group["id"],
        name=group["name"],
        project=group["project_id"] or "",
        addresses=tuple(sorted(map(str, group["addresses"]))),
        revision=group.get("revision_number", 0),
    )


def _limit(rule: Mapping[str, Any] | None) -> BandwidthLimit | None:
    """A rule that names no burst has one of 80 % of its rate, as with Neutron's own agents (``DEFAULT_BURST_RATE``)."""
    if rule is None:
        return None
    rate = rule["max_kbps"]
    return BandwidthLimit(rate, rule["max_burst_kbps"] or rate * 4 // 5)


def pointers(row: Row) -> tuple[Row, ...]:
    """The rows that follow from an object's own, and lie where controllers look that don't follow it yet."""
    if isinstance(row, LogicalPort):
        return (*_bindings(row), *_memberships(row))
    if isinstance(row, LogicalSwitch) and row.external and row.network_type in PHYSICAL_TYPES and row.physical_network:
        return (ExternalNetwork(id=row.id, physical_network=row.physical_network),)
    return ()


def _bindings(port: LogicalPort) -> tuple[Binding, ...]:
    """One for each host of this region that has the port or is prepared for it."""
    hosts = ((port.chassis, True),) if port.chassis and port.remote is None else ()
    return tuple(
        Binding(id=port.id, host=host, network=port.network, generation=port.generation, active=active)
        for host, active in (*hosts, *((host, False) for host in port.standby if host != port.chassis))
    )


def _memberships(port: LogicalPort) -> tuple[Row, ...]:
    """One for each security group that the port has."""
    addresses = tuple(sorted({*port.ips, *(pair.ip for pair in port.address_pairs)}))
    return tuple(
        GroupMember(id=f"{group}/{port.id}", group=group, port=port.id, addresses=addresses)
        for group in port.security_groups
    )


def _address_pair(pair: Mapping[str, Any], port_mac: str) -> AddressPair:
    mac = _text(pair.get("mac_address"))
    return AddressPair(str(pair["ip_address"]), None if mac == port_mac else mac)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
