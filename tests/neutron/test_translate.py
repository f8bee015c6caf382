from __future__ import annotations

from dragonflow.model import (
    AddressPair,
    AllocationPool,
    Binding,
    DhcpOption,
    FixedIP,
    GroupMember,
    HostRoute,
    LogicalPort,
    RemoteEnd,
    decode,
    encode,
)
from dragonflow.neutron import translate
from dragonflow.neutron.translate import PortBinding

NETWORK = {
    "id": "n1",
    "name": "blue",
    "project_id": "p1",
    "mtu": 1442,
    "admin_state_up": True,
    "revision_number": 3,
    "provider:network_type": "geneve",
    "provider:physical_network": None,
    "provider:segmentation_id": 77,
    "router:external": True,
    "dns_domain": "example.org.",
}
SUBNET = {
    "id": "s1",
    "network_id": "n1",
    "name": "",
    "project_id": "p1",
    "cidr": "2001:db8::/64",
    "gateway_ip": None,
    "enable_dhcp": True,
    "ipv6_ra_mode": "slaac",
    "ipv6_address_mode": "slaac",
    "dns_nameservers": ["2001:db8::2", "2001:db8::1"],
    "host_routes": [{"destination": "b::/64", "nexthop": "1::1"}, {"destination": "a::/64", "nexthop": "1::1"}],
    "allocation_pools": [
        {"start": "2001:db8::9", "end": "2001:db8::f"},
        {"start": "2001:db8::1", "end": "2001:db8::5"},
    ],
    "revision_number": 0,
}
PORT = {
    "id": "p1",
    "network_id": "n1",
    "name": "eth0",
    "project_id": "t1",
    "mac_address": "fa:16:3e:00:00:01",
    "fixed_ips": [{"subnet_id": "s1", "ip_address": "10.0.0.3"}, {"subnet_id": "s2", "ip_address": "2001:db8::3"}],
    "device_id": "vm",
    "device_owner": "compute:nova",
    "admin_state_up": True,
    "binding:host_id": "h1",
    "binding:vif_type": "ovs",
    "binding:vnic_type": "normal",
    "security_groups": ["b", "a"],
    "allowed_address_pairs": [
        {"ip_address": "10.9.0.0/16", "mac_address": "fa:16:3e:00:00:02"},
        {"ip_address": "10.0.0.9", "mac_address": "fa:16:3e:00:00:01"},
    ],
    "port_security_enabled": False,
    "dns_name": "web",
    "extra_dhcp_opts": [
        {"opt_name": "router", "opt_value": "", "ip_version": 4},
        {"opt_name": "dns-server", "opt_value": "2001:db8::5", "ip_version": 6},
        {"opt_name": "67", "opt_value": "boot", "ip_version": 4},
    ],
    "revision_number": 9,
}


def test_a_network_keeps_what_controllers_need():
    row = translate.logical_switch(NETWORK, key=5)
    assert (row.key, row.network_type, row.segmentation_id, row.mtu, row.external) == (5, "geneve", 77, 1442, True)
    assert row.scope == "net:n1"
    assert decode("LogicalSwitch", "n1", encode(row)) == row


def test_a_network_without_a_domain_has_the_regions():
    assert translate.logical_switch(NETWORK, key=5, dns_domain="openstacklocal").dns_domain == "example.org."
    for bare in ({**NETWORK, "dns_domain": ""}, {key: it for key, it in NETWORK.items() if key != "dns_domain"}):
        assert translate.logical_switch(bare, key=5, dns_domain="openstacklocal").dns_domain == "openstacklocal"


def test_of_several_segments_the_first_counts():
    segments = [
        {"provider:network_type": "vlan", "provider:physical_network": "phys", "provider:segmentation_id": 9},
        {"provider:network_type": "geneve", "provider:physical_network": None, "provider:segmentation_id": 10},
    ]
    bare = {key: value for key, value in NETWORK.items() if not key.startswith("provider:")}
    row = translate.logical_switch({**bare, "segments": segments}, key=1)
    assert (row.network_type, row.physical_network, row.segmentation_id) == ("vlan", "phys", 9)


def test_a_subnet_is_the_same_whatever_order_neutron_lists_its_parts_in():
    row = translate.subnet(SUBNET)
    turned = {
        name: list(reversed(value)) if name in ("host_routes", "allocation_pools") else value
        for name, value in SUBNET.items()
    }
    assert translate.subnet(turned) == row
    assert row.host_routes == (HostRoute("a::/64", "1::1"), HostRoute("b::/64", "1::1"))
    assert row.allocation_pools[0] == AllocationPool("2001:db8::1", "2001:db8::5")
    assert row.dns_nameservers == ("2001:db8::2", "2001:db8::1"), "resolvers are asked in the user's order"


