"""A physical network of the lab: a switch that joins the hosts' bridges for it, and machines on it that no DF DB knows.

::

    namespace LAB-fabric                          namespace LAB-host1
      bridge physnet1 ───────── veth ────────────── physical ─ br-ex ═ patch ports ═ br-int
        ├── veth ── physical of the next host
        └── veth ── eth0 in LAB-peer-NAME (on an access port of a VLAN, or untagged)

The switch is an Open vSwitch of its own: kernels without VLANs are common in containers and small virtual machines.
"""

from __future__ import annotations

from collections.abc import Sequence

from dragonflow.lab import system
from dragonflow.lab.vswitch import VSwitch

PHYSICAL_NETWORK = "physnet1"
"""What Neutron and the controllers call it."""

PHYSICAL_BRIDGE = "br-ex"
"""The bridge of each host that leads to it."""


class PhysicalNetwork:
    """A bridge of a running switch. Hosts are on trunks of it, which carry all tags."""

    def __init__(self, switch: VSwitch, bridge: str = PHYSICAL_NETWORK) -> None:
        self._switch, self.bridge = switch, bridge

    def up(self) -> None:
        """Make it."""
        _learning_bridge(self._switch, self.bridge)

    def join(self, link: str, netns: str, switch: VSwitch) -> None:
        """Give a host a bridge on it, which switches as any switch does. ``link`` names our end of the wire."""
        self._wire(link, netns, "physical")
        system.ip(netns, "link set physical up")
        _learning_bridge(switch, PHYSICAL_BRIDGE, "--", "add-port", PHYSICAL_BRIDGE, "physical")

    def add_peer(self, link: str, netns: str, addresses: Sequence[str], vlan: int | None = None) -> None:
        """Make a namespace for a machine with these addresses (with prefix lengths), in a VLAN, or where there are no tags."""
        system.netns_add(netns)
        system.sysctl(netns, {"net/ipv6/conf/default/accept_dad": "0", "net/ipv6/conf/all/accept_dad": "0"})
        self._wire(link, netns, "eth0", *(() if vlan is None else (f"tag={vlan}",)))
        system.ip(netns, "link set eth0 up", *(f"address add {it} dev eth0" for it in addresses))

    def _wire(self, link: str, netns: str, end: str, *settings: str) -> None:
        ours = self._switch.netns
        assert ours is not None
        # In one transaction with the next one Open vSwitch would go on listening to the interface that had the name before.
        self._switch.vsctl("--if-exists", "del-port", link)
        system.ip(ours, f"link add {link} type veth peer name {end} netns {netns}", f"link set {link} up")
        system.offload_off(ours, link)
        system.offload_off(netns, end)
        self._switch.vsctl("add-port", self.bridge, link, *settings)


def _learning_bridge(switch: VSwitch, name: str, *more: str) -> None:
    switch.vsctl("add-br", name, "--", "set", "Bridge", name, "datapath_type=netdev", "fail_mode=standalone", *more)
