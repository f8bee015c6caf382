"""Stand-ins for VMs: a namespace whose one interface is plugged into a host's integration bridge as os-vif does it.

os-vif (``vif_plug_ovs/ovsdb/ovsdb_lib.py``, ``create_ovs_vif_port``) sets ``iface-id``, ``iface-status``, ``attached-mac`` and
``vm-uuid`` on the interface; a controller learns from these which port it is.
"""

from __future__ import annotations

import contextlib
import time
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Literal

from dragonflow.lab import system
from dragonflow.lab.daemon import end_all
from dragonflow.lab.host import INTEGRATION_BRIDGE, Host
from dragonflow.lab.state import Vm
from dragonflow.lab.system import LabError

Address = Literal["static", "dhcp", "none"]
INTERFACE = "eth0"
DHCP_TRIES, DHCP_WAIT = 3, 2


def interface_of(port_id: str) -> str:
    """The host's end: ``tap`` and 11 characters, as Nova names it."""
    return f"tap{port_id[:11]}"


def plug(host: Host, *, region: str, netns: str, port: dict[str, Any], mtu: int, up: bool = True) -> Vm:
    """Make the namespace and plug it; the interface has the port's MAC, but no address, and is up unless told otherwise.

    ``port`` is as Neutron's API gives it.
    """
    tap, mac = interface_of(port["id"]), port["mac_address"]
    link(host, netns, tap, mtu)
    system.ip(netns, f"link set {INTERFACE} address {mac}", *([f"link set {INTERFACE} up"] if up else []))
    plugged = time.time()
    attach(host, tap, port)
    ips = tuple(fixed["ip_address"] for fixed in port["fixed_ips"])
    return Vm(port["id"], region, host.name, netns, mac, ips, tap, plugged)


def link(host: Host, netns: str, tap: str, mtu: int) -> None:
    """Make a namespace whose interface, down, has its other end in the host, up."""
    system.netns_add(netns)
    # No duplicate address detection: the addresses are Neutron's to give, and it would hold them back for a second.
    system.sysctl(netns, {"net/ipv6/conf/default/accept_dad": "0", "net/ipv6/conf/all/accept_dad": "0"})
    system.ip(netns, f"link add {INTERFACE} mtu {mtu} type veth peer name {tap} mtu {mtu} netns {host.netns}")
    system.offload_off(netns, INTERFACE)
    system.offload_off(host.netns, tap)
    # The host needs no address on it, and to take one (after looking for duplicates) would change its routes a second later.
    system.ip(host.netns, f"link set {tap} addrgenmode none up")


def attach(host: Host, tap: str, port: dict[str, Any]) -> None:
    """Put the host's end on the integration bridge, as a port's."""
    host.switch.vsctl(
        *("--may-exist", "add-port", INTEGRATION_BRIDGE, tap, "--", "set", "Interface", tap),
        *(f"external_ids:iface-id={port['id']}", "external_ids:iface-status=active"),
        f'external_ids:attached-mac="{port["mac_address"]}"',
        f"external_ids:vm-uuid={port.get('device_id') or port['id']}",
    )


def give_address(vm: Vm, how: Address, subnets: list[dict[str, Any]], directory: Path) -> None:
    """Give it its addresses: ``static`` from Neutron's word, ``dhcp`` by asking, ``none`` not at all."""
    if how == "static":
        by_hand_alone(vm.netns)
        if commands := static(vm, subnets):
            system.ip(vm.netns, *commands)
    elif how == "dhcp":
        _dhcp(vm, directory)


def by_hand_alone(netns: str) -> None:
    """Have a VM take no addresses from router advertisements."""
    system.sysctl(netns, {f"net/ipv6/conf/{INTERFACE}/accept_ra": "0"})


def static(vm: Vm, subnets: list[dict[str, Any]]) -> list[str]:
    """What ``ip`` is told for all addresses of the port, and a default route by each gateway that a subnet of theirs names."""
    commands = []
    for subnet in subnets:
        network, router = ip_network(subnet["cidr"]), subnet["gateway_ip"]
        ours = [ip for ip in vm.ips if ip_address(ip) in network]
        nodad = " nodad" if network.version == 6 else ""
        commands += [f"address add {ip}/{network.prefixlen} dev {INTERFACE}{nodad}" for ip in ours]
        if ours and router is not None:
            everywhere = "::/0" if network.version == 6 else "0.0.0.0/0"
            commands.append(f"route replace {everywhere} via {router} dev {INTERFACE} onlink")
    return commands


def _dhcp(vm: Vm, directory: Path) -> None:
    script = directory / "udhcpc.sh"
    script.write_text(_UDHCPC)
    script.chmod(0o755)
    client = [
        "udhcpc",
        "-i",
        INTERFACE,
        "-f",
        "-n",
        "-q",
        "-t",
        str(DHCP_TRIES),
        "-T",
        str(DHCP_WAIT),
        "-s",
        str(script),
        "-O",
        "staticroutes",  # which it doesn't ask for by itself
    ]
    try:
        system.run(client, netns=vm.netns, timeout=DHCP_TRIES * DHCP_WAIT + 20)
    except LabError as error:
        raise LabError(
            f"port {vm.port_id} is plugged in {vm.netns}, but no DHCP server gave it an address: {error}"
        ) from None


_UDHCPC = """\
#!/bin/sh
# udhcpc tells the lease in its environment; the package's own script would write the machine's /etc/resolv.conf.
set -e
case $1 in
    deconfig)
        ip -4 address flush dev "$interface"
        ;;
    bound | renew)
        [ -z "$mtu" ] || ip link set "$interface" mtu "$mtu"
        ip -4 address replace "$ip/$mask" dev "$interface"
        if [ -n "$staticroutes" ]; then # option 121 takes the place of option 3 (RFC 3442)
            set -- $staticroutes
            while [ $# -ge 2 ]; do
                if [ "$2" = 0.0.0.0 ]; then # without a router, on link
                    ip -4 route replace "$1" dev "$interface" scope link
                else
                    ip -4 route replace "$1" via "$2" dev "$interface" onlink
                fi
                shift 2
            done
        else
            for each in $router; do
                ip -4 route replace default via "$each" dev "$interface" onlink
                break
            done
        fi
        ;;
esac
"""


def unplug(host: Host, vm: Vm) -> None:
    """Take the interface off the bridge and delete the namespace with all that runs in it. Each may be gone already."""
    host.switch.vsctl("--if-exists", "del-port", INTEGRATION_BRIDGE, vm.interface)
    remove(vm.netns)


def remove(netns: str) -> None:
    """Delete a namespace and end what runs in it. Its link is gone on return: the kernel takes its time for a namespace's."""
    if system.netns_exists(netns):
        end_all(system.netns_pids(netns))
        with contextlib.suppress(LabError):  # a plug that was killed half-way made none
            system.ip(netns, f"link delete {INTERFACE}")
        system.netns_delete(netns)