def test_a_bound_port_is_on_its_host():
    row = translate.logical_port(PORT, key=7, generation=2)
    assert (row.chassis, row.generation, row.key, row.port_security) == ("h1", 2, 7, False)
    assert row.fixed_ips == (FixedIP("s1", "10.0.0.3"), FixedIP("s2", "2001:db8::3"))
    assert row.security_groups == ("a", "b")
    assert row.address_pairs == (AddressPair("10.0.0.9"), AddressPair("10.9.0.0/16", "fa:16:3e:00:00:02"))
    addresses = ("10.0.0.3", "10.0.0.9", "10.9.0.0/16", "2001:db8::3")
    assert translate.pointers(row) == (
        Binding(id="p1", host="h1", network="n1", generation=2),
        GroupMember(id="a/p1", group="a", port="p1", addresses=addresses),
        GroupMember(id="b/p1", group="b", port="p1", addresses=addresses),
    )


def test_a_port_says_what_its_dhcp_client_gets_in_whatever_order_neutron_lists_it():
    row = translate.logical_port(PORT, key=7, generation=2)
    turned = {**PORT, "extra_dhcp_opts": list(reversed(PORT["extra_dhcp_opts"]))}
    assert translate.logical_port(turned, key=7, generation=2) == row
    assert row.dns_name == "web"
    assert row.dhcp_options == (
        DhcpOption("67", "boot"),
        DhcpOption("router", ""),
        DhcpOption("dns-server", "2001:db8::5", 6),
    )
    assert decode("LogicalPort", "p1", encode(row)) == row


def bindings(row: LogicalPort) -> list[tuple[str, bool]]:
    """The hosts that are led to the port, and whether it is active there."""
    return [(it.host, it.active) for it in translate.pointers(row) if isinstance(it, Binding)]


def test_a_port_that_is_not_bound_is_nowhere():
    for vif_type in ("unbound", "binding_failed", "distributed"):
        row = translate.logical_port({**PORT, "binding:vif_type": vif_type}, key=7, generation=2)
        assert row.chassis is None
        assert bindings(row) == []


def test_a_port_that_migrates_is_announced_on_both_hosts_and_active_on_one():
    others = [PortBinding("h2", "ovs", active=False), PortBinding("h3", "binding_failed", active=False)]
    row = translate.logical_port(PORT, key=7, generation=2, others=others)
    assert row.standby == ("h2",)
    assert bindings(row) == [("h1", True), ("h2", False)]


def test_a_port_of_another_region_is_on_its_chassis_there_and_on_no_host_here():
    profile = {"port_key": "remote_port", "host_ip": "198.51.100.7", "network_type": "vxlan", "segmentation_id": 77}
    unbound = {**PORT, "binding:host_id": "", "binding:vif_type": "unbound", "device_owner": "dragonflow:remote_port"}
    row = translate.logical_port({**unbound, "binding:profile": profile}, key=1, generation=3)
    assert (row.chassis, row.standby) == ("RemoteChassis:198.51.100.7", ())
    assert row.remote == RemoteEnd("", "vxlan", 77, True)
    assert bindings(row) == [], "no host of ours follows it"
    assert {it.group for it in translate.pointers(row) if isinstance(it, GroupMember)} == {"a", "b"}, "but groups do"
    assert decode("LogicalPort", "p1", encode(row)) == row
    bound = translate.logical_port({**PORT, "binding:profile": profile}, key=1, generation=3)
    assert (bound.chassis, bound.remote) == ("h1", None), "a host of ours counts for more than what a profile says"
    nonsense = {**unbound, "binding:profile": {**profile, "host_ip": "x"}}
    row = translate.logical_port(nonsense, key=1, generation=3)
    assert (row.chassis, row.remote) == (None, None), "it is nowhere"


def test_extensions_that_are_not_loaded_leave_neutrons_defaults():
    extensions = ("security_groups", "allowed_address_pairs", "port_security_enabled", "extra_dhcp_opts", "dns_name")
    bare = {key: value for key, value in PORT.items() if key not in extensions and not key.startswith("binding:")}
    row = translate.logical_port(bare, key=1, generation=0)
    assert (row.port_security, row.security_groups, row.address_pairs, row.chassis) == (True, (), (), None)
    assert (row.dhcp_options, row.dns_name) == ((), "")
